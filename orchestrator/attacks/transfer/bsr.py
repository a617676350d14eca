"""BSR: MI-FGSM on the mean gradient over copies whose blocks are shuffled and turned."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orchestrator.attacks.answer import Found
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.noise import reseeded, uniform
from orchestrator.attacks.settings import at_least
from orchestrator.attacks.source import Access, Source, View
from orchestrator.attacks.threat import Norm, Threat
from orchestrator.attacks.transfer.climb import Pace, Stand, check_pace, climb
from orchestrator.attacks.transfer.reading import read
from orchestrator.attacks.transfer.strips import cut


@dataclass(frozen=True, kw_only=True)
class BlockShuffleRotate:
    """BSR (Wang et al. 2024, arXiv 2308.10299, §3.3), for ℓ∞ and ℓ2.

    A copy is cut into strips, they are shuffled, each is cut across and shuffled again, and every block
    is turned about its centre. Copies are cut along rows and along columns by turns.

    Args:
        steps: gradient steps.
        reach: length of all steps together, in ε.
        momentum: share of the sum of gradients that lasts to the next step.
        copies: looked at in each step, the first of them the image as it is, and all of the same
            weight, neither of which is the paper's; each costs one pass each way.
        blocks: along each side.
        degrees: that a block is turned at most, either way.

    Raises:
        StudyError: steps, copies or blocks below 1, reach below 0.001, momentum or degrees below 0.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset()
    steps: int = 10
    reach: float = 1.0
    momentum: float = 1.0
    copies: int = 20
    blocks: int = 2
    degrees: float = 24.0

    def __post_init__(self) -> None:
        check_pace(self)
        at_least(1, self, "copies", "blocks")
        at_least(0, self, "degrees")

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Where the last step ends."""

        def over_copies(stand: Stand) -> Float[Tensor, "rows 3 height width"]:
            return stand.mean_gradient(self.copies, lambda stream: self.view(stand.points, stream))

        return climb(source, points, threat, Pace(self.steps, self.reach, self.momentum), over_copies)

    def calls(self, classes: int) -> Calls:  # noqa: ARG002 - as many for any number of classes
        """Passes one image costs: one each way for every copy of every step."""
        looks = self.steps * self.copies
        return Calls(forwards=looks, backwards=looks)

    def view(self, points: Points, stream: int) -> View:
        """These images with their blocks shuffled and turned, each image in its own way."""
        along_columns = stream % 2 == 1
        sides = points.images.shape[:1:-1] if along_columns else points.images.shape[2:]
        down, across, inside = self._places(points.seeds, stream, *sides)
        if along_columns:
            down, across, inside = across.mT, down.mT, inside.mT

        def shuffled(images: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows 3 height width"]:
            return read(images, down, across) * inside[:, None]

        return shuffled

    def _places(
        self, seeds: Int[Tensor, " rows"], stream: int, side: int, other: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """For every pixel the place seen there, and whether it lies within the block turned there."""
        outer = cut(seeds, stream, side, self.blocks, shuffled=True)
        inner = [
            cut(reseeded(seeds, strip + 1), stream, other, self.blocks, shuffled=True)
            for strip in range(self.blocks)
        ]
        drawn = uniform(reseeded(seeds, self.blocks + 1), stream, self.blocks, self.blocks)
        angles = math.radians(self.degrees) * (2 * drawn - 1)
        rows = torch.arange(len(seeds), device=seeds.device)[:, None]
        first, last, source, number = (
            torch.stack([getattr(strips, name) for strips in inner], dim=1)[rows, outer.number]
            for name in ("first", "last", "source", "number")
        )
        angle = angles[rows[:, :, None], outer.number[:, :, None], number]
        centre, middle = (outer.first + outer.last)[:, :, None] / 2, (first + last) / 2
        y, x = outer.source[:, :, None] - centre.double(), source - middle.double()
        down, across = y * angle.cos() + x * angle.sin(), x * angle.cos() - y * angle.sin()
        height, width = (outer.last - outer.first)[:, :, None] / 2, (last - first) / 2
        inside = (down.abs() <= height + 0.5) & (across.abs() <= width + 0.5)
        down, across = torch.clamp(down, -height, height), torch.clamp(across, -width, width)
        return centre + down, middle + across, inside
