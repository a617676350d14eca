"""Rival: another way to tell attacked images, held to the same thresholds and measures as a bank."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orchestrator.detection.calibration import Calibration
from orchestrator.detection.examples import Examples
from orchestrator.detection.readout import full_passes
from orchestrator.detection.verdict import Verdict

_ONLY = "score"


@runtime_checkable
class Rival(Protocol):
    """Scores images that a model reads; its draws, if any, are its own affair."""

    def scores(
        self, images: Float[Tensor, "images 3 height width"]
    ) -> tuple[Int[Tensor, " images"], Float[Tensor, " images"]]:
        """What the model reads each image as, and how it scores, in float64; low is suspicious."""
        ...


@dataclass(frozen=True)
class CalibratedRival:
    """A rival with thresholds from held-out clean images, as a bank has them."""

    rival: Rival
    calibration: Calibration

    @classmethod
    def on(cls, rival: Rival, held_out: Iterable[Examples], least: int) -> "CalibratedRival":
        """The rival with thresholds.

        Args:
            rival: what scores.
            held_out: clean images that it was not fitted on.
            least: a class with fewer of them is judged by those of all.

        Raises:
            DataError: there are none.
        """
        none = (torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64))
        found = [none, *(tuple(part.cpu() for part in rival.scores(each.images)) for each in held_out)]
        classes, scores = (torch.cat(column) for column in zip(*found, strict=True))
        return cls(rival, Calibration({_ONLY: scores}, classes, least))

    def judge(self, images: Float[Tensor, "images 3 height width"], *, rate: float = 0.01) -> Verdict:
        """What the rival says of images, at a false-positive rate.

        Raises:
            StudyError: the rate is too low for so few held-out images.
        """
        classes, scores = self.rival.scores(images)
        return self.calibration.to(scores.device).verdict(_ONLY, scores, classes, rate)


@torch.no_grad()
def score_in_passes(
    images: Float[Tensor, "images 3 height width"],
    batch: int,
    score: Callable[
        [Float[Tensor, "batch 3 height width"]], tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]
    ],
) -> tuple[Int[Tensor, " images"], Float[Tensor, " images"]]:
    """Classes and scores of images, so many at a time; what fills the last pass up counts for nothing.

    Args:
        images: in [0, 1].
        batch: images of a pass.
        score: the classes and the scores, in float64, of one pass.
    """
    classes = [torch.zeros(0, dtype=torch.int64, device=images.device)]
    scores = [torch.zeros(0, dtype=torch.float64, device=images.device)]
    for some, count in full_passes(images, batch):
        read, found = score(some)
        classes.append(read[:count])
        scores.append(found[:count])
    return torch.cat(classes), torch.cat(scores)
