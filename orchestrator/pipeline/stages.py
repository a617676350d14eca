"""The stages of a study, in order; each makes what has no record yet and goes on past single failures."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from typing_extensions import TypeIs

from orchestrator.cluster.runner import Failed, Finished, Listed, LocalRunner, MakeWorker
from orchestrator.cluster.workplace import Trained, Workplace
from orchestrator.errors import StudyError
from orchestrator.models.lora_batch import load_lora_batch
from orchestrator.models.ref import ModelRef
from orchestrator.models.stored import load_model
from orchestrator.pipeline.agenda import Agenda, AttackAccount, AttackWork
from orchestrator.pipeline.plain import import_plain
from orchestrator.pipeline.plan import Plan, make_plan, plan_images
from orchestrator.pipeline.progress import Reporter, Stage
from orchestrator.pipeline.roster import check_apart, ensure_keys
from orchestrator.pipeline.tally import tally
from orchestrator.pipeline.write_up import write_up
from orchestrator.shards.shard import Shard, ShardWorker
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.catalogue import read_records
from orchestrator.store.record import ArtifactRecord, recipe_digest
from orchestrator.store.verify import stale
from orchestrator.study import Study
from orchestrator.training.checkpoint import drop_checkpoints
from orchestrator.training.finetune import EpochLine, TrainingUnit
from orchestrator.transfer.matrix import TransferMatrix
from orchestrator.transfer.moved import kept_moved
from orchestrator.transfer.work import AttackUnit, Scored, WorkUnit, plan_units
from orchestrator.transfer.worker import TransferWorker

T = TypeVar("T")
# Up to this many shards an actor's start (six seconds of imports) costs more than it saves.
_SHARDS_HERE = 32


class _HasRecipe(Protocol):
    """An artifact that is to be made."""

    @property
    def address(self) -> str: ...

    @property
    def recipe(self) -> Mapping[str, Any]: ...


@dataclass
class Ending:
    """How a run ended: where the report is, and what could not be done."""

    report: str = ""
    """Where index.html is; empty where nothing could be attacked."""
    failures: list[Failed[Any]] = field(default_factory=list)


@dataclass
class StudyRun:
    """One run of a study at a workplace; ``run`` is the whole pipeline."""

    study: Study
    store: ArtifactStore
    vault_uri: str
    workplace: Workplace
    reporter: Reporter
    attacking: Mapping[str, bool] = field(default_factory=dict)
    """Options of the attacks' workers; none of them changes an answer."""
    ending: Ending = field(default_factory=Ending)

    def run(self) -> Ending:
        """Keys, shards, plain model, keyed models, outcomes, matrix, report."""
        self.study.architecture.build()  # refuses here what every later stage would stumble over
        check_apart(self.store.uri, self.vault_uri)
        images = plan_images(self.study)
        # Only now is anything written: what could be refused has been.
        self._begin()
        key_ids = ensure_keys(self.study, self.store, self.vault_uri)
        with self.workplace.keys(self.vault_uri) as keys:
            plan = make_plan(self.study, images, key_ids, self.store.uri, keys)
            self._cut_shards(plan.shards)
            if not self._make_plain(plan):
                return self.ending
            matrix, scored = self._train_and_attack(plan)
        if matrix.table.num_rows:
            models = self._there(plan)
            self.ending.report = write_up(plan, models, matrix, self.store, scored, self.ending.failures)
        return self.ending

    def _begin(self) -> None:
        """Record what every artifact of the study shares; a rerun with other settings ends here."""
        recipe = self.study.fixed()
        if not self.store.has("study"):
            self.store.commit("study", ArtifactRecord(recipe=recipe, files={}), {})
        self.store.record("study", recipe)

    def _cut_shards(self, shards: Sequence[Shard]) -> None:
        pending = self._missing(shards, "shards", lambda shard: shard)
        with self.reporter.stage("shards", len(shards), len(shards) - len(pending)) as stage:
            worker, feed = functools.partial(ShardWorker, self.store.uri), Listed(pending)
            few = len(pending) <= _SHARDS_HERE
            cut = LocalRunner().run if few else functools.partial(self.workplace.work, on_cores=True)
            for account in cut(worker, feed):
                if isinstance(account, Failed):
                    raise StudyError(f"Shard {account.unit.address} cannot be made: {account.reason}")
                stage.advance(account.unit.address)

    def _make_plain(self, plan: Plan) -> bool:
        """The plain model, from which all others start; False if it could not be trained."""
        pending = self._missing([plan.plain], "models/plain", lambda unit: unit.model)
        if pending and self.study.weights:
            import_plain(self.study, plan.plain.model, self.store, self.reporter)
            pending = []
        with self.reporter.stage("plain model", 1, 1 - len(pending)) as stage:
            for account in self.workplace.train(pending, _teller(stage)) if pending else ():
                self._trained(account, stage)
        return not self.ending.failures

    def _train_and_attack(self, plan: Plan) -> tuple[TransferMatrix, Sequence[Scored]]:
        """Keyed models and attacks: a model is attacked as soon as it is there and a device is free."""
        training = self._missing(plan.keyed, "models", lambda unit: unit.model)
        self._tidy(plan, training)
        units = plan_units(plan.units, self.store)
        if training or units.pending:  # a finished study is only looked at
            self.store.sweep()
        agenda = Agenda(
            units.pending, [unit.model for unit in training], kept_moved(self.store, units.pending)
        )
        done, total = len(plan.keyed) - len(training), len(units.scored) + len(units.pending)
        with (
            self.reporter.stage("keyed models", len(plan.keyed), done) as models,
            self.reporter.stage("attacks", total, len(units.scored)) as attacks,
        ):
            trained: Iterator[Trained] = iter(())
            attacked: Iterator[AttackAccount] = iter(())
            if training:
                trained = self.workplace.train(training, _teller(models))
            if units.pending:
                attacked = self.workplace.work(self._attacker(plan), agenda)
            for account in self.workplace.together(trained, attacked):
                if _is_training(account):
                    agenda.model_ended(account.unit.model, self._trained(account, models))
                else:
                    agenda.settle(account)
                    self._attacked(account, attacks)
        if units.pending:
            units = plan_units(plan.restricted(self._there(plan)), self.store)
        return tally(self.store, units.scored), units.scored

    def _attacker(self, plan: Plan) -> MakeWorker[AttackWork]:
        architecture, keys = self.study.architecture, plan.plain.keys
        load = functools.partial(load_model, architecture=architecture, keys=keys)
        together = functools.partial(load_lora_batch, architecture=architecture)
        return functools.partial(
            TransferWorker, self.store.uri, load, load_together=together, **self.attacking
        )

    def _tidy(self, plan: Plan, training: Sequence[TrainingUnit]) -> None:
        """Drop checkpoints of finished models; their driver may have been killed before it did."""
        left = {address.split("/")[1] for address in self.store.addresses("checkpoints")}
        going_on = {unit.model for unit in training}
        for model in plan.models:
            if model.label in left and model not in going_on:
                drop_checkpoints(self.store, model)

    def _there(self, plan: Plan) -> list[ModelRef]:
        recorded = self.store.stamps("models")
        return [model for model in plan.models if model.address in recorded]

    def _trained(self, account: Trained, stage: Stage) -> bool:
        """Whether the model is there."""
        if isinstance(account, Failed):
            self._fail(account)
            return False
        stage.advance(f"{account.unit.id} trained")
        self._say_if_second(account.unit.id, account.account is not False)
        return True

    def _attacked(self, account: AttackAccount, stage: Stage) -> None:
        if isinstance(account, Failed):
            self._fail(account)
        elif isinstance(account.unit, AttackUnit):
            stage.tell(f"{account.unit.id}, {account.seconds:.1f} s")
        else:
            stage.advance(_told(account.unit, account))
            self._say_if_second(account.unit.id, account.account.first)

    def _say_if_second(self, made: str, first: bool) -> None:
        if not first:
            self.reporter.say(f"{made} was recorded by another driver first; its artifact stays")

    def _fail(self, account: Failed[Any]) -> None:
        self.ending.failures.append(account)
        self.reporter.say(f"failed: {account.unit.id}: {account.reason}")

    def _missing(self, things: Sequence[T], prefix: str, artifact: Callable[[T], _HasRecipe]) -> list[T]:
        """What has no record yet; StaleArtifact if another recipe made what is recorded."""
        records = read_records(self.store, prefix)
        missing = []
        for thing in things:
            wanted = artifact(thing)
            record = records.get(wanted.address)
            if record is None:
                missing.append(thing)
            elif record.digest != recipe_digest(wanted.recipe):
                raise stale(wanted.address, record, wanted.recipe)
        return missing


def _is_training(account: Trained | AttackAccount) -> TypeIs[Trained]:
    return isinstance(account.unit, TrainingUnit)


def _teller(stage: Stage) -> Callable[[EpochLine], None]:
    def tell(line: EpochLine) -> None:
        stage.tell(f"{line.model} epoch {line.epoch}/{line.epochs}, loss {line.loss:.3f}")

    return tell


def _told(unit: WorkUnit, account: Finished[Any]) -> str:
    came_to = account.account
    return (
        f"{unit.attack} {unit.ladder} {unit.source.label} on {came_to.targets} targets, "
        f"{unit.shard}: {came_to.source_fooled}/{came_to.images} fooled, {account.seconds:.1f} s"
    )
