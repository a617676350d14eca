"""The stages of a study, in order; each makes what has no record yet and goes on past single failures."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.cluster.runner import Failed, Listed, LocalRunner, MakeWorker, Unit
from orchestrator.cluster.workplace import Worked, Workplace
from orchestrator.errors import StudyError
from orchestrator.keys.vault import VaultAt
from orchestrator.pipeline.asked import note_asked
from orchestrator.pipeline.campaign import Campaign, teller
from orchestrator.pipeline.inheritance import HeirloomWorker, heirlooms
from orchestrator.pipeline.missing import missing
from orchestrator.pipeline.plain import clean_accuracy, import_plain
from orchestrator.pipeline.plan import Images, Plan, make_plan, plan_images
from orchestrator.pipeline.progress import Reporter
from orchestrator.pipeline.roster import check_apart, ensure_keys
from orchestrator.pipeline.sequels import in_order, sequels_of
from orchestrator.pipeline.standing import Used
from orchestrator.pipeline.tally import tally
from orchestrator.pipeline.write_up import Findings, write_up
from orchestrator.shards.shard import Shard, ShardWorker
from orchestrator.statistics.proportion import Interval
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.record import ArtifactRecord
from orchestrator.study import Study

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
    attacking: Mapping[str, bool] = field(default_factory=dict)
    """Options of the attacks' workers; none of them changes an answer."""
    relatives: Sequence[ArtifactStore] = ()
    """Other studies of the store: what they have by the very same recipe is taken over, not made again."""
    ending: Ending = field(default_factory=Ending)

    def ingest(self) -> Images:
        """Shards alone: what a study begins with, for a cluster of its own or a data set on its way."""
        images = self._open()
        self._cut_shards(images.train + images.evaluation)
        return images

    def run(self) -> Ending:
        """Keys, shards, plain model, keyed models, outcomes, what else is asked for, matrix, report."""
        images = self._open()
        key_ids = ensure_keys(self.study, self.store, self.vault_uri)
        with self.workplace.keys(self.vault_uri) as keys:
            plan = make_plan(self.study, images, key_ids, self.store.uri, keys)
            self._inherit(plan)
            self._cut_shards(plan.shards)
            campaign = Campaign(
                plan, self.store, self.workplace, self.reporter, self.attacking, self.ending.failures
            )
            if not self._make_plain(campaign):
                return self.ending
            scored = campaign.run()
            asked = sequels_of(plan, self.store, campaign.rounds.wanted(plan.units))
            for sequel in in_order(asked):
                self.ending.failures += sequel.run(self.workplace, self.reporter)
        matrix = tally(self.store, scored)
        if matrix.table.num_rows:
            self.ending.report = write_up(
                Findings(
                    plan=plan,
                    store=self.store,
                    models=campaign.there(),
                    scored=scored,
                    matrix=matrix,
                    notes=campaign.notes,
                    **asked,
                )
            )
        return self.ending

    def pretrain(self) -> Interval | None:
        """Shards and the plain model alone, without any key; how many evaluation images it reads right.

        None if it could not be trained.
        """
        images = self._open()
        bare = replace(self.study, controls=0, ensembles=(), committees=())
        plan = make_plan(bare, images, (), self.store.uri, VaultAt(self.vault_uri))
        self._cut_shards(plan.shards)
        campaign = Campaign(plan, self.store, self.workplace, self.reporter, {}, self.ending.failures)
        return clean_accuracy(plan, self.store) if self._make_plain(campaign) else None

    def _open(self) -> Images:
        """Look at everything that can be refused, then begin."""
        self.study.architecture.build()  # refuses here what every later stage would stumble over
        check_apart(self.store.uri, self.vault_uri)
        images = plan_images(self.study)
        # Only now is anything written: what could be refused has been.
        self._begin(images)
        return images

    def _begin(self, images: Images) -> None:
        """Record what every artifact of the study shares; a rerun with other settings ends here."""
        recipe = self.study.fixed()
        if not self.store.has("study"):
            self.store.commit("study", ArtifactRecord(recipe=recipe, files={}), {})
        self.store.record("study", recipe)
        note_asked(self.study, images, self.store)

    def _inherit(self, plan: Plan) -> None:
        """Take over what relatives have; what cannot be had from them is made here like anything else."""
        found = heirlooms(plan, self.store, self.relatives)
        if not found:
            return
        with self.reporter.stage("taken over", len(found), 0) as stage:
            for account in self._on_cores(functools.partial(HeirloomWorker, self.store.uri), found):
                if isinstance(account, Failed):
                    stage.fail()
                    self.reporter.say(f"{account.unit.id} is not taken over: {account.reason}")
                else:
                    stage.advance(f"{account.unit.id} from {account.unit.giver}", Used(account.seconds))

    def _on_cores(self, worker: MakeWorker[Unit], units: Sequence[Unit]) -> Iterator[Worked[Unit]]:
        if len(units) <= _SHARDS_HERE:
            return LocalRunner().run(worker, Listed(units))
        return self.workplace.work(worker, Listed(units), on_cores=True)

    def _cut_shards(self, shards: Sequence[Shard]) -> None:
        pending = missing(self.store, shards, "shards", lambda shard: shard)
        with self.reporter.stage("shards", len(shards), len(shards) - len(pending)) as stage:
            for account in self._on_cores(functools.partial(ShardWorker, self.store.uri), pending):
                if isinstance(account, Failed):
                    raise StudyError(f"Shard {account.unit.address} cannot be made: {account.reason}")
                stage.advance(account.unit.address, Used(account.seconds))

    def _make_plain(self, campaign: Campaign) -> bool:
        """The plain model, from which all others start; False if it could not be trained."""
        plain = campaign.plan.plain
        pending = missing(self.store, [plain], "models/plain", lambda unit: unit.model)
        if pending and self.study.weights:
            import_plain(self.study, plain.model, self.store, self.reporter)
            pending = []
        with self.reporter.stage("plain model", 1, 1 - len(pending)) as stage:
            for account in self.workplace.train(pending, teller(stage)) if pending else ():
                campaign.trained(account, stage)
        return not self.ending.failures
