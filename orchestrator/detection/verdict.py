"""Verdict: what a detector says of some images."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Verdict:
    """What a detector says of some images."""

    flag: Bool[Tensor, " images"]
    """Whether the image is stopped."""
    score: Float[Tensor, " images"]
    """Low is suspicious; in float64. Infinite where the class is not watched."""
    p_value: Float[Tensor, " images"]
    """The chance that a clean image scores as low."""
    classes: Int[Tensor, " images"]
    """What the model reads."""

    def part(self, rows: Int[Tensor, " some"]) -> "Verdict":
        """What is said of some of the images."""
        return Verdict(self.flag[rows], self.score[rows], self.p_value[rows], self.classes[rows])
