"""look(): the state of a study from its store alone: no vault, no data, no Ray, no GPU."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from orchestrator.errors import DamagedArtifact, NotCommitted, OrchestratorError, StaleArtifact, StudyError
from orchestrator.models.ref import ModelRef
from orchestrator.pipeline.alignments import ALIGNMENT, plan_alignment
from orchestrator.pipeline.asked import asked_study, recall_plan
from orchestrator.pipeline.committees import COMMITTEES, Committees
from orchestrator.pipeline.guards import Guards
from orchestrator.pipeline.plan import Plan
from orchestrator.pipeline.rounds import Rounds
from orchestrator.pipeline.so_far import PanelSoFar
from orchestrator.pipeline.write_up import REPORT
from orchestrator.status.counted import count_so_far
from orchestrator.status.state import Kind, Shelf, StageState, StudyState
from orchestrator.store.artifacts import ArtifactStore, open_store
from orchestrator.store.catalogue import read_records
from orchestrator.store.record import ArtifactRecord
from orchestrator.store.snapshot import Snapshot
from orchestrator.store.uri import below
from orchestrator.study import Study
from orchestrator.transfer.work import UnitPlan, WorkUnit

_STAGES = ("keys", "shards", "models", "outcomes", ALIGNMENT, "detectors", "guarded", COMMITTEES)
_STUDY = re.compile(r"([^/]+)/study")


def names_below(store: str) -> list[str]:
    """The names of the studies in a store, sorted."""
    found = (_STUDY.fullmatch(address) for address in open_store(store).addresses(""))
    return [match[1] for match in found if match]


class Watch:
    """Looks at one study, again and again; a record that stays as it is is read once."""

    def __init__(self, store: str, name: str) -> None:
        self.name = name
        self.store: ArtifactStore = Snapshot(open_store(below(store, name)))

    def look(self, now: float, *, matrix: bool = True) -> StudyState:
        """The state of the study.

        Args:
            now: seconds since the epoch.
            matrix: whether the matrix so far is counted.

        Raises:
            StudyError: no study was begun there.
            StoreError: the store cannot be read. What is damaged in it is told in the state's note.
        """
        times = self.store.times("")
        if "study" not in times:
            asked_study(self.store)  # says so
        records: dict[str, ArtifactRecord] = {}
        shelf = Shelf(records, times, now)
        try:
            for prefix in _STAGES:
                records |= read_records(self.store, prefix)
            plan = recall_plan(self.store)
            rounds = Rounds(plan, self.store)
            units = rounds.reach(plan.units)
        except (StudyError, StaleArtifact, DamagedArtifact) as error:
            return self._in_part(shelf, error)
        stages = [*_begun(plan.study, shelf, len(plan.shards)), *_models(plan, shelf)]
        wanted = rounds.wanted(plan.units)
        stages += _attacks(wanted, units, shelf)
        stages += self._sequels(plan, wanted, shelf)
        panels, counted = self._counted(plan, units) if matrix else ([], "")
        return StudyState(
            name=self.name,
            stages=stages,
            last=shelf.last,
            quiet=shelf.quiet,
            under_way=[*_in_training(plan, shelf), *_attacked_early(units, shelf)],
            failed=self._failed(),
            panels=panels,
            counted=counted,
        )

    def _sequels(self, plan: Plan, wanted: Sequence[WorkUnit], shelf: Shelf) -> Iterable[StageState]:
        if plan.study.gradients:
            aligned = [unit.address for unit in plan_alignment(plan.study.methods, plan.models, wanted)]
            yield shelf.stage("gradients", "attack", aligned, len(aligned))
        if plan.study.detect:
            yield from _detectors(Guards(plan, self.store, wanted), shelf)
        if plan.study.committees:
            planned = [each.address for each in Committees(plan, self.store, wanted).planned]
            yield shelf.stage(COMMITTEES, "attack", planned, len(planned))

    def _counted(self, plan: Plan, units: UnitPlan) -> tuple[Sequence[PanelSoFar], str]:
        try:
            so_far, counted = count_so_far(self.store, plan.models, units.scored)
        except DamagedArtifact as error:
            return [], str(error)
        return so_far.panels, counted

    def _in_part(self, shelf: Shelf, why: OrchestratorError) -> StudyState:
        """What can be said of a study whose plan is not known: what is there."""
        try:
            study, counts = asked_study(self.store)
        except StudyError:
            note = (
                "It was begun by a version that did not record what was asked, so what is to do "
                "is not known. Its own command, run once more, records it."
            )
            stages = [_all_of(shelf, "keys", "begin"), _all_of(shelf, "shards", "begin")]
        except DamagedArtifact as error:
            note, stages = str(error), [_all_of(shelf, "keys", "begin"), _all_of(shelf, "shards", "begin")]
        else:
            note, stages = str(why), list(_begun(study, shelf, sum(counts.values())))
        stages += [_all_of(shelf, "models", "model"), _all_of(shelf, "outcomes", "attack")]
        return StudyState(
            name=self.name,
            stages=stages,
            last=shelf.last,
            quiet=shelf.quiet,
            note=note,
            failed=self._failed(),
        )

    def _failed(self) -> list[str]:
        try:
            notes = self.store.record(REPORT).recipe.get("notes", [])
        except NotCommitted:
            return []
        return [str(note) for note in notes if " could not be done: " in str(note)]


def _all_of(shelf: Shelf, prefix: str, kind: Kind) -> StageState:
    return shelf.stage(prefix, kind, _below(shelf, prefix), None)


def _below(shelf: Shelf, prefix: str) -> list[str]:
    return [address for address in shelf.records if address.startswith(f"{prefix}/")]


def _begun(study: Study, shelf: Shelf, shards: int) -> Iterable[StageState]:
    # A study that had more keys or images before has more than is asked for.
    yield shelf.stage("keys", "begin", _below(shelf, "keys")[: study.n_keys], study.n_keys)
    yield shelf.stage("shards", "begin", _below(shelf, "shards")[:shards], shards)


def _models(plan: Plan, shelf: Shelf) -> Iterable[StageState]:
    """The plain model, then by method the keyed models and the controls."""
    groups: dict[str, list[ModelRef]] = {}
    for model in plan.models:
        kind = "controls" if model.control else "models"
        name = "plain model" if model.method == "plain" else f"{model.method} {kind}"
        groups.setdefault(name, []).append(model)
    for name, models in groups.items():
        yield shelf.stage(name, "model", [model.address for model in models], len(models))


def _attacks(asked: Sequence[WorkUnit], units: UnitPlan, shelf: Shelf) -> Iterable[StageState]:
    wanted = Counter(unit.attack for unit in asked)
    pending = Counter(unit.attack for unit in units.pending)
    scored: dict[str, dict[str, None]] = {}
    for each in units.scored:
        scored.setdefault(each.record.recipe["attack"], {})[each.address] = None
    for attack, total in wanted.items():
        yield shelf.stage(attack, "attack", scored.get(attack, ()), total, total - pending[attack])


def _detectors(guards: Guards, shelf: Shelf) -> Iterable[StageState]:
    """Detectors, and what they were shown; before any image is kept it is not known how much that is."""
    keyed = [unit for unit in guards.plan.keyed if not unit.model.control]
    yield shelf.stage("detectors", "attack", [unit.bank.address for unit in guards.units], len(keyed))
    held = [unit.address(sitting) for unit in guards.units for sitting in unit.sittings]
    yield shelf.stage("images shown to detectors", "attack", held, len(held) if held else None)


def _in_training(plan: Plan, shelf: Shelf) -> Iterable[str]:
    """Models with a checkpoint and no weights yet."""
    epochs: dict[str, int] = {}
    for address in shelf.times:
        if address.startswith("checkpoints/"):
            _, label, done = address.split("/")
            epochs[label] = max(epochs.get(label, 0), int(done))
    for model in plan.models:
        if model.label in epochs and model.address not in shelf.records:
            every = plan.study.recipe_of(model.method).epochs
            yield f"{model.label}: {epochs[model.label]} of {every} epochs"


def _attacked_early(units: UnitPlan, shelf: Shelf) -> Sequence[str]:
    waiting = sum(unit.attack_unit.address in shelf.times for unit in units.pending)
    return [f"{waiting} attacks made, to be scored once their targets are trained"] if waiting else []
