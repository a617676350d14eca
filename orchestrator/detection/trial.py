"""Trial of a detector: what it stops of clean images and of each attack, on images it never saw."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orchestrator.detection.bank import DetectorBank
from orchestrator.detection.draws import draw_seeds
from orchestrator.detection.examples import Examples
from orchestrator.detection.measures import auroc, flagged_at
from orchestrator.detection.origin import Origin
from orchestrator.detection.rates import RATES
from orchestrator.detection.scores import Rule
from orchestrator.detection.verdict import Verdict
from orchestrator.seeds import derive_seed
from orchestrator.statistics.proportion import Interval


@dataclass(frozen=True, order=True)
class Sort:
    """A sort of attacked images."""

    attack: str
    norm: str
    epsilon: float
    origin: Origin


@dataclass(frozen=True)
class Tried:
    """What a detector stops of one sort of images that fool its model."""

    sort: Sort
    images: int
    """Those that were read right when clean, were moved, and are misread."""
    auroc: Interval
    """Against all clean test images."""
    stopped: Mapping[float, Interval]
    """By false-positive rate."""


@dataclass(frozen=True)
class Trial:
    """One bank on its model, by one rule; draws follow from a seed, so that a report can be made twice."""

    model: nn.Module
    bank: DetectorBank
    rule: Rule
    seed: int

    def clean(self, examples: Iterable[Examples]) -> Verdict:
        """What the bank says of clean images; at least one part of them."""
        return joined([self._verdict(each.images, "clean", place) for place, each in enumerate(examples)])

    def attacked(self, sort: Sort, examples: Iterable[Examples], clean: Verdict) -> Tried:
        """What the bank stops of one sort of images; at least one part of them.

        Args:
            sort: which.
            examples: the moved images with their originals.
            clean: what the bank says of clean images.
        """
        parts = [self._fooled(each, sort, place) for place, each in enumerate(examples)]
        verdict = joined(parts)
        return Tried(
            sort, len(verdict.flag), auroc(clean.score, verdict.score), flagged_at(verdict.p_value)
        )

    def _fooled(self, examples: Examples, sort: Sort, place: int) -> Verdict:
        """The verdicts on images that fool the model, as the transfer matrix counts them."""
        verdict = self._verdict(examples.images, str(sort), place)
        fooled = verdict.classes != examples.labels
        if examples.originals is not None:
            fooled &= (examples.images != examples.originals).flatten(1).any(dim=1)
            fooled &= self.bank.read(self.model, examples.originals).classes == examples.labels
        return verdict.part(fooled.nonzero()[:, 0])

    def _verdict(self, images: Float[Tensor, "images 3 height width"], name: str, place: int) -> Verdict:
        seeds = draw_seeds(range(len(images)), derive_seed(self.seed, "trial", name, place))
        readout = self.bank.read(self.model, images)
        return self.bank.verdict(readout, seeds, rate=max(RATES), rule=self.rule)


def joined(parts: Sequence[Verdict]) -> Verdict:
    """Verdicts on several parts, in their order; at least one."""
    columns = ((part.flag, part.score, part.p_value, part.classes) for part in parts)
    return Verdict(*(torch.cat(column) for column in zip(*columns, strict=True)))
