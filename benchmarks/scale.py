"""What a large study costs: devices kept busy, the driver's memory, requests to the store, resuming.

    python benchmarks/scale.py [--json scale.json] [--part pool|store] [--seconds 30] [--seed 0]

Two parts, each in a process of its own. ``pool``: units of known length on 1 to 32 logical GPUs of
fake nodes, and 10,000 short ones. ``store``: a small real study and 10,000 recorded units in Ceph
(packages radosgw, ceph-osd, ceph-mon). About ten minutes on two cores; a busy machine shows in the load.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TESTS = HERE.parent / "tests"
sys.path[:0] = [str(HERE), str(TESTS)]

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

AIMS = {"steady": 0.95, "grown": 0.10, "requests": 6.0, "resume": 5.0}


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """A Ray head whose autoscaler starts fake nodes; the environment that joins it."""
    from ray_head import RayHead
    from scale_pool import GPUS_A_NODE, SIZES

    nodes = {"resources": {"CPU": 1, "GPU": GPUS_A_NODE}, "max_workers": max(SIZES) // GPUS_A_NODE}
    # Nodes stay from one size to the next: how they come and go is the tests' affair.
    with RayHead({"gpu": nodes}, idle_seconds=3600.0) as head:
        yield head.environment


@contextmanager
def bucket() -> Iterator[dict[str, str]]:
    """Ceph in a folder of its own; the environment that uses it."""
    from ceph import PACKAGES, Ceph, missing

    if missing():
        raise SystemExit(f"no S3 server here ({', '.join(missing())}): apt-get install {PACKAGES}")
    with tempfile.TemporaryDirectory() as folder:
        server = Ceph(Path(folder)).start()
        try:
            yield {
                **os.environ,
                "AWS_ENDPOINT_URL": server.url,
                "AWS_ACCESS_KEY_ID": server.access,
                "AWS_SECRET_ACCESS_KEY": server.secret,
                "AWS_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
                "XDG_CACHE_HOME": f"{folder}/cache",
            }
        finally:
            server.stop()


PARTS = {"pool": cluster, "store": bucket}


def in_own_process(part: str, options: argparse.Namespace, environment: dict[str, str]) -> dict[str, Any]:
    """Measure one part in a fresh process."""
    command = [sys.executable, __file__, "--inside", part]
    command += ["--seconds", str(options.seconds), "--seed", str(options.seed)]
    before = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        subprocess.run([*command, "--json", str(out)], check=True, env=environment)
        return {**json.loads(out.read_text()), "load_before": before, "load_after": os.getloadavg()}


def inside(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one part here."""
    if part == "pool":
        import scale_pool

        return scale_pool.measure(options.seconds, options.seed)
    import scale_store

    with tempfile.TemporaryDirectory() as folder:
        return scale_store.measure(Path(folder))


def table(title: str, headings: list[str], rows: list[list[str]]) -> Table:
    """A table of measured values, the first column words."""
    made = Table(title=title)
    for place, heading in enumerate(headings):
        made.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return made


def show_pool(told: dict[str, Any]) -> Iterator[Table]:
    """The pool's tables."""
    yield table(
        f"devices kept busy, aim {AIMS['steady']:.0%} while all have work",
        ["logical GPUs", "units", "first unit, s", "all begun, s", "all have work", "first to last"],
        [
            [str(s["reached"]), str(s["units"]), f"{s['to_first_unit']:.1f}", f"{s['ramp']:.1f}",
             f"{s['steady']:.1%}", f"{s['whole']:.1%}"]
            for s in told["sizes"]
        ],
    )  # fmt: skip
    many = told["many"]
    megabytes = [f"{many[when] / 2**20:.0f}" for when in ("start", "middle", "end")]
    yield table(
        f"driver over {many['units']:,} units, aim below {AIMS['grown']:.0%} from middle to end",
        ["units/s", "driver CPU, ms a unit", "start, MiB", "middle, MiB", "end, MiB", "middle to end"],
        [
            [
                f"{many['units'] / many['wall']:.0f}",
                f"{many['cpu'] / many['units'] * 1000:.1f}",
                *megabytes,
                f"{many['grown']:+.1%}",
            ]
        ],
    )


def show_store(told: dict[str, Any]) -> Iterator[Table]:
    """The store's tables."""
    small = told["small"]
    for turn in ("made", "found done"):
        stages = small[turn]["stages"]
        rows = [[name, str(sum(calls.values())), calls_of(calls)] for name, calls in stages.items()]
        total = sum(sum(calls.values()) for calls in stages.values())
        rows.append(["whole", str(total), f"{total / small['units']:.1f} a unit"])
        yield table(
            f"requests of a study of {small['units']} units, {turn} in {small[turn]['wall']:.1f} s",
            ["stage", "requests", "of them"],
            rows,
        )
    attacks = sum(small["made"]["stages"]["attacks"].values()) / small["units"]
    turns = told["resuming"]
    yield table(
        f"attacks: {attacks:.1f} requests a unit, aim {AIMS['requests']:.0f}; a finished study of "
        f"{turns[0]['units']:,} units found done, aim {AIMS['resume']:.0f} s",
        ["run", "plan, s", "find, s", "count, s", "CPU, s", "RSS, MiB", "planned", "counted", "requests"],
        [
            [t["run"], *(f"{t[f'{step}_seconds']:.1f}" for step in ("plan", "find", "tally", "cpu")),
             *(f"{size / 2**20:.0f}" for size in t["held_bytes"]), calls_of(t["requests"])]
            for t in turns
        ],
    )  # fmt: skip


def calls_of(calls: dict[str, int]) -> str:
    """Requests by operation, in words."""
    return ", ".join(f"{number} {name}" for name, number in sorted(calls.items()))


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", choices=PARTS, help="this part alone")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long all slots are kept busy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inside", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        options.json.write_text(json.dumps(inside(options.inside, options)))
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # on a busy machine two threads of torch wait for each other
    os.environ["PYTHONPATH"] = f"{HERE}{os.pathsep}{TESTS}"  # Ray's workers look there too
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    result: dict[str, Any] = {"date": f"{datetime.date.today()}", "machine": machine}
    console = Console(width=None if sys.stdout.isatty() else 170)
    for part in [options.part] if options.part else PARTS:
        with PARTS[part]() as environment:
            result[part] = in_own_process(part, options, environment)
        for made in {"pool": show_pool, "store": show_store}[part](result[part]):
            console.print(made)
        console.print(f"load before {result[part]['load_before']}, after {result[part]['load_after']}")
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
