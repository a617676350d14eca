"""Informed attackers and rivals of a stored study's detectors: measured model by model, told together."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import nn

from orchestrator.detection.evasion import Evasion
from orchestrator.detection.insiders import Insider, Struck
from orchestrator.detection.rejection import Resampled, Sweep, resample
from orchestrator.detection.rivals.contest import Contested, contest
from orchestrator.detection.scores import Rule
from orchestrator.detection.subject import Subject
from orchestrator.errors import DataError
from orchestrator.pipeline.guards import Guards
from orchestrator.pipeline.subjects import StudySubjects

Measured = TypeVar("Measured")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much is measured."""

    models: int = 0
    """Keyed models, the first of the study; 0 takes all."""
    images: int = 64
    """Test images of each attack under each threat, at most."""
    rate: float = 0.05
    """Share of clean images that attackers have to reckon with being stopped."""
    draws: int = 20
    """Fresh draws of an image."""


@dataclass(frozen=True)
class Collected(Generic[Measured]):
    """What was measured of all models, and why nothing could be of some."""

    found: tuple[Measured, ...]
    notes: dict[str, str] = field(default_factory=dict)
    """By the model's label."""


@dataclass(frozen=True, kw_only=True)
class Informed:
    """A stored study's detectors before those who know all but the draw, and beside other detectors.

    Banks of other settings than the stored ones are fitted for the occasion and not kept.
    """

    guards: Guards
    limits: Limits = Limits()

    @property
    def rule(self) -> Rule:
        """What images are judged by."""
        return self.guards.plan.study.detector.rule

    def resampled(self, sweep: Sweep | None = None) -> Collected[Resampled]:
        """Rejection sampling, over sizes of the bank; see ``resample``."""
        limits = self.limits

        def measured(subject: Subject, _other: nn.Module | None) -> Iterable[Resampled]:
            return resample(
                subject,
                sweep or Sweep(),
                most=limits.images,
                rate=limits.rate,
                draws=limits.draws,
                rule=self.rule,
            )

        every = self._measured(measured)
        return Collected(tuple(Resampled.joined(every.found)), every.notes)

    def struck(self, insider: Insider | None = None) -> Collected[Struck]:
        """Attacks on classifier and bank together; see ``Insider``."""
        own = Insider(rate=self.limits.rate, draws=self.limits.draws, evasion=Evasion(rule=self.rule))
        insider = insider or own

        def measured(subject: Subject, _other: nn.Module | None) -> Iterable[Struck]:
            return insider.strike(subject, self.limits.images)

        every = self._measured(measured)
        return Collected(tuple(Struck.joined(every.found)), every.notes)

    def contested(self) -> Collected[Contested]:
        """Bank and rivals on the same images; see ``contest``."""

        def measured(subject: Subject, other: nn.Module | None) -> Iterable[Contested]:
            return contest(subject, other, most=self.limits.images, rule=self.rule)

        every = self._measured(measured)
        return Collected(tuple(Contested.joined(every.found)), every.notes)

    def _measured(
        self, measure: Callable[[Subject, nn.Module | None], Iterable[Measured]]
    ) -> Collected[Measured]:
        study = StudySubjects(self.guards)
        found: list[Measured] = []
        notes: dict[str, str] = {}
        for unit, other in study.pairs(self.limits.models):
            try:
                second = study.model(other) if other else None
                found += list(measure(study.subject(unit), second))
            except DataError as error:
                notes[unit.model.label] = str(error)
        return Collected(tuple(found), notes)
