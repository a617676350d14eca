"""What orchestration costs: the whole digits job on Ray against the same calls in one plain process.

    python benchmarks/overhead.py [--repeats 3] [--json overhead.json]

Both sides run the same study with the same keys from an empty store, one after another on this
machine, each in a fresh process that has imported what it needs; Ray has started before its clock
does. The plain side makes the same training, attack and scoring calls one after another, with as
many threads as torch takes by default. The ratio is wall time on Ray over wall time plain.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from orchestrator.cluster.workplace import LocalWorkplace
from orchestrator.pipeline.so_far import SoFar
from orchestrator.pipeline.stages import StudyRun
from orchestrator.pipeline.standing import NOTHING, Used
from orchestrator.presets import digits
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.local import LocalStore

SIDES = ("plain", "ray")


class Stopwatch:
    """A reporter that keeps the wall time of every stage and says nothing."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        """Nothing."""

    @contextmanager
    def stage(self, name: str, total: int, done: int) -> Iterator["Stopwatch"]:
        """Time one stage."""
        del total, done
        began = time.monotonic()
        yield self
        self.seconds[name] = time.monotonic() - began

    def advance(self, told: str, used: Used = NOTHING) -> None:
        """Nothing."""

    tell = advance

    def fail(self) -> None:
        """Nothing."""

    def matrix(self, so_far: SoFar) -> None:
        """Nothing."""


def measure(side: str, root: Path) -> dict[str, object]:
    """Run the study on one side; its wall time, its stages, and what the work itself took."""
    store = LocalStore(root / side / "digits")
    study, watch = replace(digits(), controls=0), Stopwatch()
    with opened(side, store) as workplace:
        began = time.monotonic()
        ending = StudyRun(study, store, str(root / "vault"), workplace, watch).run()
        wall = time.monotonic() - began
    if ending.failures:
        raise SystemExit(f"{side}: {ending.failures[0].reason}")
    return {"wall": wall, "stages": watch.seconds, "work": work_seconds(store)}


@contextmanager
def opened(side: str, store: ArtifactStore) -> Iterator[object]:
    """The workplace of a side, started."""
    if side == "plain":
        yield LocalWorkplace()
        return
    from orchestrator.cluster.ray_workplace import RayWorkplace
    from orchestrator.cluster.session import joined

    with joined("local") as cluster:
        yield RayWorkplace(cluster, store.uri, workers_per_model=1, pack=0, actors=0)


def work_seconds(store: ArtifactStore) -> dict[str, float]:
    """Seconds inside training and inside attack units, summed over processes, by the records."""

    def total(prefix: str) -> float:
        return sum(store.record(a).provenance["seconds"] for a in store.addresses(prefix))

    return {"training": total("models"), "attacks": total("outcomes")}


def in_own_process(side: str, root: Path) -> dict[str, object]:
    """Measure one side in a fresh process."""
    command = [sys.executable, __file__, "--side", side, "--root", str(root)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(repeats: int) -> dict[str, object]:
    """Both sides in turn, ``repeats`` times; every run and the median ratio."""
    runs = []
    for number in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            order = SIDES if number % 2 == 0 else SIDES[::-1]
            runs.append({side: in_own_process(side, Path(folder)) for side in order})
    ratios = [run["ray"]["wall"] / run["plain"]["wall"] for run in runs]
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "load": os.getloadavg()}
    return {"ratio": median(ratios), "ratios": ratios, "runs": runs, "machine": machine}


def show(result: dict[str, object]) -> None:
    """Print where the time goes, for the run with the median ratio."""
    ratios = result["ratios"]
    run = result["runs"][ratios.index(sorted(ratios)[len(ratios) // 2])]
    table = Table(title=f"digits, N={digits().n_keys}: wall seconds by stage")
    for heading in ("stage", "plain", "Ray", "Ray − plain"):
        table.add_column(heading, justify="left" if heading == "stage" else "right", no_wrap=True)
    for stage in [*run["plain"]["stages"], "rest", "whole"]:
        plain, ray = (wall_of(run[side], stage) for side in SIDES)
        table.add_row(stage, f"{plain:.1f}", f"{ray:.1f}", f"{ray - plain:+.1f}")
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    for name, plain in run["plain"]["work"].items():
        ray = run["ray"]["work"][name]
        console.print(f"inside {name}: plain {plain:.1f} s, on Ray {ray:.1f} s over all processes")
    told = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    console.print(f"ratio Ray / plain: {result['ratio']:.2f} (runs: {told}); {result['machine']}")


def wall_of(side: dict[str, object], stage: str) -> float:
    """Wall seconds of a stage, of the whole, or of what lies between stages."""
    if stage == "whole":
        return side["wall"]
    if stage == "rest":
        return side["wall"] - sum(side["stages"].values())
    return side["stages"][stage]


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.root)))
        return
    result = compare(options.repeats)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
