"""What a study costs a bucket: requests a unit, and finding ten thousand units done.

Ceph on loopback is the server. Requests are counted where boto3 sends them, repeats included.
"""

import functools
import io
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator import aws
from orchestrator.cluster.workplace import LocalWorkplace
from orchestrator.keys.vault import VaultAt
from orchestrator.pipeline.plan import Images, Plan, make_plan
from orchestrator.pipeline.so_far import SoFar
from orchestrator.pipeline.stages import StudyRun
from orchestrator.pipeline.standing import NOTHING, Used
from orchestrator.pipeline.tally import tally
from orchestrator.presets import digits
from orchestrator.shards.shard import Shard
from orchestrator.shards.sources import Item
from orchestrator.store.artifacts import ArtifactStore, open_store
from orchestrator.store.bulk import in_order
from orchestrator.store.record import ArtifactRecord, FileEntry, library_versions
from orchestrator.study import Study
from orchestrator.transfer.outcomes import OUTCOME_SCHEMA
from orchestrator.transfer.work import WorkUnit, plan_units
from orchestrator.transfer.worker import OUTCOMES_FILE

BUCKET = "scale"
KEYS, SHARDS, ROWS = 24, 400, 2
_WRITERS = 16


class Counted:
    """Requests by operation since the phase last changed, kept by phase."""

    def __init__(self) -> None:
        self.phases: dict[str, Counter[str]] = {}
        self.phase = "before"
        aws.client("s3").meta.events.register("before-send.s3", self._sent)

    def _sent(self, event_name: str, **_: Any) -> None:
        self.phases.setdefault(self.phase, Counter())[event_name.rsplit(".", 1)[1]] += 1


class PhaseReporter:
    """A reporter that says nothing and tells the counter which stage it is."""

    def __init__(self, counted: Counted) -> None:
        self.counted = counted

    def say(self, text: str) -> None:
        """Nothing."""

    @contextmanager
    def stage(self, name: str, total: int, done: int) -> Iterator["PhaseReporter"]:
        """A stage; attacks begin, in one process, when the last model is made."""
        stage = PhaseReporter(self.counted)
        stage.left = total - done
        stage.name = name
        if name != "attacks":
            self.counted.phase = name
        yield stage
        self.counted.phase = "matrix and report" if name in ("attacks", "keyed models") else "between"

    def advance(self, told: str, used: Used = NOTHING) -> None:
        """Count down to the attacks."""
        del told, used
        self.left -= 1
        if self.name == "keyed models" and not self.left:
            self.counted.phase = "attacks"

    def tell(self, told: str, used: Used = NOTHING) -> None:
        """Nothing."""

    def fail(self) -> None:
        """Nothing."""

    def matrix(self, so_far: SoFar) -> None:
        """Nothing."""


def requests_of_a_study(root: Path) -> dict[str, Any]:
    """A small real study in this process, made and then found done: its requests by stage."""
    study = digits()
    short = {"epochs": 1, "warmup_epochs": 0.0}
    study = replace(
        study,
        n_keys=3,
        controls=0,
        base=replace(study.base, **short),
        recipe=replace(study.recipe, **short),
        shard_rows=15,
        attacks=("apgd-ce:steps=3",),
    )
    store = open_store(f"s3://{BUCKET}/small/{study.name}")
    told: dict[str, Any] = {}
    for turn in ("made", "found done"):
        counted = Counted()
        began = time.monotonic()
        run = StudyRun(study, store, str(root / "vault"), LocalWorkplace(), PhaseReporter(counted))
        if run.run().failures:
            raise SystemExit(f"the small study failed: {run.ending.failures[0].reason}")
        stages = {phase: dict(requests) for phase, requests in counted.phases.items()}
        told[turn] = {"wall": time.monotonic() - began, "stages": stages}
        aws.client("s3").meta.events.unregister("before-send.s3", counted._sent)
    told["units"] = sum(1 for _ in store.addresses("outcomes"))
    told["artifacts"] = sum(1 for _ in store.addresses(""))
    return told


