"""Committees: what S of N keyed models, drawn anew for each query, make of attacked and of clean images."""

import functools
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from orchestrator.attacks.attack import Attack
from orchestrator.cluster.runner import Failed
from orchestrator.cluster.workplace import Workplace
from orchestrator.errors import DamagedArtifact
from orchestrator.models.committee import Committee
from orchestrator.models.ref import ModelRef
from orchestrator.pipeline.draws import draws_for
from orchestrator.pipeline.missing import missing
from orchestrator.pipeline.plan import Plan
from orchestrator.pipeline.pool import loader, run_units, stage_line
from orchestrator.pipeline.progress import Reporter
from orchestrator.report.summary import StageLine
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.catalogue import read_records
from orchestrator.store.parquet import read_exactly, told_as
from orchestrator.store.record import recipe_digest
from orchestrator.transfer.committee.findings import CommitteeFindings, read_committees
from orchestrator.transfer.committee.unit import CommitteeUnit
from orchestrator.transfer.committee.worker import COMMITTEE_FILE, COMMITTEE_SCHEMA, CommitteeWorker
from orchestrator.transfer.work import WorkUnit

COMMITTEES = "committees"


@dataclass(frozen=True)
class Committees:
    """The committees of a study whose attacks are done."""

    plan: Plan
    store: ArtifactStore
    wanted: Sequence[WorkUnit]
    """The attacks whose images count."""

    @functools.cached_property
    def planned(self) -> list[CommitteeUnit]:
        """Every unit of every committee, whether its images and models are there or not."""
        keyed = [unit.model for unit in self.plan.keyed if not unit.model.control]
        found = []
        for method in self.plan.study.methods:
            models = [model for model in keyed if model.method == method]
            for spec in self.plan.study.parsed_committees():
                found += [unit for committee in spec.of(models) for unit in self._units(committee)]
        return found

    @functools.cached_property
    def units(self) -> list[CommitteeUnit]:
        """Those that can be judged: all members are there, and so is the source or what was made on it."""
        there, kept = self.store.stamps("models"), self.store.stamps("adversarial")
        return [unit for unit in self.planned if _possible(unit, there, kept)]

    def run(self, workplace: Workplace, reporter: Reporter) -> list[Failed[Any]]:
        """Judge what has no record yet; what could not be done.

        Raises:
            StaleArtifact: recorded rows were made of other models, images or settings.
        """
        pending = missing(self.store, self.units, COMMITTEES, lambda unit: unit)
        worker = functools.partial(CommitteeWorker, self.store.uri, loader(self.plan))
        total = len(self.units)
        return run_units(COMMITTEES, total, pending, worker, workplace, reporter, lambda done: done.unit.id)

    def findings(self) -> CommitteeFindings | None:
        """What was judged by now; None where nothing was.

        Raises:
            DamagedArtifact: judged rows differ from their record.
        """
        judged = list(self._judged())
        # Seven sums and their trials in float64 take thrice what the five counts of a matrix's cell take.
        cells = 3 * sum(len(unit.work.ladder.threats) if unit.work else 1 for unit, _ in judged)
        return read_committees(judged, draws_for(cells)) if judged else None

    @property
    def line(self) -> StageLine:
        """How many units were judged, and what they took."""
        addresses = [unit.address for unit in self.units]
        return stage_line(COMMITTEES, read_records(self.store, COMMITTEES), addresses)

    @property
    def digest(self) -> str:
        """Of everything that findings rest on."""
        recorded = self.store.stamps(COMMITTEES)
        made = {unit.address: recipe_digest(unit.recipe) for unit in self.units if unit.address in recorded}
        return recipe_digest({"judged": made})

    @functools.cached_property
    def _fronts(self) -> list[WorkUnit]:
        """An attack unit for every attack, threat and shard that insiders climb, whatever its source."""
        attacks = self.plan.study.parsed_attacks()
        climbed = [unit for unit in self.wanted if is_climbed(attacks[unit.attack])]
        return list({(unit.attack, unit.ladder, unit.shard): unit for unit in climbed}.values())

    def _judged(self) -> Iterator[tuple[CommitteeUnit, pa.Table]]:
        records = read_records(self.store, COMMITTEES)
        for unit in self.units:
            if unit.address in records:
                content = self.store.read(unit.address, COMMITTEE_FILE, records[unit.address])
                with told_as(DamagedArtifact, f"{unit.address} is not judged rows", "Delete it and rerun."):
                    yield unit, read_exactly(content, COMMITTEE_SCHEMA)

    def _units(self, committee: Committee) -> Iterator[CommitteeUnit]:
        """Clean images; what was made on plain and on single keys; and what insiders make."""
        shown = dict.fromkeys((work.shard, work.shard_digest) for work in self.wanted)
        unit = functools.partial(CommitteeUnit, committee=committee, seed=self.plan.study.seed)
        for shard, digest in shown:
            yield unit(shard=shard, shard_digest=digest)
        works = [work for work in self.wanted if _tells(work, committee)]
        for insider in committee.insiders:
            works += [replace(front, source=insider, targets=()) for front in self._fronts]
        for work in works:
            yield unit(shard=work.shard, shard_digest=work.shard_digest, work=work)


def is_climbed(attack: Attack) -> bool:
    """Whether insiders attack so: by gradients, with no guess at what they hold already."""
    return attack.access == "gradients" and attack.needs <= {"vit"}


def _tells(unit: WorkUnit, committee: Committee) -> bool:
    """Whether a source is plain or a single key, of the committee or another attacker's own."""
    source = unit.source
    return isinstance(source, ModelRef) and (
        source.method == "plain" or (source.method == committee.method and not source.control)
    )


def _possible(unit: CommitteeUnit, there: Container[str], kept: Container[str]) -> bool:
    members = all(member.address in there for member in unit.committee.members)
    if unit.work is None or unit.inside:
        return members
    return members and unit.work.attack_unit.for_good in kept
