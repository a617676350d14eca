"""Guards: a detector for every key's model, tried on what was made on every source."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from orchestrator.cluster.runner import Failed, Finished
from orchestrator.cluster.workplace import Workplace
from orchestrator.detection.guard.findings import DetectionFindings
from orchestrator.detection.guard.judged import JUDGED_SCHEMA
from orchestrator.detection.guard.readings import Judged, read_judged
from orchestrator.detection.guard.unit import GuardUnit, Sitting
from orchestrator.detection.guard.worker import JUDGED_FILE, GuardWorker
from orchestrator.detection.recipe import BankRecipe
from orchestrator.errors import DamagedArtifact, StudyError
from orchestrator.models.ref import PLAIN, ModelRef
from orchestrator.pipeline.asked import recall_plan
from orchestrator.pipeline.draws import draws_for, table_bytes
from orchestrator.pipeline.plan import Plan
from orchestrator.pipeline.pool import loader, run_units
from orchestrator.pipeline.progress import Reporter
from orchestrator.pipeline.tally import is_committed, replace_artifact
from orchestrator.report.summary import StageLine
from orchestrator.shards.shard import Shard
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.catalogue import read_records
from orchestrator.store.parquet import read_exactly, told_as
from orchestrator.store.record import ArtifactRecord, recipe_digest
from orchestrator.transfer.work import WorkUnit

DETECTION, DETECTION_FILE = "detection", "detection.parquet"
_HARMLESS = "clean"


@dataclass(frozen=True)
class Guards:
    """The detectors of a study whose attacks are done."""

    plan: Plan
    store: ArtifactStore
    wanted: Sequence[WorkUnit]
    """The attacks whose images count, where they were kept."""

    @functools.cached_property
    def units(self) -> list[GuardUnit]:
        """A unit for every key's model that is there, with all its sittings."""
        there, kept = self.store.stamps("models"), self.store.stamps("adversarial")
        keyed = [unit.model for unit in self.plan.keyed if not unit.model.control]
        shown = [unit for unit in self.wanted if unit.attack_unit.for_good in kept]
        units = [self._unit(model, shown) for model in keyed if model.address in there]
        return [unit for unit in units if unit.fitted]

    def run(self, workplace: Workplace, reporter: Reporter) -> list[Failed[Any]]:
        """Hold every sitting that has no record yet; what could not be done."""
        recorded = self.store.stamps("guarded")
        left = {
            unit.id: tuple(each for each in unit.sittings if unit.address(each) not in recorded)
            for unit in self.units
        }
        pending = [replace(unit, sittings=left[unit.id]) for unit in self.units if left[unit.id]]
        worker = functools.partial(GuardWorker, self.store.uri, loader(self.plan))
        if not self.units:
            told = ", ".join(self.plan.study.fitted_on)
            reporter.say(f"no detector: of {told}, no images that were made on a key or on plain are kept")
        return run_units("detectors", len(self.units), pending, worker, workplace, reporter, _told)

    def findings(self) -> DetectionFindings | None:
        """What was judged by now; None where nothing was.

        Raises:
            DamagedArtifact: judged rows differ from their record.
        """
        records, banks = read_records(self.store, "guarded"), read_records(self.store, "detectors")
        judged: dict[bool, list[pa.Table]] = {True: [], False: []}
        for unit in self.units:
            for sitting in unit.sittings:
                address = unit.address(sitting)
                if address in records:
                    judged[not sitting.shown].append(self._rows(address, records[address]))
        if not judged[False]:
            return None
        return read_judged(
            Judged(
                harmless=pa.concat_tables(judged[True] or [JUDGED_SCHEMA.empty_table()]),
                attacked=pa.concat_tables(judged[False]),
                fitted_on=self.plan.study.fitted_on,
                # A model that cannot be watched has none, and the others are told all the same.
                images=_images(banks[b] for b in (u.bank.address for u in self.units) if b in banks),
                notes=dict(_notes(self.units, banks)),
                draws=draws_for(4 * _cells(judged[False])),
            )
        )

    def record(self, found: DetectionFindings) -> None:
        """Commit the detection matrix, in place of what fewer images gave."""
        recipe = {"judged": self.digest}
        if not is_committed(self.store, DETECTION, recipe):
            files = {DETECTION_FILE: table_bytes(found.matrix.table)}
            replace_artifact(self.store, DETECTION, recipe, files, {})

    @property
    def line(self) -> StageLine:
        """How many detectors there are, and what they and their sittings took."""
        banks, judged = (read_records(self.store, prefix) for prefix in ("detectors", "guarded"))
        fitted = [unit.bank.address for unit in self.units if unit.bank.address in banks]
        held = [unit.address(each) for unit in self.units for each in unit.sittings]
        seconds = [banks[address].told("seconds", float, address) for address in fitted]
        seconds += [judged[each].told("seconds", float, each) for each in held if each in judged]
        return StageLine(name="detectors", artifacts=len(fitted), seconds=sum(seconds))

    @property
    def digest(self) -> str:
        """Of everything that findings rest on."""
        recorded = self.store.stamps("guarded")
        addresses = [unit.address(each) for unit in self.units for each in unit.sittings]
        return recipe_digest({"judged": [address for address in addresses if address in recorded]})

    def _unit(self, model: ModelRef, shown: Sequence[WorkUnit]) -> GuardUnit:
        study = self.plan.study
        classes = study.architecture.classes
        met = [unit for unit in shown if model in unit.targets]
        own = [unit for unit in met if unit.source.label in (PLAIN, model.label)]
        by_source: dict[str, dict[str, str]] = {}
        for unit in met:
            by_source.setdefault(unit.source.label, {}).update(_kept([unit]))
        threats = dict.fromkeys(threat for unit in met for threat in unit.ladder.threats)
        harmless = Sitting(_HARMLESS, {}, tuple(sorted(threats, key=str)))
        return GuardUnit(
            model=model,
            settings=study.detector,
            classes=classes,
            seed=study.seed,
            clean=_digests(self.plan.eval_shards),
            training=_digests(self.plan.train_shards) if study.detector.training_images else {},
            share=study.detector.training_share(_images_of(self.plan.train_shards), classes),
            # Of a device's owner: what fools its own model, and the undefended one; no other key's.
            fitted=_kept([unit for unit in own if unit.attack in study.fitted_on]),
            sittings=(harmless, *(Sitting(source, images) for source, images in by_source.items())),
        )

    def _rows(self, address: str, record: ArtifactRecord) -> pa.Table:
        content = self.store.read(address, JUDGED_FILE, record)
        with told_as(DamagedArtifact, f"{address} is not judged rows", "Delete it and rerun."):
            return read_exactly(content, JUDGED_SCHEMA)


