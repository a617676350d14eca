"""Subjects of a stored study: its keyed models, each with its bank and the images it is held to."""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from orchestrator.detection.fit import Feed, Fit, fit_bank
from orchestrator.detection.kept import AttackedImages, CleanImages, KeptAttack, kept_attacks
from orchestrator.detection.neurons import layout_of
from orchestrator.detection.recipe import BankRecipe
from orchestrator.detection.stored import BankRef, load_bank
from orchestrator.detection.subject import Subject
from orchestrator.detection.trial import Sort
from orchestrator.errors import StudyError
from orchestrator.models.ref import ModelRef
from orchestrator.models.stored import load_model
from orchestrator.pipeline.asked import recall_plan
from orchestrator.pipeline.plan import Plan
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.record import recipe_digest


@dataclass(frozen=True)
class StudySubjects:
    """A stored study's keyed models as subjects. Stored banks are taken from there, others are not kept."""

    store: ArtifactStore
    settings: BankRecipe
    fit_on: tuple[str, ...] = ()
    """Names of attacks to fit on, as they are in addresses; none: all whose images are kept."""

    @functools.cached_property
    def plan(self) -> Plan:
        """Every artifact of the study."""
        return recall_plan(self.store)

    @functools.cached_property
    def kept(self) -> list[KeptAttack]:
        """Every attack whose images were kept.

        Raises:
            StudyError: there is none, or none of one that is to be fitted on.
        """
        kept = kept_attacks(self.store)
        known = {each.attack for each in kept}
        if not kept or not known.issuperset(self.fit_on):
            raise StudyError(
                f"Images of {', '.join(self.fit_on) or 'attacks'} are not kept here (there are: "
                f"{', '.join(sorted(known)) or 'none'}). Run the study with --keep-images."
            )
        return kept

    def pairs(self, most: int) -> Iterator[tuple[ModelRef, ModelRef | None]]:
        """The first keyed models, each with the next of its method, which gives a second opinion."""
        recorded = self.store.stamps("models")
        keyed = [
            model
            for model in self.plan.models
            if model.method != "plain" and not model.control and model.address in recorded
        ]
        for ref in keyed[: most or None]:
            peers = [model for model in keyed if model.method == ref.method]
            following = peers[(peers.index(ref) + 1) % len(peers)]
            yield ref, following if following is not ref else None

    def model(self, ref: ModelRef) -> nn.Module:
        """A stored model, on the device that there is."""
        study = self.plan.study
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return load_model(self.store, ref, study.architecture, self.plan.plain.keys).to(device)

    def subject(self, ref: ModelRef) -> Subject:
        """A model with its bank and its images.

        Raises:
            DataError: no bank can be fitted to it.
        """
        study, model = self.plan.study, self.model(ref)
        device, size = next(model.parameters()).device, study.architecture.image_size
        digests = {shard.address: recipe_digest(shard.recipe) for shard in self.plan.eval_shards}
        own = [each for each in self.kept if each.source == "plain" or _same_method(each, ref)]
        fitted = [each for each in own if not self.fit_on or each.attack in self.fit_on]
        clean = functools.partial(CleanImages, self.store, tuple(digests), seed=study.seed, device=device)
        attacked = functools.partial(
            AttackedImages, self.store, target=ref.label, seed=study.seed, device=device
        )
        fit = Fit(
            layout=layout_of(model, torch.zeros(1, 3, size, size, device=device), self.settings.layers),
            classes=study.architecture.classes,
            recipe=self.settings,
            seed=study.seed,
            model_digest=ref.digest,
        )
        feed = Feed(clean(part="fit"), attacked(fitted, part="fit"), clean(part="held-out"))
        images = digests | {each.address: each.record.digest for each in fitted}
        bank_ref = BankRef(
            model=ref, settings=self.settings, layout=fit.layout, seed=study.seed, images=images
        )
        stored = self.store.has(bank_ref.address)
        bank = load_bank(self.store, bank_ref, model) if stored else fit_bank(model, fit, feed)
        return Subject(
            model=model,
            fit=fit,
            feed=feed,
            bank=bank.to(device),
            clean=clean(part="test"),
            attacked={
                sort: attacked(some, part="test", epsilon=sort.epsilon)
                for sort, some in _made_on(own, ref).items()
            },
            fitted=frozenset(each.attack for each in fitted),
        )


def _made_on(kept: Iterable[KeptAttack], ref: ModelRef) -> dict[Sort, list[KeptAttack]]:
    """Kept attacks on the very model, by the sorts of images they hold."""
    found: dict[Sort, list[KeptAttack]] = {}
    for each in kept:
        if each.origin(ref.label) == "own key":
            for epsilon in each.epsilons:
                found.setdefault(Sort(each.attack, each.norm, epsilon, "own key"), []).append(each)
    return found


def _same_method(kept: KeptAttack, ref: ModelRef) -> bool:
    return kept.source.rpartition(".")[2] == ref.method
