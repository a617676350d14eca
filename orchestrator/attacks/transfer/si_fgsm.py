"""SI-FGSM: NI-FGSM on the mean gradient over darker and darker copies of the image."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.attacks.answer import Found
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.settings import at_least
from orchestrator.attacks.source import Access, Source
from orchestrator.attacks.threat import Norm, Threat
from orchestrator.attacks.transfer.climb import Pace, Stand, check_pace, climb
from orchestrator.attacks.transfer.ni_fgsm import ahead


@dataclass(frozen=True, kw_only=True)
class ScaleInvariantFgsm:
    """SI-NI-FGSM (Lin et al. 2020, arXiv 1908.06281, §3.3), for ℓ∞ and ℓ2.

    The gradient is the mean of those of the image, its half, its quarter and so on, each taken to the
    image itself.

    Args:
        steps: gradient steps.
        reach: length of all steps together, in ε.
        momentum: share of the sum of gradients that lasts to the next step.
        scales: copies, each half as bright as the last; each costs one pass each way a step.

    Raises:
        StudyError: steps or scales below 1, reach below 0.001 or momentum below 0.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset()
    steps: int = 10
    reach: float = 1.0
    momentum: float = 1.0
    scales: int = 5

    def __post_init__(self) -> None:
        check_pace(self)
        at_least(1, self, "scales")

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Where the last step ends."""
        pace = Pace(self.steps, self.reach, self.momentum)

        def over_scales(stand: Stand) -> Float[Tensor, "rows 3 height width"]:
            shown = ahead(stand, pace)
            total = torch.zeros_like(shown)
            for halvings in range(self.scales):
                total += stand.gradient(shown, partial(torch.mul, other=0.5**halvings))
            return total / self.scales

        return climb(source, points, threat, pace, over_scales)

    def calls(self, classes: int) -> Calls:  # noqa: ARG002 - as many for any number of classes
        """Passes one image costs: one each way for every scale of every step."""
        looks = self.steps * self.scales
        return Calls(forwards=looks, backwards=looks)
