"""Calibration: what clean images of its own score, which a detector was not fitted on; thresholds from it.

An image's p-value is the share of held-out clean images that score as low, itself included. If the image
is clean, it is below a rate no more often than at that rate, whatever the scores' distribution (conformal
prediction: Vovk, Gammerman and Shafer 2005).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orchestrator.detection.rates import highest
from orchestrator.detection.verdict import Verdict
from orchestrator.errors import DataError, StudyError


@dataclass(frozen=True)
class Calibration:
    """Scores of held-out clean images, by the class they were read as.

    Raises:
        DataError: there are none.
    """

    scores: Mapping[str, Float[Tensor, " held_out"]]
    """By rule, in float64."""
    classes: Int[Tensor, " held_out"]
    least: int
    """A class with fewer is judged by the scores of all classes."""

    def __post_init__(self) -> None:
        if not len(self.classes):
            raise DataError(
                "There are no held-out clean images to set thresholds by. Give more images, or fewer of "
                "them to fit on."
            )

    def peers(self, rule: str, read_as: int) -> Float[Tensor, " peers"]:
        """Scores that those of a class are held against, ascending: its own, or all where it has few."""
        own = self.classes == read_as
        scores = self.scores[rule]
        return (scores[own] if int(own.sum()) >= self.least else scores).sort().values

    def p_values(
        self, rule: str, scores: Float[Tensor, " images"], classes: Int[Tensor, " images"]
    ) -> Float[Tensor, " images"]:
        """The chance that a clean image scores as low, for each image."""
        found = torch.ones_like(scores, dtype=torch.float64)
        for read_as in set(classes.tolist()):
            peers, rows = self.peers(rule, read_as).to(scores.device), classes == read_as
            as_low = torch.searchsorted(peers, scores[rows].contiguous(), right=True)
            found[rows] = (1 + as_low).double() / (1 + len(peers))
        return found

    def verdict(
        self, rule: str, scores: Float[Tensor, " images"], classes: Int[Tensor, " images"], rate: float
    ) -> Verdict:
        """What is said of images by their scores, at a false-positive rate.

        Raises:
            StudyError: the rate is too low for so few held-out images.
        """
        self.check_rate(rate)
        p_values = self.p_values(rule, scores, classes)
        return Verdict(p_values <= highest(rate), scores, p_values, classes)

    def threshold(self, rule: str, read_as: int, rate: float) -> float:
        """The score below which images of a class are flagged; -inf where none can be.

        Args:
            rule: of the scores.
            read_as: the class.
            rate: share of clean images that may be flagged.
        """
        peers = self.peers(rule, read_as)
        # p = (1 + as_low) / (1 + n) ≤ rate, solved for how many peers may score as low.
        most = int(rate * (1 + len(peers)) + 1e-9) - 1
        return float("-inf") if most < 0 else float(peers[most]) if most < len(peers) else float("inf")

    def to(self, device: torch.device | str) -> "Calibration":
        """The same on another device."""
        scores = {rule: values.to(device) for rule, values in self.scores.items()}
        return Calibration(scores, self.classes.to(device), self.least)

    def check_rate(self, rate: float) -> None:
        """Raise StudyError where so few images are held out that nothing would ever be flagged."""
        if not 0 < rate < 1 or rate * (1 + len(self.classes)) < 1 - 1e-9:
            raise StudyError(
                f"A false-positive rate of {rate:g} cannot be kept with {len(self.classes)} held-out clean "
                f"images. Choose one in ({1 / (1 + len(self.classes)):.2g}, 1), or hold out more images."
            )
