"""Disagreement: what another model of the fleet thinks of the class that this one reads."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from orchestrator.detection.rivals.rival import score_in_passes


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

    def scores(
        self, images: Float[Tensor, "images 3 height width"]
    ) -> tuple[Int[Tensor, " images"], Float[Tensor, " images"]]:
        """The class read, and the logarithm of the probability that the other model gives it."""
        return score_in_passes(images, self.batch, self._score)

    def _score(
        self, some: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
        read = self.model(some).argmax(dim=1)
        return read, self.other(some).double().log_softmax(dim=1).gather(1, read[:, None])[:, 0]
