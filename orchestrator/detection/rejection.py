"""Rejection sampling with model, bank and code at hand: does a fresh draw stop what passed others.

The attacker makes many images, tries each on draws of a copy of his own, and sends those that passed.
The method's claim is that a fresh draw stops these too; it is held against detectors of the same size
that were drawn once.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from orchestrator.detection.bank import DetectorBank
from orchestrator.detection.examples import Examples
from orchestrator.detection.readout import Readout
from orchestrator.detection.recipe import BankRecipe
from orchestrator.detection.scores import Rule
from orchestrator.detection.subject import Subject
from orchestrator.detection.survivors import Survival, stopped_by_static, stopped_in_draws, survival
from orchestrator.statistics.proportion import Interval

EARLIER = (0, 1, 2, 5, 10)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Sizes to try, one setting at a time, the others being as they are."""

    kept: tuple[int, ...] = (30, 100, 300)
    """Fingerprints of a class."""
    neurons: tuple[int, ...] = (10, 50, 200)
    """Neurons of a fingerprint."""
    draw: tuple[int, ...] = (5, 20, 80)
    """Fingerprints drawn for an image."""

    def around(self, recipe: BankRecipe) -> list[BankRecipe]:
        """The recipe itself, then every other one, each once."""
        tried = [
            *(replace(recipe, kept=size) for size in self.kept),
            *(replace(recipe, neurons=size) for size in self.neurons),
            *(replace(recipe, draw=size) for size in self.draw),
        ]
        return [recipe, *(each for each in dict.fromkeys(tried) if each != recipe)]


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """What draws of one bank say of images that fool its model."""

    size: tuple[int, int, int]
    """Fingerprints kept at most, neurons of each, fingerprints drawn."""
    seen: bool
    """Whether the bank was fitted on these attacks."""
    kept: tuple[int, ...]
    """Fingerprints that each class really has."""
    fresh: Bool[Tensor, "images draws"]
    """Whether each of many draws stops each image."""
    static: Bool[Tensor, "images detectors"]
    """Whether each of many detectors does that drew once for good."""

    def after(self, earlier: Sequence[int] = EARLIER) -> list[Survival]:
        """How often a fresh draw stops what passed so many."""
        return survival(self.fresh, earlier)

    @property
    def stopped_once(self) -> Interval:
        """What a detector stops that drew once; of what passed it, nothing, however often it is asked."""
        return survival(self.static, (0,))[0].stopped

    @classmethod
    def joined(cls, found: "Sequence[Resampled]") -> "list[Resampled]":
        """The same over several models, by size and by whether the attack was seen."""
        together: dict[tuple[object, ...], Resampled] = {}
        for each in found:
            mark = (each.size, each.seen)
            before = together.get(mark)
            together[mark] = each if before is None else before._with(each)
        return list(together.values())

    def _with(self, other: "Resampled") -> "Resampled":
        return replace(
            self,
            kept=self.kept + other.kept,
            fresh=torch.cat([self.fresh, other.fresh]),
            static=torch.cat([self.static, other.static]),
        )


def resample(
    subject: Subject,
    sweep: Sweep,
    *,
    most: int,
    rate: float,
    draws: int = 20,
    rule: Rule = "ratio",
) -> Iterator[Resampled]:
    """Draws of banks of all sizes on images made on the model itself, each under its largest threat.

    Args:
        subject: the model, its bank and images.
        sweep: sizes beside the bank's own.
        most: images of an attack at most.
        rate: share of clean images that a draw may stop.
        draws: fresh draws of an image, and detectors that drew once.
        rule: of the score.

    Raises:
        DataError: there are no test images, or a size leaves no class with any fingerprint.
    """
    groups: dict[bool, list[Examples]] = {}
    for sort in subject.widest():
        groups.setdefault(sort.attack in subject.fitted, []).append(subject.fooling(sort, most))
    for recipe in sweep.around(subject.fit.recipe):
        bank = subject.bank_of(recipe)
        held_out = _read(subject, bank, subject.feed.held_out)
        for seen, examples in sorted(groups.items(), reverse=True):
            shown = _read(subject, bank, examples)
            static = [
                stopped_by_static(bank, held_out, shown, rate=rate, rule=rule, seed=number)
                for number in range(draws)
            ]
            yield Resampled(
                size=(recipe.kept, recipe.neurons, recipe.draw),
                seen=seen,
                kept=tuple(bank.kept.tolist()),
                fresh=stopped_in_draws(bank, shown, draws, rate=rate, rule=rule).cpu(),
                static=torch.stack(static, dim=1).cpu(),
            )


def _read(subject: Subject, bank: DetectorBank, parts: Iterable[Examples]) -> Readout:
    return Readout.joined([bank.read(subject.model, each.images) for each in parts])
