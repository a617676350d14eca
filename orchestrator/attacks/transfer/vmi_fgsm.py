"""VMI-FGSM: MI-FGSM whose gradient is tuned by how gradients differ in the last image's neighbourhood."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.attacks.answer import Found
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.noise import normal, uniform
from orchestrator.attacks.settings import at_least
from orchestrator.attacks.source import Access, Source
from orchestrator.attacks.starts import unit_steps
from orchestrator.attacks.threat import Norm, Threat
from orchestrator.attacks.transfer.climb import Pace, Stand, check_pace, climb


@dataclass(frozen=True, kw_only=True)
class VarianceTunedFgsm:
    """VMI-FGSM (Wang & He 2021, arXiv 2103.15571, algorithm 1), for ℓ∞ and ℓ2.

    The mean gradient around the last image, less that at it, is added to the gradient here. The last
    step's neighbours would be of no use, and are not looked at.

    Args:
        steps: gradient steps.
        reach: length of all steps together, in ε.
        momentum: share of the sum of gradients that lasts to the next step.
        neighbours: drawn around each image but the last; each costs one pass each way.
        radius: how far from the image they are drawn, in ε.

    Raises:
        StudyError: steps below 1, reach below 0.001, or another setting below 0.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset()
    steps: int = 10
    reach: float = 1.0
    momentum: float = 1.0
    neighbours: int = 20
    radius: float = 1.5

    def __post_init__(self) -> None:
        check_pace(self)
        at_least(0, self, "neighbours", "radius")

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Where the last step ends."""
        return climb(source, points, threat, Pace(self.steps, self.reach, self.momentum), self._tuned)

    def calls(self, classes: int) -> Calls:  # noqa: ARG002 - as many for any number of classes
        """Passes one image costs: one each way a step, and one a neighbour of every step but the last."""
        looks = self.steps + (self.steps - 1) * self.neighbours
        return Calls(forwards=looks, backwards=looks)

    def _tuned(self, stand: Stand) -> Float[Tensor, "rows 3 height width"]:
        here = stand.gradient(stand.current)
        tuned = here + stand.variance
        if self.neighbours and not stand.last:
            around = torch.zeros_like(here)
            for number in range(self.neighbours):
                around += stand.gradient(self._neighbour(stand, stand.step * self.neighbours + number))
            stand.variance = around / self.neighbours - here
        return tuned

    def _neighbour(self, stand: Stand, stream: int) -> Float[Tensor, "rows 3 height width"]:
        """A neighbour within [0, 1]: uniform in a cube under ℓ∞, at the radius under ℓ2."""
        seeds, shape = stand.points.seeds, stand.current.shape[1:]
        if stand.threat.norm == "linf":
            noise = 2 * uniform(seeds, stream, *shape) - 1
        else:
            noise = unit_steps(normal(seeds, stream, *shape), stand.threat)
        distance = self.radius * stand.threat.epsilon
        return (stand.current + (distance * noise).to(stand.current)).clamp(0, 1)
