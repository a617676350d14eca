"""Patches: squares of images, cut out and pasted; the smallest around all that changed in an image."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

from orchestrator.attacks.answer import per_image
from orchestrator.attacks.query.windows import Window


def patch_sides(
    moved: Float[Tensor, "batch 3 height width"], images: Float[Tensor, "batch 3 height width"]
) -> Int[Tensor, " batch"]:
    """The side of the smallest square, in pixels, outside of which not a bit changed; 0 where none did."""
    changed = (moved != images).any(dim=1)
    return torch.stack([_span(changed.any(dim=2)), _span(changed.any(dim=1))]).amax(dim=0)


def project_patch(
    moved: Float[Tensor, "batch 3 height width"],
    images: Float[Tensor, "batch 3 height width"],
    side: int,
) -> Float[Tensor, "batch 3 height width"]:
    """Of what changed only the square of this side that holds most: the nearest image under ℓ2."""
    height, width = images.shape[2:]
    moved = moved.clamp(0, 1)
    change = (moved - images).double().square().sum(dim=1)
    window = window_at(best_place(change, side), side, width)
    # Beside a large change a slight one is lost in a sum: what fits is kept without adding up.
    kept = per_image(patch_sides(moved, images) <= side) | window.mask(height, width)
    return torch.where(kept, moved, images)


def window_at(place: Int[Tensor, " batch"], side: int, width: int) -> Window:
    """The squares of this side whose first pixels have these numbers, counted along rows."""
    return Window(place // width, place % width, torch.full_like(place, side))


def best_place(worth: Float[Tensor, "batch height width"], side: int) -> Int[Tensor, " batch"]:
    """The number of the first pixel of the square that holds most; the first of several."""
    means = square_means(worth, side)
    place = means.flatten(1).argmax(dim=1)
    columns = means.shape[2]
    return place // columns * worth.shape[2] + place % columns


def square_means(
    worth: Float[Tensor, "batch height width"], side: int
) -> Float[Tensor, "batch down across"]:
    """The mean over every square of this side that fits, by the place of its first pixel."""
    fitting = tuple(min(side, length) for length in worth.shape[1:])
    means: Tensor = avg_pool2d(worth[:, None], fitting, stride=1)[:, 0]
    return means


def paste(
    images: Float[Tensor, "batch 3 height width"],
    patches: Float[Tensor, "batch 3 side side"],
    window: Window,
) -> Float[Tensor, "batch 3 height width"]:
    """Images with a patch in each one's window, differentiable by the patches."""
    height, width = images.shape[2:]
    side = patches.shape[-1]
    down, right = (offset.clamp(0, side - 1) for offset in window.offsets(height, width))
    place = (down * side + right).flatten(1)[:, None].expand(-1, 3, -1)
    spread = patches.flatten(2).gather(2, place).view_as(images)
    return torch.where(window.mask(height, width), spread, images)


def cut(
    images: Float[Tensor, "batch 3 height width"], window: Window, side: int
) -> Float[Tensor, "batch 3 side side"]:
    """What is in each image's window."""
    along = torch.arange(side, device=images.device)
    down, right = window.top[:, None] + along, window.left[:, None] + along
    place = (down[:, :, None] * images.shape[3] + right[:, None, :]).flatten(1)
    seen = images.flatten(2).gather(2, place[:, None].expand(-1, 3, -1))
    return seen.view(len(images), 3, side, side)


def first_changed(
    moved: Float[Tensor, "batch 3 height width"], images: Float[Tensor, "batch 3 height width"], side: int
) -> Int[Tensor, " batch"]:
    """The number of the first pixel of a square of this side around all that changed, if it fits in one."""
    height, width = images.shape[2:]
    changed = (moved != images).any(dim=1)
    top = changed.any(dim=2).long().argmax(dim=1).clamp_max(height - side)
    left = changed.any(dim=1).long().argmax(dim=1).clamp_max(width - side)
    return top * width + left


def _span(changed: Tensor) -> Int[Tensor, " batch"]:
    """From the first line that changed to the last, both counted."""
    length = changed.shape[1]
    first = changed.long().argmax(dim=1)
    last = length - 1 - changed.flip(1).long().argmax(dim=1)
    return torch.where(changed.any(dim=1), last - first + 1, 0)
