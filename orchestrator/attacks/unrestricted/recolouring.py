"""Recolouring: every pixel's new colour is one smooth function of its old one, the same all over."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

KNOTS = 5
"""Along each channel. The change is given at 5 × 5 × 5 colours and interpolated between them."""


def recolour(
    images: Float[Tensor, "batch 3 height width"], moves: Float[Tensor, "batch 3 knots pairs"]
) -> Float[Tensor, "batch 3 height width"]:
    """Images whose colours are mapped, as Laidlaw & Feizi (2019, arXiv 1906.00001, §3.1) do; in RGB.

    Theirs has more knots, 12,288 numbers and more, and a penalty that holds neighbours together; here 375
    numbers are smooth by themselves. Up to a move of 1/8 no two shades of a channel change their order.

    Args:
        images: in [0, 1].
        moves: what is added to each channel at each knot: of an image, channels × reds × (greens × blues).
    """
    place = images.clamp(0, 1) * (KNOTS - 1)
    low = place.floor().clamp(0, KNOTS - 2)
    share = place - low
    table = moves.flatten(2)
    step = torch.zeros_like(images)
    for corner in itertools.product((0, 1), repeat=3):
        knot = [low[:, channel].long() + corner[channel] for channel in range(3)]
        number = ((knot[0] * KNOTS + knot[1]) * KNOTS + knot[2]).flatten(1)[:, None].expand(-1, 3, -1)
        red, green, blue = (
            share[:, channel] if corner[channel] else 1 - share[:, channel] for channel in range(3)
        )
        step = step + (red * green * blue)[:, None] * table.gather(2, number).view_as(images)
    return images + step
