"""SIA: MI-FGSM on the mean gradient over copies each of whose blocks is changed in its own way."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orchestrator.attacks.answer import Found
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.noise import integers, reseeded, uniform
from orchestrator.attacks.settings import at_least
from orchestrator.attacks.source import Access, Source, View
from orchestrator.attacks.threat import Norm, Threat
from orchestrator.attacks.transfer.climb import Pace, Stand, check_pace, climb
from orchestrator.attacks.transfer.reading import pick
from orchestrator.attacks.transfer.strips import Strips, cut

SHIFT_DOWN, SHIFT_ACROSS, FLIP_DOWN, FLIP_ACROSS, TURN, DIM, NOISE = range(7)
_CHANGES = 7
# The paper's ε; its noise does not follow the threat.
_NOISE = 16 / 255


@dataclass(frozen=True, kw_only=True)
class StructureInvariant:
    """SIA (Wang et al. 2023, arXiv 2309.14700, §3.3), for ℓ∞ and ℓ2.

    A copy is cut into blocks, and each block is shifted (what leaves it comes in again opposite),
    mirrored, turned by half, dimmed or made noisy. The paper's resizing, frequency cut and dropout are
    left out, as in the TransferAttack library, whose numbers the field compares with.

    Args:
        steps: gradient steps.
        reach: length of all steps together, in ε.
        momentum: share of the sum of gradients that lasts to the next step.
        copies: looked at in each step, the first of them the image as it is, and all of the same
            weight, neither of which is the paper's; each costs one pass each way.
        blocks: along each side.

    Raises:
        StudyError: steps, copies or blocks below 1, reach below 0.001, or momentum below 0.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset()
    steps: int = 10
    reach: float = 1.0
    momentum: float = 1.0
    copies: int = 20
    blocks: int = 3

    def __post_init__(self) -> None:
        check_pace(self)
        at_least(1, self, "copies", "blocks")

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
        """These images with every block changed, each image in its own way."""
        draws = [reseeded(points.seeds, number) for number in range(5)]
        _, channels, height, width = points.images.shape
        rows = cut(draws[0], stream, height, self.blocks, shuffled=False)
        columns = cut(draws[1], stream, width, self.blocks, shuffled=False)
        image = torch.arange(len(points), device=points.seeds.device)[:, None, None]
        block = (image, rows.number[:, :, None], columns.number[:, None, :])
        change = integers(draws[2], stream, _CHANGES, self.blocks, self.blocks)[block]
        amount = uniform(draws[3], stream, self.blocks, self.blocks)[block]
        noise = _NOISE * (2 * uniform(draws[4], stream, channels, height, width) - 1)
        down = _moved(rows, amount, change, SHIFT_DOWN, FLIP_DOWN, side=1)
        across = _moved(columns, amount, change, SHIFT_ACROSS, FLIP_ACROSS, side=2)

        def changed(images: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows 3 height width"]:
            light = torch.where(change == DIM, amount, 1.0).to(images)[:, None]
            grain = torch.where((change == NOISE)[:, None], noise, 0.0).to(images)
            return (pick(images, down, across) * light + grain).clamp(0, 1)

        return changed


def _moved(
    strips: Strips,
    amount: Float[Tensor, "rows height width"],
    change: Int[Tensor, "rows height width"],
    shift: int,
    flip: int,
    *,
    side: int,
) -> Int[Tensor, "rows height width"]:
    """For every pixel the place along one side that is seen there."""
    place, first, last = (each.unsqueeze(3 - side) for each in (strips.source, strips.first, strips.last))
    length = last - first + 1
    shifted = first + (place - first + (amount * length).long()) % length
    moved = torch.where(change == shift, shifted, place)
    return torch.where((change == flip) | (change == TURN), first + last - place, moved)
