"""A soak: one study after another through storms of faults, each compared with one left alone.

    python benchmarks/soak.py --minutes 30 --seed 1 [--json soak.json]

Each storm begins the same study in a place of its own, on a Ray cluster with a head and two further
nodes, against Ceph behind a fault proxy, all on this machine. Faults are drawn by the seed: which, when
(as a share of an undisturbed run) and for how long; what they hit depends on timing. A driver that
was killed or that ended otherwise than well is started again with the same command. After the storm the
same command runs undisturbed to the end, and once more; then the study and its surroundings are searched
for whatever is not as if nothing had happened. Needs Ceph's packages; as root, a small disk is filled too.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# The parts that make weather are those of the tests.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from aftermath import Reference, flaws, redone
from storm import KINDS, Calm, Storm, plans
from study_site import Driver, Site

from ceph import PACKAGES, missing


def soak(site: Site, minutes: float, seed: int, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Storm after storm; ``keep`` gets all results after each."""
    until = time.monotonic() + minutes * 60
    left_alone, seconds = whole_run(site, "calm")
    calm, reference = Calm(seconds, len(site.proxy.seen())), Reference.of(left_alone)
    result: dict[str, Any] = {"seed": seed, "calm": asdict(calm), "flaws": flaws(left_alone, reference)}
    result |= {"load": os.getloadavg(), "storms": []}
    keep(result)
    kinds = [kind for kind in KINDS if kind != "disk full" or site.small_disk]
    for number, plan in enumerate(plans(seed, kinds)):
        if time.monotonic() > until:
            break
        storm = Storm(site, site.driver(f"storm-{number}"), calm, list(plan))
        result["storms"].append({"plan": [asdict(strike) for strike in plan], **ridden(storm, reference)})
        result["load"] = os.getloadavg()
        keep(result)
        print(f"storm {number}: {json.dumps(result['storms'][-1])}", flush=True)
    result["calm_after_seconds"] = whole_run(site, "calm-after")[1]
    keep(result)
    return result


def whole_run(site: Site, name: str) -> tuple[Driver, float]:
    """A study made undisturbed, and the seconds it took."""
    began, driver = time.monotonic(), site.driver(name)
    driver.start().finish()
    return driver, time.monotonic() - began


def ridden(storm: Storm, reference: Reference) -> dict[str, Any]:
    """Let a storm rage; what it came to."""
    site, found = storm.site, list[str]()
    site.proxy.seen()
    try:
        storm.rage()
        found += flaws(storm.driver, reference)
    except Exception as error:  # whatever it is, it is a flaw of this storm and not the end of the soak
        found.append(f"{type(error).__name__}: {str(error)[-2000:]}")
        storm.give_up()
    seen = site.proxy.seen()
    return {
        "struck": dict(storm.struck),
        "missed": [strike.kind for strike in storm.waiting],
        "drivers": storm.driver.starts - 1,
        "endings": storm.endings,
        "seconds": storm.seconds,
        "again_seconds": storm.again_seconds,
        "redone": redone(seen),
        "requests": len(seen),
        "disturbed": Counter(action for request in seen for action in request.actions),
        "flaws": found,
    }


def show(result: dict[str, Any]) -> None:
    """Print a row for every storm, and how often every kind of fault struck."""
    undisturbed = result["calm"]["seconds"]
    after = result.get("calm_after_seconds", undisturbed)
    alone = f"undisturbed: {undisturbed:.0f} s before, {after:.0f} s after"
    table = Table(title=f"storms by seed {result['seed']}; {alone}")
    headings = "storm", "faults", "requests", "drivers", "exits", "redone", "seconds", "times", "flaws"
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("faults", "exits") else "right")
    for number, storm in enumerate(result["storms"]):
        faults = ", ".join(storm["struck"])
        exits = " ".join(str(status) for status, *_ in storm["endings"])
        hit, slower = sum(storm["disturbed"].values()), storm["seconds"] / undisturbed
        counts = (f"{storm['seconds']:.0f}", f"{slower:.1f}", str(len(storm["flaws"])))
        begun = (str(hit), str(storm["drivers"]), exits, str(storm["redone"]))
        table.add_row(str(number), faults, *begun, *counts)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    struck = sum((Counter(storm["struck"]) for storm in result["storms"]), Counter[str]())
    told = ", ".join(f"{kind} {count}" for kind, count in sorted(struck.items()))
    console.print(f"{struck.total()} faults: {told}; requests in the table are those disturbed")
    for number, storm in enumerate(result["storms"]):
        for flaw in storm["flaws"]:
            console.print(f"storm {number}: {flaw}", style="red")


def main() -> int:
    """Soak, print, and write JSON after every storm where asked; 1 if anything was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if missing():
        raise SystemExit(f"no S3 server here ({', '.join(missing())}): apt-get install {PACKAGES}")

    def keep(result: dict[str, Any]) -> None:
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n")

    # So that what was started ends, too, where a soak is told to.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    site = Site(options.seed)
    os.environ.update({**site.ambient, "AWS_ENDPOINT_URL": site.ceph.url})
    try:
        result = soak(site.start(), options.minutes, options.seed, keep)
    finally:
        site.stop()
    show(result)
    return int(bool(result["flaws"] or any(storm["flaws"] for storm in result["storms"])))


if __name__ == "__main__":
    sys.exit(main())
