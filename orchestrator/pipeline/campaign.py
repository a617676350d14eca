"""Campaign: trainings and attacks of a plan, side by side; an attack begins once its models are there."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import TypeIs

from orchestrator.cluster.runner import Failed, Finished, MakeWorker
from orchestrator.cluster.workplace import Trained, Workplace
from orchestrator.errors import OrchestratorError
from orchestrator.models.lora_batch import load_lora_batch
from orchestrator.models.ref import ModelRef
from orchestrator.models.rekey import Rekeying, rekey
from orchestrator.pipeline.agenda import Agenda, AttackAccount, AttackWork
from orchestrator.pipeline.missing import missing
from orchestrator.pipeline.plan import Plan
from orchestrator.pipeline.pool import loader
from orchestrator.pipeline.progress import Reporter, Stage
from orchestrator.pipeline.rounds import Rounds
from orchestrator.pipeline.so_far import SoFar
from orchestrator.pipeline.standing import Used
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.training.checkpoint import drop_checkpoints
from orchestrator.training.finetune import EpochLine, TrainingUnit
from orchestrator.transfer.moved import kept_moved
from orchestrator.transfer.work import AttackUnit, Scored, UnitPlan, WorkUnit, plan_units
from orchestrator.transfer.worker import TransferWorker


@dataclass
class Campaign:
    """One run of a plan's trainings and attacks at a workplace; what has a record is not done again."""

    plan: Plan
    store: ArtifactStore
    workplace: Workplace
    reporter: Reporter
    attacking: Mapping[str, bool]
    """Options of the attacks' workers; none of them changes an answer."""
    failures: list[Failed[Any]] = field(default_factory=list)
    so_far: SoFar = field(init=False)
    """What this run's units came to."""
    rounds: Rounds = field(init=False)

    def __post_init__(self) -> None:
        self.rounds = Rounds(self.plan, self.store)
        self.so_far = SoFar(self.plan.models)
        self.reporter.matrix(self.so_far)

    def run(self) -> Sequence[Scored]:
        """Train and attack to the end; the outcomes that fill the matrix."""
        training = missing(self.store, self.plan.keyed, "models", lambda unit: unit.model)
        rekeyings = missing(self.store, self.plan.rekeyed, "models", lambda each: each.model)
        self._tidy(training)
        scored = self._attack(training, rekeyings)
        while not self.failures and self.rounds.look(scored):
            scored = self._attack((), ())
        return scored

    @property
    def notes(self) -> list[str]:
        """What a reader must know of this run, one sentence each."""
        failed = [f"{each.unit.id} could not be done: {each.reason}" for each in self.failures]
        return [*failed, *self.rounds.told]

    def _attack(self, training: Sequence[TrainingUnit], rekeyings: Sequence[Rekeying]) -> Sequence[Scored]:
        """One round: the units that are wanted by now, beside what is still to be trained for them."""
        units = plan_units(self.rounds.wanted(self.plan.units), self.store)
        unkept = self._unkept(units)
        pending = [*units.pending, *unkept]
        if training or pending:  # a finished study is only looked at
            self.store.sweep()
        awaited = [*(unit.model for unit in training), *(each.model for each in rekeyings)]
        agenda = Agenda(pending, awaited, kept_moved(self.store, pending))
        every = len(self.plan.keyed) + len(self.plan.rekeyed)
        total = len(units.scored) + len(pending)
        with (
            self.reporter.stage("keyed models", every, every - len(awaited)) as models,
            self.reporter.stage("attacks", total, len(units.scored)) as attacks,
        ):
            in_training = {unit.model for unit in training}
            ready = [each for each in rekeyings if each.twin not in in_training]
            self._rekey(ready, agenda, models)
            trained: Iterator[Trained] = iter(())
            attacked: Iterator[AttackAccount] = iter(())
            if training:
                trained = self.workplace.train(training, teller(models))
            if pending:
                attacked = self.workplace.work(self._attacker(), agenda)
            for account in self.workplace.together(trained, attacked):
                if _is_training(account):
                    model = account.unit.model
                    agenda.model_ended(model, self.trained(account, models))
                    self._rekey([each for each in rekeyings if each.twin == model], agenda, models)
                else:
                    agenda.settle(account)
                    self._attacked(account, attacks)
        if pending:
            there = self.plan.restricted(self.there())
            units = plan_units(self.rounds.wanted(there), self.store)
        return units.scored

    def _unkept(self, units: UnitPlan) -> list[WorkUnit]:
        """Units that were scored before a later stage wanted their images: attacked once more."""
        if not self.plan.study.keeps_images:
            return []
        kept, left = self.store.stamps("adversarial"), {unit.prefix for unit in units.pending}
        wanted = self.rounds.wanted(self.plan.restricted(self.there()))
        return [u for u in wanted if u.attack_unit.for_good not in kept and u.prefix not in left]

    def there(self) -> list[ModelRef]:
        """The models that have been made."""
        recorded = self.store.stamps("models")
        return [model for model in self.plan.models if model.address in recorded]

    def trained(self, account: Trained, stage: Stage) -> bool:
        """Take note of a training that is over; whether the model is there."""
        if isinstance(account, Failed):
            self._fail(account, stage)
            return False
        stage.advance(f"{account.unit.id} trained")
        self._say_if_second(account.unit.id, account.account is not False)
        return True

    def _rekey(self, ready: Sequence[Rekeying], agenda: Agenda, stage: Stage) -> None:
        """Rewrite models for another key: seconds, so it is done here. Without its twin there is none."""
        for rekeying in ready:
            made = self.store.has(rekeying.twin.address)
            if made:
                try:
                    first = rekey(self.store, rekeying)
                except OrchestratorError as error:
                    self._fail(Failed(rekeying, f"{type(error).__name__}: {error}"), stage)
                    made = False
                else:
                    stage.advance(f"{rekeying.id} rewritten")
                    self._say_if_second(rekeying.id, first)
            agenda.model_ended(rekeying.model, made)

    def _attacker(self) -> MakeWorker[AttackWork]:
        together = functools.partial(load_lora_batch, architecture=self.plan.study.architecture)
        options = {**self.attacking, **({"keep_images": True} if self.plan.study.keeps_images else {})}
        load = loader(self.plan)
        return functools.partial(TransferWorker, self.store.uri, load, load_together=together, **options)

    def _tidy(self, training: Sequence[TrainingUnit]) -> None:
        """Drop checkpoints of finished models; their driver may have been killed before it did."""
        left = {address.split("/")[1] for address in self.store.addresses("checkpoints")}
        going_on = {unit.model for unit in training}
        for model in self.plan.models:
            if model.label in left and model not in going_on:
                drop_checkpoints(self.store, model)

    def _attacked(self, account: AttackAccount, stage: Stage) -> None:
        if isinstance(account, Failed):
            self._fail(account, stage)
            return
        unit, used = account.unit, Used(account.seconds, account.account.device)
        if isinstance(unit, AttackUnit):
            stage.tell(f"{unit.id}, {account.seconds:.1f} s", used)
        else:
            self.so_far.add_unit(unit, account.account)
            stage.advance(_told(unit, account), used)
            # Who attacks once more for the images alone finds the outcomes there.
            self._say_if_second(unit.id, account.account.first or self.plan.study.keeps_images)

    def _say_if_second(self, made: str, first: bool) -> None:
        if not first:
            self.reporter.say(f"{made} was recorded by another driver first; its artifact stays")

    def _fail(self, account: Failed[Any], stage: Stage) -> None:
        self.failures.append(account)
        stage.fail()
        self.reporter.say(f"failed: {account.unit.id}: {account.reason}")


def teller(stage: Stage) -> Callable[[EpochLine], None]:
    """What tells a stage of every epoch."""

    def tell(line: EpochLine) -> None:
        told = f"{line.model} epoch {line.epoch}/{line.epochs}, loss {line.loss:.3f}"
        stage.tell(told, Used(line.seconds, line.device))

    return tell


def _is_training(account: Trained | AttackAccount) -> TypeIs[Trained]:
    return isinstance(account.unit, TrainingUnit)


def _told(unit: WorkUnit, account: Finished[Any]) -> str:
    came_to = account.account
    return (
        f"{unit.attack} {unit.ladder} {unit.source.label} on {came_to.targets} targets, "
        f"{unit.shard}: {came_to.source_fooled}/{came_to.images} fooled, {account.seconds:.1f} s"
    )
