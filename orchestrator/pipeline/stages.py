"""The stages of a study, in order; each makes what has no record yet and goes on past single failures."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.cluster.runner import Failed, Finished, LocalRunner
from orchestrator.cluster.workplace import Workplace
from orchestrator.errors import StudyError
from orchestrator.models.ref import ModelRef
from orchestrator.models.stored import KeyAccess, load_model
from orchestrator.pipeline.plain import import_plain
from orchestrator.pipeline.plan import Plan, make_plan, plan_images
from orchestrator.pipeline.progress import Reporter
from orchestrator.pipeline.roster import check_apart, ensure_keys
from orchestrator.pipeline.tally import tally
from orchestrator.pipeline.write_up import write_up
from orchestrator.shards.shard import Shard, ShardWorker
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.record import ArtifactRecord
from orchestrator.study import Study
from orchestrator.training.checkpoint import drop_checkpoints
from orchestrator.training.finetune import EpochLine, TrainingUnit
from orchestrator.transfer.matrix import TransferMatrix
from orchestrator.transfer.work import WorkUnit, plan_units
from orchestrator.transfer.worker import TransferWorker

# Up to this many shards an actor's start (six seconds of imports) costs more than it saves.
_SHARDS_HERE = 32


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
    ending: Ending = field(default_factory=Ending)

    def run(self) -> Ending:
        """Keys, shards, plain model, keyed models, outcomes, matrix, report."""
        self.study.architecture.build()  # refuses here what every later stage would stumble over
        check_apart(self.store.uri, self.vault_uri)
        images = plan_images(self.study)
        # Only now is anything written: what could be refused has been.
        self.store.sweep()
        self._begin()
        key_ids = ensure_keys(self.study, self.store, self.vault_uri)
        plan = make_plan(self.study, images, key_ids, self.store.uri, self.vault_uri)
        self._cut_shards(plan.shards)
        models = self._make_models(plan)
        if not models:
            return self.ending
        matrix = self._fill_matrix(plan.restricted(models))
        if matrix.table.num_rows:
            self.ending.report = write_up(plan, models, matrix, self.store, self.ending.failures)
        return self.ending

    def _begin(self) -> None:
        """Record what every artifact of the study shares; a rerun with other settings ends here."""
        recipe = self.study.fixed()
        if not self.store.has("study"):
            self.store.commit("study", ArtifactRecord(recipe=recipe, files={}), {})
        self.store.record("study", recipe)

    def _cut_shards(self, shards: Sequence[Shard]) -> None:
        pending = [shard for shard in shards if not self._is_there(shard.address, shard.recipe)]
        with self.reporter.stage("shards", len(shards), len(shards) - len(pending)) as stage:
            worker = functools.partial(ShardWorker, self.store.uri)
            few = len(pending) <= _SHARDS_HERE
            run = LocalRunner().run if few else self.workplace.work
            for account in run(worker, pending):
                if isinstance(account, Failed):
                    raise StudyError(f"Shard {account.unit.address} cannot be made: {account.reason}")
                stage.advance(account.unit.address)

    def _make_models(self, plan: Plan) -> list[ModelRef]:
        """The models that exist afterwards: plain and keyed; empty if there is no plain model."""
        if self.study.weights and not self._is_there(plan.plain.model.address, plan.plain.model.recipe):
            import_plain(self.study, plan.plain.model, self.store, self.reporter)
        self._train("plain model", [plan.plain])
        if not self.store.has(plan.plain.model.address):
            return []
        for method in self.study.methods:
            units = [unit for unit in plan.keyed if unit.model.method == method]
            self._train(f"{method} models", units)
        return [model for model in plan.models if self.store.has(model.address)]

    def _train(self, name: str, units: Sequence[TrainingUnit]) -> None:
        pending = [u for u in units if not self._is_there(u.model.address, u.model.recipe)]
        for unit in units:
            if unit not in pending:  # its driver may have been killed before it tidied up
                drop_checkpoints(self.store, unit.model)
        with self.reporter.stage(name, len(units), len(units) - len(pending)) as stage:
            if not pending:
                return

            def tell(line: EpochLine) -> None:
                stage.tell(f"{line.model} epoch {line.epoch}/{line.epochs}, loss {line.loss:.3f}")

            for account in self.workplace.train(pending, tell):
                if isinstance(account, Failed):
                    self._fail(account)
                else:
                    stage.advance(f"{account.unit.id} trained")

    def _fill_matrix(self, wanted: Sequence[WorkUnit]) -> TransferMatrix:
        plan = plan_units(wanted, self.store)
        access = KeyAccess(vault=self.vault_uri, study=self.study.name)
        load = functools.partial(load_model, architecture=self.study.architecture, keys=access)
        worker = functools.partial(TransferWorker, self.store.uri, load)
        total = len(plan.scored) + len(plan.pending)
        with self.reporter.stage("attacks", total, len(plan.scored)) as stage:
            for account in self.workplace.work(worker, plan.pending) if plan.pending else ():
                if isinstance(account, Failed):
                    self._fail(account)
                else:
                    stage.advance(_told(account))
        return tally(self.store, plan_units(wanted, self.store).scored)

    def _fail(self, account: Failed[Any]) -> None:
        self.ending.failures.append(account)
        self.reporter.say(f"failed: {account.unit.id}: {account.reason}")

    def _is_there(self, address: str, recipe: Mapping[str, Any]) -> bool:
        """Whether the artifact exists; StaleArtifact if it exists by another recipe."""
        if not self.store.has(address):
            return False
        self.store.record(address, recipe)
        return True


def _told(account: Finished[WorkUnit]) -> str:
    unit, came_to = account.unit, account.account
    return (
        f"{unit.attack} {unit.threat} {unit.source.label} on {came_to.targets} targets, "
        f"{unit.shard}: {came_to.source_fooled}/{came_to.images} fooled, {account.seconds:.1f} s"
    )
