"""Reading of images at other places than their own: how views shift, shrink, shuffle and turn them."""

from jaxtyping import Float, Int
from torch import Tensor

Places = Float[Tensor, "rows height width"]


def read(images: Float[Tensor, "rows 3 height width"], down: Places, across: Places) -> Tensor:
    """What stands at places between pixels, one place for every pixel of the answer; bilinear.

    Every image has places of its own, so a batch holds as many different views as images.

    Args:
        images: pixels at whole places.
        down: places from 0 to height - 1.
        across: places from 0 to width - 1.

    Returns:
        Images of the same shape, differentiable by ``images``; at whole places exactly their pixels.
    """
    height, width = images.shape[2:]
    top, left = down.floor().long(), across.floor().long()
    below, right = (top + 1).clamp_max(height - 1), (left + 1).clamp_max(width - 1)
    low, far = (down - top).to(images)[:, None], (across - left).to(images)[:, None]
    upper = pick(images, top, left) * (1 - far) + pick(images, top, right) * far
    lower = pick(images, below, left) * (1 - far) + pick(images, below, right) * far
    return upper * (1 - low) + lower * low


def pick(
    images: Float[Tensor, "rows 3 height width"],
    down: Int[Tensor, "rows height width"],
    across: Int[Tensor, "rows height width"],
) -> Float[Tensor, "rows 3 height width"]:
    """The pixels at whole places, one place for every pixel of the answer."""
    flat = (down * images.shape[3] + across).flatten(1)[:, None]
    return images.flatten(2).gather(2, flat.expand(-1, 3, -1)).view(images.shape)