def large_plan(store: ArtifactStore) -> Plan:
    """25 sources, 400 shards, one attack: 10,000 units, with the recipes of a real study."""
    study = replace(digits(), name="large", n_keys=KEYS, controls=0)
    images = Images(shards_of(study, "train", 4), shards_of(study, "eval", SHARDS))
    ids = [f"k-{slot:012x}" for slot in range(KEYS)]
    return make_plan(study, images, ids, store.uri, VaultAt("/nowhere"))


def shards_of(study: Study, split: Any, count: int) -> tuple[Shard, ...]:
    """Shards that are planned and never read."""
    return tuple(
        Shard(
            split=split,
            index=index,
            data="digits",
            items=tuple(Item("digits", index * ROWS + row, row) for row in range(ROWS)),
            image_size=study.architecture.image_size,
            crop_fraction=1.0,
            encoded=False,
        )
        for index in range(count)
    )


def commit_outcomes(store: ArtifactStore, unit: WorkUnit) -> bool:
    """Outcomes of a unit, as its worker would commit them; what they say is made up."""
    rows, epsilon = len(unit.targets) * ROWS, unit.ladder.threats[0].epsilon
    columns: dict[str, list[Any]] = {
        "image": [f"digits-{row:05d}" for row in range(ROWS)] * len(unit.targets),
        "source": [unit.source.name] * rows,
        "target": [target.name for target in unit.targets for _ in range(ROWS)],
        "method": ["full"] * rows,
        "attack": [unit.attack] * rows,
        "norm": [unit.ladder.norm] * rows,
        "epsilon": [epsilon] * rows,
        **{name: [row % 10 for row in range(rows)] for name in ("label", "clean_prediction")},
        "adversarial_prediction": [row % 7 for row in range(rows)],
        **{name: [True] * rows for name in ("source_fooled", "moved")},
        **{f"distance_{norm}": [epsilon] * rows for norm in ("linf", "l2", "l1")},
        **{name: [101] * rows for name in ("forwards", "backwards")},
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=OUTCOME_SCHEMA), sink, compression="zstd")
    content = sink.getvalue()
    record = ArtifactRecord(
        recipe=unit.recipe,
        files={OUTCOMES_FILE: FileEntry.of(content)},
        parents={model.address: model.digest for model in (*unit.source.members, *unit.targets)},
        provenance={
            **{"seconds": 1.0, "silent": 0, "unconfirmed": 0, "indicators": {}, "findings": {}},
            **{"device": "cpu", "versions": library_versions()},
        },
    )
    return store.commit(unit.address, record, {OUTCOMES_FILE: content})


def resuming(uri: str, name: str) -> dict[str, Any]:
    """Plan, find what is done and count it, as a rerun does: seconds, requests, bytes held."""
    store, held = open_store(uri), [psutil.Process().memory_info().rss]
    began = time.monotonic()
    plan = large_plan(store)
    addresses = {unit.address for unit in plan.units}
    planned = time.monotonic()
    held.append(psutil.Process().memory_info().rss)
    counted, computing = Counted(), time.process_time()
    units = plan_units(plan.units, store)
    found = time.monotonic()
    if units.pending:
        raise SystemExit(f"{len(units.pending)} of {len(addresses)} recorded units are not found")
    matrix = tally(store, units.scored)
    ended = time.monotonic()
    held.append(psutil.Process().memory_info().rss)
    return {
        "run": name,
        "units": len(addresses),
        "plan_seconds": planned - began,
        "find_seconds": found - planned,
        "tally_seconds": ended - found,
        "cpu_seconds": time.process_time() - computing,
        "requests": dict(sum(counted.phases.values(), Counter())),
        "cells": matrix.table.num_rows,
        "held_bytes": held,
    }


def measure(root: Path) -> dict[str, Any]:
    """The small study, then the large one."""
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    small = requests_of_a_study(root)
    store = open_store(f"s3://{BUCKET}/many/large")
    began = time.monotonic()
    units = large_plan(store).units
    list(in_order(functools.partial(commit_outcomes, store), units, _WRITERS))
    written = time.monotonic() - began
    # Each in a process of its own, as reruns are; the first finds no catalogue and no matrix.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as fresh:
        turns = [fresh.submit(resuming, store.uri, name).result() for name in ("first", "second", "third")]
    return {"small": small, "written": written, "resuming": turns}
