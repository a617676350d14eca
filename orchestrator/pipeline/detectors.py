"""Detectors of a stored study: a bank for each model, fitted on kept images and tried on others."""

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from orchestrator.attacks.threat import Threat
from orchestrator.detection.bank import DetectorBank
from orchestrator.detection.fit import Feed, Fit, fit_bank
from orchestrator.detection.kept import AttackedImages, CleanImages, KeptAttack, kept_attacks
from orchestrator.detection.measures import flagged_at
from orchestrator.detection.neurons import layout_of
from orchestrator.detection.recipe import BankRecipe
from orchestrator.detection.scores import Rule
from orchestrator.detection.stored import BankRef, load_bank, save_bank
from orchestrator.detection.trial import Sort, Trial, Tried
from orchestrator.errors import DataError, StudyError
from orchestrator.models.ref import ModelRef
from orchestrator.models.stored import load_model
from orchestrator.pipeline.asked import recall_plan
from orchestrator.pipeline.plan import Plan
from orchestrator.report.wording import NONE, interval
from orchestrator.seeds import derive_seed
from orchestrator.statistics.proportion import Interval
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.record import recipe_digest


@dataclass(frozen=True)
class Findings:
    """What the detector of one model does, or why there is none."""

    model: str
    clean_images: int = 0
    """Clean test images."""
    clean: Mapping[float, Interval] = field(default_factory=dict)
    """Share of clean test images that is stopped, by the rate asked for."""
    tried: Sequence[Tried] = ()
    fitted: frozenset[str] = frozenset()
    """Names of the attacks that the bank was fitted on."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Why a class, or the whole model, has no fingerprints of its own."""


@dataclass(frozen=True, kw_only=True)
class Detectors:
    """Banks for the keyed models of a study, made where they are not there yet."""

    store: ArtifactStore
    settings: BankRecipe
    fit_on: tuple[str, ...] = ()
    """Names of attacks to fit on, as they are in addresses; none: all whose images are kept."""
    rule: Rule = "ratio"

    def run(self) -> Iterator[Findings]:
        """What is found of one model after another.

        Raises:
            StudyError: no images were kept, or none of an attack that is to be fitted on.
        """
        plan, kept = recall_plan(self.store), kept_attacks(self.store)
        known = {each.attack for each in kept}
        if not kept or not known.issuperset(self.fit_on):
            raise StudyError(
                f"Images of {', '.join(self.fit_on) or 'attacks'} are not kept here (there are: "
                f"{', '.join(sorted(known)) or 'none'}). Run the study with --keep-images."
            )
        recorded = self.store.stamps("models")
        for model in plan.models:
            if model.method != "plain" and not model.control and model.address in recorded:
                own = [each for each in kept if _met_by(each, model)]
                try:
                    yield self._of(plan, model, own)
                except DataError as error:
                    yield Findings(model.label, notes={"all classes": str(error)})

    def _of(self, plan: Plan, ref: ModelRef, kept: Sequence[KeptAttack]) -> Findings:
        study = plan.study
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = load_model(self.store, ref, study.architecture, plan.plain.keys).to(device)
        fitted = [each for each in kept if not self.fit_on or each.attack in self.fit_on]
        digests = {shard.address: recipe_digest(shard.recipe) for shard in plan.eval_shards}
        clean = functools.partial(CleanImages, self.store, tuple(digests), seed=study.seed, device=device)
        attacked = functools.partial(
            AttackedImages, self.store, target=ref.label, seed=study.seed, device=device
        )
        size = study.architecture.image_size
        layout = layout_of(model, torch.zeros(1, 3, size, size, device=device), self.settings.layers)
        images = digests | {each.address: each.record.digest for each in fitted}
        bank_ref = BankRef(model=ref, settings=self.settings, layout=layout, seed=study.seed, images=images)
        feed = Feed(clean(part="fit"), attacked(fitted, part="fit"), clean(part="held-out"))
        bank = self._bank(model, bank_ref, study.architecture.classes, feed).to(device)
        trial = Trial(model, bank, self.rule, derive_seed(study.seed, "trial", ref.label))
        verdict = trial.clean(clean(part="test"))
        tried = [
            trial.attacked(sort, attacked(some, part="test", epsilon=sort.epsilon), verdict)
            for sort, some in sorted(_sorts(kept, ref.label).items())
        ]
        names = frozenset(each.attack for each in fitted)
        shares = flagged_at(verdict.p_value)
        return Findings(ref.label, len(verdict.flag), shares, tried, names, bank.notes)

    def _bank(self, model: nn.Module, ref: BankRef, classes: int, feed: Feed) -> DetectorBank:
        if self.store.has(ref.address):
            return load_bank(self.store, ref, model)
        started = time.monotonic()
        fit = Fit(
            layout=ref.layout,
            classes=classes,
            recipe=self.settings,
            seed=ref.seed,
            model_digest=ref.model.digest,
        )
        bank = fit_bank(model, fit, feed)
        save_bank(self.store, ref, bank, {"seconds": time.monotonic() - started})
        return bank


def told(findings: Findings) -> Iterator[list[str]]:
    """Rows of a table: model, images, fitted on, count, AUROC, and what is stopped at each rate."""
    if findings.clean:
        shares = [interval(share) for share in findings.clean.values()]
        yield [findings.model, "clean", NONE, str(findings.clean_images), NONE, *shares]
    for each in findings.tried:
        sort = each.sort
        words = f"{sort.attack} {Threat.parse(f'{sort.norm}:{sort.epsilon!r}')} {sort.origin}"
        seen = "yes" if sort.attack in findings.fitted else "no"
        shares = [interval(share) for share in each.stopped.values()]
        yield [findings.model, words, seen, str(each.images), interval(each.auroc), *shares]
    for row, note in findings.notes.items():
        yield [findings.model, f"{row}: {note}"]


def _sorts(kept: Sequence[KeptAttack], target: str) -> dict[Sort, list[KeptAttack]]:
    """Kept attacks by the sorts of images they hold for a target."""
    found: dict[Sort, list[KeptAttack]] = {}
    for each in kept:
        for epsilon in each.epsilons:
            sort = Sort(each.attack, each.norm, epsilon, each.origin(target))
            found.setdefault(sort, []).append(each)
    return found


def _met_by(kept: KeptAttack, model: ModelRef) -> bool:
    """Whether a source's images are tried on a model: plain's on all, others' on their own method's."""
    return kept.source == "plain" or kept.source.rpartition(".")[2] == model.method