def recall_guards(store: ArtifactStore, settings: BankRecipe, fit_on: Sequence[str]) -> Guards:
    """Detectors for a study as its store knows it, whatever it asked for itself.

    Raises:
        StudyError: no study was begun there, or no images were kept that detectors could be fitted on.
    """
    plan = recall_plan(store)
    study = replace(plan.study, detect=True, detector=settings, fit_on=tuple(fit_on))
    guards = Guards(replace(plan, study=study), store, plan.units)
    if not guards.units:
        raise StudyError(
            f"Images of {', '.join(study.fitted_on)} are not kept in {store.uri}. Run the study with "
            "--keep-images, or choose another attack to fit on."
        )
    return guards


def _told(done: Finished[GuardUnit]) -> str:
    return f"{done.unit.id}, {done.account.sittings} sources"


def _digests(shards: Sequence[Shard]) -> dict[str, str]:
    return {shard.address: recipe_digest(shard.recipe) for shard in shards}


def _images_of(shards: Sequence[Shard]) -> int:
    return sum(len(shard.items) for shard in shards)


def _kept(units: Sequence[WorkUnit]) -> dict[str, str]:
    return {unit.attack_unit.for_good: recipe_digest(unit.attack_recipe) for unit in units}


def _cells(tables: Sequence[pa.Table]) -> int:
    """How many cells the judged rows have at most."""
    columns = ("attack", "norm", "epsilon", "source", "target", "method")
    return sum(table.select(columns).group_by(list(columns)).aggregate([]).num_rows for table in tables)


def _images(banks: Iterator[ArtifactRecord]) -> Mapping[str, int]:
    return next((dict(record.provenance.get("images", {})) for record in banks), {})


def _notes(
    units: Sequence[GuardUnit], banks: Mapping[str, ArtifactRecord]
) -> Iterator[tuple[str, Mapping[str, str]]]:
    for unit in units:
        record = banks.get(unit.bank.address)
        if record is not None and record.provenance.get("notes"):
            yield unit.model.label, record.told("notes", dict, unit.bank.address)
