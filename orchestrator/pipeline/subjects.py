"""Subjects of a stored study: its keyed models, each with its bank and the images it is held to."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from orchestrator.detection.guard.fitting import Fitting
from orchestrator.detection.guard.unit import GuardUnit
from orchestrator.detection.kept import AttackedImages, KeptAttack, kept_attack
from orchestrator.detection.origin import Sort
from orchestrator.detection.subject import Subject
from orchestrator.models.ref import ModelRef
from orchestrator.models.stored import load_model
from orchestrator.pipeline.guards import Guards


@dataclass(frozen=True)
class StudySubjects:
    """A stored study's keyed models as subjects. Stored banks are taken from there, others are not kept."""

    guards: Guards

    def pairs(self, most: int) -> Iterator[tuple[GuardUnit, ModelRef | None]]:
        """The first keyed models, each with the next of its method, which gives a second opinion."""
        units = self.guards.units
        for unit in units[: most or None]:
            peers = [each.model for each in units if each.model.method == unit.model.method]
            following = peers[(peers.index(unit.model) + 1) % len(peers)]
            yield unit, following if following is not unit.model else None

    def model(self, ref: ModelRef) -> nn.Module:
        """A stored model, on the device that there is."""
        plan = self.guards.plan
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return load_model(self.guards.store, ref, plan.study.architecture, plan.plain.keys).to(device)

    def subject(self, unit: GuardUnit) -> Subject:
        """A model with its bank and its images.

        Raises:
            DataError: no bank can be fitted to it.
        """
        fitting = Fitting(self.guards.store, unit, self.model(unit.model))
        attacked = functools.partial(
            AttackedImages,
            self.guards.store,
            target=unit.model.label,
            part="test",
            seed=unit.seed,
            device=fitting.device,
        )
        return Subject(
            model=fitting.model,
            fit=fitting.fit,
            feed=fitting.feed,
            bank=fitting.bank(keep=False),
            clean=fitting.clean("test"),
            attacked={sort: attacked(some, epsilon=sort.epsilon) for sort, some in self._own(unit).items()},
            fitted=frozenset(self.guards.plan.study.fitted_on),
        )

    def _own(self, unit: GuardUnit) -> dict[Sort, list[KeptAttack]]:
        """Kept attacks on the very model, by the sorts of images they hold."""
        found: dict[Sort, list[KeptAttack]] = {}
        for sitting in unit.sittings:
            for address in sitting.shown if sitting.source == unit.model.label else ():
                kept = kept_attack(self.guards.store, address)
                for epsilon in kept.epsilons:
                    found.setdefault(Sort(kept.attack, kept.norm, epsilon, "own key"), []).append(kept)
        return found
