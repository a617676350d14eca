"""DI-FGSM: MI-FGSM that looks at the image shrunk and moved at random, with black around it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.attacks.answer import Found
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.noise import uniform
from orchestrator.attacks.settings import at_least, chance
from orchestrator.attacks.source import Access, Source, View
from orchestrator.attacks.threat import Norm, Threat
from orchestrator.attacks.transfer.climb import Pace, Stand, check_pace, climb
from orchestrator.attacks.transfer.reading import read


@dataclass(frozen=True, kw_only=True)
class DiverseInputsFgsm:
    """M-DI²-FGSM (Xie et al. 2019, arXiv 1803.06978), for ℓ∞ and ℓ2.

    Every image has its own size and place at every step. They are not rounded to pixels, as the
    authors' are, so that images of 16 pixels vary too.

    Args:
        steps: gradient steps; each costs one forward and one backward pass.
        reach: length of all steps together, in ε.
        momentum: share of the sum of gradients that lasts to the next step.
        probability: of looking at the image changed, else it is looked at as it is.
        canvas: side of what is looked at over that of the image when it is smallest.

    Raises:
        StudyError: steps below 1, reach below 0.001, momentum below 0, probability outside [0, 1], or a
            canvas below 1.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset()
    steps: int = 10
    reach: float = 1.0
    momentum: float = 1.0
    probability: float = 0.5
    canvas: float = 1.1

    def __post_init__(self) -> None:
        check_pace(self)
        chance(self, "probability")
        at_least(1, self, "canvas")

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Where the last step ends."""

        def diverse(stand: Stand) -> Float[Tensor, "rows 3 height width"]:
            return stand.gradient(stand.current, self.view(stand.points, stand.step))

        return climb(source, points, threat, Pace(self.steps, self.reach, self.momentum), diverse)

    def calls(self, classes: int) -> Calls:  # noqa: ARG002 - as many for any number of classes
        """Passes one image costs: one each way a step."""
        return Calls(forwards=self.steps, backwards=self.steps)

    def view(self, points: Points, stream: int) -> View:
        """These images, some of them shrunk, each to its own size at its own place, with black around."""
        drawn = uniform(points.seeds, stream, 4)
        smallest = 1 / self.canvas
        size = torch.where(drawn[:, 0] < self.probability, smallest + drawn[:, 1] * (1 - smallest), 1.0)
        height, width = points.images.shape[2:]
        down = _before(height, size, drawn[:, 2])[:, :, None].expand(-1, -1, width)
        across = _before(width, size, drawn[:, 3])[:, None, :].expand(-1, height, -1)
        inside = _within(down, height) & _within(across, width)

        def shrunk(images: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows 3 height width"]:
            seen = read(images, down.clamp(0, height - 1), across.clamp(0, width - 1))
            return seen * inside[:, None]

        return shrunk


def _before(
    side: int, size: Float[Tensor, " rows"], place: Float[Tensor, " rows"]
) -> Float[Tensor, "rows side"]:
    """For every place along a side of the view the place in the image that is seen there."""
    centres = torch.arange(side, dtype=torch.float64, device=size.device) + 0.5
    corner = place * (1 - size) * side
    return (centres - corner[:, None]) / size[:, None] - 0.5


def _within(places: Float[Tensor, "rows height width"], side: int) -> Tensor:
    return (places >= -0.5) & (places < side - 0.5)
