"""TI-FGSM: MI-FGSM on a blurred gradient, as if the image were looked at from many places at once."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows it by
from jaxtyping import Float
from torch import Tensor

from orchestrator.attacks.answer import Found
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.settings import at_least
from orchestrator.attacks.source import Access, Source
from orchestrator.attacks.threat import Norm, Threat
from orchestrator.attacks.transfer.climb import Pace, Stand, check_pace, climb
from orchestrator.errors import StudyError


@dataclass(frozen=True, kw_only=True)
class TranslationInvariantFgsm:
    """TI-FGSM with momentum (Dong et al. 2019, arXiv 1904.02884, equation 8), for ℓ∞ and ℓ2.

    The blur stands for the mean gradient over shifted copies, weighted by a Gaussian: one look does for
    all of them.

    Args:
        steps: gradient steps; each costs one forward and one backward pass.
        reach: length of all steps together, in ε.
        momentum: share of the sum of gradients that lasts to the next step.
        kernel: width of the blur in pixels, odd: three standard deviations each way. The paper has 15
            for images of 299 pixels; of 3 to 15, 5 fooled the most other keys on images of 32.

    Raises:
        StudyError: steps below 1, reach below 0.001, momentum below 0, or a kernel not odd.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset()
    steps: int = 10
    reach: float = 1.0
    momentum: float = 1.0
    kernel: int = 5

    def __post_init__(self) -> None:
        check_pace(self)
        at_least(1, self, "kernel")
        if self.kernel % 2 == 0:
            raise StudyError(f"Setting kernel of ti-fgsm is {self.kernel}. Give an odd width in pixels.")

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Where the last step ends."""

        def blurred_gradient(stand: Stand) -> Float[Tensor, "rows 3 height width"]:
            return blurred(stand.gradient(stand.current), weights(self.kernel))

        pace = Pace(self.steps, self.reach, self.momentum)
        return climb(source, points, threat, pace, blurred_gradient)

    def calls(self, classes: int) -> Calls:  # noqa: ARG002 - as many for any number of classes
        """Passes one image costs: one each way a step."""
        return Calls(forwards=self.steps, backwards=self.steps)


def weights(kernel: int) -> list[float]:
    """A Gaussian of unit sum on ``kernel`` places, which end at three standard deviations."""
    bell = torch.exp(-0.5 * torch.linspace(-3, 3, kernel, dtype=torch.float64) ** 2)
    return (bell / bell.sum()).tolist() if kernel > 1 else [1.0]


def blurred(
    gradient: Float[Tensor, "rows 3 height width"], weights: list[float]
) -> Float[Tensor, "rows 3 height width"]:
    """The gradient, each channel blurred along both sides, with zeros beyond the border.

    A sum of shifted copies: unlike a library's convolution, its rounding knows no batch size.
    """
    reach = len(weights) // 2
    height, width = gradient.shape[2:]
    wide = F.pad(gradient, (0, 0, reach, reach))
    down = sum(weight * wide[:, :, place : place + height] for place, weight in enumerate(weights))
    wide = F.pad(torch.as_tensor(down), (reach, reach, 0, 0))
    across = sum(weight * wide[:, :, :, place : place + width] for place, weight in enumerate(weights))
    return torch.as_tensor(across)
