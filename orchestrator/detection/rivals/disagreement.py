"""Disagreement: what another model of the fleet thinks of the class that this one reads."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchestrator.detection.readout import full_passes


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """Prediction inconsistency with an auxiliary model (after PID, arXiv 2506.03765).

    In a fleet the auxiliary is at hand: a model of another key, which an attack on this one hardly moves.
    It takes that other model's weights and a second pass, where a bank takes neither.

    Args:
        model: in eval mode, taking images in [0, 1].
        other: the second opinion, likewise.
        batch: images of a pass.
    """

    model: nn.Module
    other: nn.Module
    batch: int = 64

    @torch.no_grad()
    def scores(
        self, images: Float[Tensor, "images 3 height width"]
    ) -> tuple[Int[Tensor, " images"], Float[Tensor, " images"]]:
        """The class read, and the logarithm of the probability that the other model gives it."""
        classes = torch.zeros(0, dtype=torch.int64, device=images.device)
        scores = torch.zeros(0, dtype=torch.float64, device=images.device)
        for some, count in full_passes(images, self.batch):
            read = self.model(some).argmax(dim=1)
            opinion = self.other(some).double().log_softmax(dim=1).gather(1, read[:, None])[:, 0]
            classes, scores = torch.cat([classes, read[:count]]), torch.cat([scores, opinion[:count]])
        return classes, scores
