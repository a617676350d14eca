"""Alignments: how far the input gradients of a study's models point the same way, once they are trained."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from orchestrator.cluster.runner import Failed, Finished
from orchestrator.cluster.workplace import Workplace
from orchestrator.errors import DamagedArtifact
from orchestrator.models.ref import PLAIN, Method, ModelRef
from orchestrator.pipeline.draws import draws_for
from orchestrator.pipeline.missing import missing
from orchestrator.pipeline.plan import Plan
from orchestrator.pipeline.pool import loader, run_units, stage_line
from orchestrator.pipeline.progress import Reporter
from orchestrator.report.summary import StageLine
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.catalogue import read_records
from orchestrator.store.parquet import stream_exactly, told_as
from orchestrator.store.record import ArtifactRecord, recipe_digest
from orchestrator.transfer.alignment.measured import Alignment, add_up
from orchestrator.transfer.alignment.unit import COSINES_FILE, AlignmentUnit
from orchestrator.transfer.alignment.worker import AlignmentWorker
from orchestrator.transfer.work import WorkUnit

ALIGNMENT, STAGE = "alignment", "gradients"


def plan_alignment(
    methods: Sequence[Method], models: Sequence[ModelRef], wanted: Sequence[WorkUnit]
) -> list[AlignmentUnit]:
    """A unit for every method and shard: each has all models of the method, so that no gradient is kept."""
    shards = {unit.shard: unit.shard_digest for unit in wanted}
    return [
        AlignmentUnit(
            method=method,
            models=tuple(model for model in models if model.method in (PLAIN, method)),
            shard=shard,
            shard_digest=digest,
        )
        for method in methods
        for shard, digest in sorted(shards.items())
    ]


@dataclass(frozen=True)
class Alignments:
    """The alignments of a study whose models are there."""

    plan: Plan
    store: ArtifactStore
    wanted: Sequence[WorkUnit]
    """The attacks that count: gradients are taken at the same images, clean."""

    @functools.cached_property
    def units(self) -> list[AlignmentUnit]:
        """Those of the models that are there."""
        there = self.store.stamps("models")
        models = [model for model in self.plan.models if model.address in there]
        return plan_alignment(self.plan.study.methods, models, self.wanted)

    def run(self, workplace: Workplace, reporter: Reporter) -> list[Failed[Any]]:
        """Measure what has no record yet; what could not be done."""
        pending = missing(self.store, self.units, ALIGNMENT, lambda unit: unit)
        worker = functools.partial(AlignmentWorker, self.store.uri, loader(self.plan))
        return run_units(STAGE, len(self.units), pending, worker, workplace, reporter, _told)

    def findings(self) -> list[Alignment]:
        """What was measured by now, by method; nothing of a method that nothing was measured of.

        Raises:
            DamagedArtifact: cosines differ from their record, or are none.
        """
        records, found = read_records(self.store, ALIGNMENT), []
        for method in self.plan.study.methods:
            done = [unit for unit in self.units if unit.method == method and unit.address in records]
            if done:
                found.append(self._of(method, done, records))
        return found

    @property
    def line(self) -> StageLine:
        """How many units there are, and what they took."""
        addresses = [unit.address for unit in self.units]
        return stage_line(STAGE, read_records(self.store, ALIGNMENT), addresses)

    @property
    def digest(self) -> str:
        """Of everything that findings rest on."""
        recorded = self.store.stamps(ALIGNMENT)
        done = [unit.address for unit in self.units if unit.address in recorded]
        return recipe_digest({"alignment": done})

    def _of(
        self, method: Method, done: Sequence[AlignmentUnit], records: dict[str, ArtifactRecord]
    ) -> Alignment:
        first = done[0]
        draws = draws_for(2 * len(first.pairs))
        rows = (batch for unit in done for batch in self._rows(unit, records[unit.address]))
        with told_as(DamagedArtifact, f"{ALIGNMENT}/{method} is not cosines", "Delete it and rerun."):
            return add_up(first, rows, draws)

    def _rows(self, unit: AlignmentUnit, record: ArtifactRecord) -> Iterator[pa.RecordBatch]:
        content = self.store.read(unit.address, COSINES_FILE, record)
        yield from stream_exactly(content, unit.schema, unit.schema.names)


def _told(done: Finished[AlignmentUnit]) -> str:
    return f"{done.unit.id}, {done.account.models} models on {done.account.images} images"
