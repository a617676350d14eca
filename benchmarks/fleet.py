"""What a fleet of 10,000 keys costs the driver: planning its units, finding them done, counting outcomes.

    python benchmarks/fleet.py [--keys 10000] [--sources 32] [--shards 2] [--rows 50] [--json fleet.json]

Models are planned and never trained, outcomes are drawn and written as a worker writes them: one file for
each source and shard, with a row for every target and image. Each step is measured in a process of its own;
memory is the highest resident set of that process, with what it held before it began beside it.
"""

import argparse
import datetime
import io
import json
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from scale_store import shards_of

from orchestrator.keys.vault import VaultAt
from orchestrator.pipeline.plan import Images, Plan, make_plan
from orchestrator.pipeline.tally import tally
from orchestrator.presets import digits
from orchestrator.store.local import LocalStore
from orchestrator.store.record import ArtifactRecord, FileEntry, library_versions
from orchestrator.transfer.outcomes import OUTCOME_SCHEMA
from orchestrator.transfer.work import WorkUnit, plan_units
from orchestrator.transfer.worker import OUTCOMES_FILE

Told = dict[str, Any]


def planned(root: Path, options: argparse.Namespace) -> Plan:
    """The plan of the study."""
    study = replace(digits(), name="fleet", n_keys=options.keys)
    images = Images(shards_of(study, "train", 4), shards_of(study, "eval", options.shards))
    ids = [f"k-{slot:012x}" for slot in range(options.keys)]
    return make_plan(study, images, ids, LocalStore(root).uri, VaultAt("/nowhere"))


def attacked(plan: Plan, sources: int) -> list[WorkUnit]:
    """The units of plain and of the first so many keys."""
    names = {model.name for model in plan.models[: 1 + sources]}
    return [unit for unit in plan.units if unit.source.name in names]


def write(root: Path, options: argparse.Namespace) -> Told:
    """Outcomes of every attacked unit."""
    store, random = LocalStore(root), np.random.default_rng(options.seed)
    units = attacked(planned(root, options), options.sources)
    rows = sum(commit(store, unit, options.rows, random) for unit in units)
    size = sum(file.stat().st_size for file in root.rglob(OUTCOMES_FILE))
    return {"files": len(units), "rows": rows, "bytes": size}


def commit(store: LocalStore, unit: WorkUnit, images: int, random: np.random.Generator) -> int:
    """Outcomes of one unit; what they say is drawn."""
    rows = len(unit.targets) * images
    first = int(unit.shard.rsplit("/", 1)[1]) * images
    names = pa.array([f"val/n{place % 1000:05d}/{first + place:08d}.JPEG" for place in range(images)])
    places = np.tile(np.arange(images), len(unit.targets))
    methods = [t.method if t.method != "plain" else unit.source.method for t in unit.targets]
    of_target = np.repeat(np.arange(len(unit.targets)), images)
    fooled = random.random(rows) < 0.2
    columns: dict[str, Any] = {
        "image": names.take(pa.array(places)),
        "source": pa.array([unit.source.name]).take(pa.array(np.zeros(rows, int))),
        "target": pa.array([t.name for t in unit.targets]).take(pa.array(of_target)),
        "method": pa.array(methods).take(pa.array(of_target)),
        "attack": pa.array([unit.attack]).take(pa.array(np.zeros(rows, int))),
        "norm": pa.array([unit.ladder.norm]).take(pa.array(np.zeros(rows, int))),
        "epsilon": np.full(rows, unit.ladder.threats[0].epsilon),
        "label": places % 10,
        "clean_prediction": (places + (random.random(rows) < 0.15)) % 10,
        "adversarial_prediction": (places + fooled) % 10,
        "source_fooled": np.ones(rows, bool),
        "moved": np.ones(rows, bool),
        **{f"distance_{norm}": random.random(rows) for norm in ("linf", "l2", "l1")},
        **{name: np.full(rows, 101) for name in ("forwards", "backwards")},
    }
    sink = io.BytesIO()
    table = pa.table(columns).select(OUTCOME_SCHEMA.names).cast(OUTCOME_SCHEMA)
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue()
    record = ArtifactRecord(
        recipe=unit.recipe,
        files={OUTCOMES_FILE: FileEntry.of(content)},
        parents={model.address: model.digest for model in (*unit.source.members, *unit.targets)},
        provenance={"seconds": 1.0, "device": "cpu", "versions": library_versions()},
    )
    store.commit(unit.address, record, {OUTCOMES_FILE: content})
    return rows


def count(root: Path, options: argparse.Namespace) -> Told:
    """Plan, find everything done, and count it."""
    steps = Steps()
    with_plan = steps.timed("plan", lambda: planned(root, options))
    units = steps.timed("choose", lambda: attacked(with_plan, options.sources))
    found = steps.timed("find", lambda: plan_units(units, LocalStore(root)))
    if found.pending:
        raise SystemExit(f"{len(found.pending)} recorded units are not found")
    matrix = steps.timed("count", lambda: tally(LocalStore(root), found.scored))
    return {
        **steps.told,
        "cells": matrix.table.num_rows,
        "draws": 0 if matrix.draws is None else matrix.draws.shape[2],
        "images": options.shards * options.rows,
    }


class Steps:
    """Seconds of steps, and the highest resident set after each."""

    def __init__(self) -> None:
        self.told: Told = {"before_bytes": peak()}

    def timed(self, name: str, step: Callable[[], Any]) -> Any:
        """What the step gives."""
        began = time.monotonic()
        made = step()
        self.told[f"{name}_seconds"] = time.monotonic() - began
        self.told[f"{name}_bytes"] = peak()
        return made


def peak() -> int:
    """The highest resident set of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def shown(told: Told) -> Iterator[str]:
    """The table's cells."""
    for step in ("plan", "find", "count"):
        yield f"{told[f'{step}_seconds']:.1f}"
    for step in ("before", "plan", "find", "count"):
        yield f"{told[f'{step}_bytes'] / 2**20:.0f}"


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--sources", type=int, default=32, help="keys attacked, beside plain")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--rows", type=int, default=50, help="images a shard")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    result: Told = {"date": f"{datetime.date.today()}", "machine": machine, "load": os.getloadavg()}
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as fresh,
    ):
        result["written"] = fresh.submit(write, Path(folder) / "fleet", options).result()
        turns = [("first", count), ("again", count)]
        result["runs"] = {
            name: fresh.submit(turn, Path(folder) / "fleet", options).result() for name, turn in turns
        }
    rows, first = result["written"]["rows"], result["runs"]["first"]
    result["rows_per_second"] = rows / first["count_seconds"]
    told = Table(
        title=f"{options.keys:,} keys from {options.sources} sources and plain: {rows:,} rows in "
        f"{result['written']['files']} files, {first['cells']:,} cells, {first['draws']} draws, "
        f"{result['rows_per_second']:,.0f} rows/s"
    )
    headings = ("run", "plan, s", "find, s", "count, s", "before, MiB", "planned", "found", "counted")
    for heading in headings:
        told.add_column(heading, justify="left" if heading == "run" else "right", no_wrap=True)
    for name, run in result["runs"].items():
        told.add_row(name, *shown(run))
    Console(width=None if sys.stdout.isatty() else 140).print(told)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
