"""Insiders have model, bank and code and attack both at once; beside attacks that know no detector."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from orchestrator.attacks.attack import Attack, Points
from orchestrator.attacks.gradient.apgd_untargeted import ApgdUntargeted
from orchestrator.attacks.gradient.targeted_fgsm import TargetedFgsm, wanted
from orchestrator.attacks.source import Source
from orchestrator.attacks.threat import Threat
from orchestrator.detection.evasion import Evasion
from orchestrator.detection.subject import Subject
from orchestrator.detection.survivors import stopped_in_draws, survival
from orchestrator.seeds import derive_seed
from orchestrator.statistics.proportion import Interval, wilson

EVASION = "evasion"
_UNAWARE: dict[str, Attack] = {"targeted-fgsm": TargetedFgsm(), "apgd-ce": ApgdUntargeted(loss="ce")}
_TARGETED = (EVASION, "targeted-fgsm")


@dataclass(frozen=True, kw_only=True)
class Struck:
    """What one attack under one threat came to, on images that the model read right before."""

    attack: str
    threat: Threat
    fooled: Bool[Tensor, " images"]
    """Whether it is read as its target; where the attack has none, misread."""
    stopped: Bool[Tensor, "fooled draws"]
    """Whether each of many fresh draws stops each of those that fool the model."""

    @property
    def fooling(self) -> Interval:
        """The share that fools the model, draws apart."""
        return wilson(int(self.fooled.sum()), len(self.fooled))

    @property
    def caught(self) -> Interval:
        """The share of these that a fresh draw stops."""
        return survival(self.stopped, (0,))[0].stopped

    @property
    def through(self) -> Interval:
        """The share of all images that fool the model and that a fresh draw lets through."""
        passes = torch.zeros(len(self.fooled), self.stopped.shape[1], dtype=torch.bool)
        passes[self.fooled] = ~self.stopped
        return survival(passes, (0,))[0].stopped

    @classmethod
    def joined(cls, found: "Sequence[Struck]") -> "list[Struck]":
        """The same over several models, by attack and threat."""
        together: dict[tuple[object, ...], Struck] = {}
        for each in found:
            mark = (each.threat, each.attack)
            before = together.get(mark)
            together[mark] = each if before is None else before._with(each)
        return list(together.values())

    def _with(self, other: "Struck") -> "Struck":
        return replace(
            self,
            fooled=torch.cat([self.fooled, other.fooled]),
            stopped=torch.cat([self.stopped, other.stopped]),
        )


@dataclass(frozen=True, kw_only=True)
class Insider:
    """Attacks on a model and its bank by one who lacks only the draw.

    Args:
        threats: ℓ∞ or ℓ2, each begun anew.
        evasion: the attack on both; its rule is the one that judges.
        rate: share of clean images that a draw may stop.
        draws: fresh draws of an image.
    """

    threats: tuple[Threat, ...] = tuple(Threat("linf", step / 255) for step in (1, 2, 4, 8, 16))
    evasion: Evasion = field(default_factory=Evasion)
    rate: float = 0.05
    draws: int = 20

    def strike(self, subject: Subject, most: int) -> Iterator[Struck]:
        """All attacks under all threats on the same images, those with a target towards the same.

        Args:
            subject: the model, its bank and clean test images.
            most: images at most.

        Raises:
            DataError: there is no clean test image.
        """
        clean = subject.read_right(most)
        seeds = [derive_seed(subject.fit.seed, "insider", place) for place in range(len(clean.labels))]
        points = Points.of(clean.images, clean.labels, seeds)
        points = points.towards(wanted(points, subject.fit.classes))
        for threat in self.threats:
            yield self._judged(
                subject, points, EVASION, threat, self.evasion(subject.model, subject.bank, points, threat)
            )
            for name, attack in _UNAWARE.items():
                source = Source(
                    [subject.model], len(points), subject.bank.batch, device=points.images.device
                )
                yield self._judged(subject, points, name, threat, attack(source, points, threat).worst)

    def _judged(
        self,
        subject: Subject,
        points: Points,
        name: str,
        threat: Threat,
        moved: Float[Tensor, "rows 3 height width"],
    ) -> Struck:
        read = subject.reads(moved)
        assert points.targets is not None  # noqa: S101 - a defect of strike
        fooled = read.eq(points.targets) if name in _TARGETED else read.ne(points.labels)
        shown = subject.bank.read(subject.model, moved[fooled])
        stopped = stopped_in_draws(subject.bank, shown, self.draws, rate=self.rate, rule=self.evasion.rule)
        return Struck(attack=name, threat=threat, fooled=fooled.cpu(), stopped=stopped.cpu())
