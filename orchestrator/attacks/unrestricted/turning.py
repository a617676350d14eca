"""Turning: an image turned about its centre and shifted, read between its pixels, with black around it."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from orchestrator.attacks.transfer.reading import read

DEGREES = 300.0
"""How far a move of 1 turns. A tenth then is the 3 of 32 pixels and 30° of Engstrom et al. (2019)."""


def turn(
    images: Float[Tensor, "batch 3 height width"], moves: Float[Tensor, "batch 3 1 1"]
) -> Float[Tensor, "batch 3 height width"]:
    """Images turned, then shifted, as Engstrom et al. (2019, arXiv 1712.02779, §2) do; bilinear.

    Args:
        images: in [0, 1].
        moves: of each image the shift down and to the right, in its sides, and its turn against the clock,
            in units of 300°.
    """
    height, width = images.shape[2:]
    down, right, turned = moves.double().flatten(1).T[:, :, None, None]
    angle = turned * (math.pi * DEGREES / 180)
    # The place in the image that every pixel of the answer shows, from the centre on.
    y = torch.arange(height, device=images.device)[None, :, None] - (height - 1) / 2 - down * height
    x = torch.arange(width, device=images.device)[None, None, :] - (width - 1) / 2 - right * width
    above = x * angle.sin() + y * angle.cos() + (height - 1) / 2
    before = x * angle.cos() - y * angle.sin() + (width - 1) / 2
    # One line of black around the image; whatever lies beyond it is as black.
    places = (above + 1).clamp(0, height + 1), (before + 1).clamp(0, width + 1)
    return _read_framed(pad(images, (1, 1, 1, 1)), *places)


def _read_framed(framed: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """What stands at places of an image with a frame, without the frame."""
    one_more = (1, 1, 1, 1)
    seen: Tensor = read(framed, pad(down, one_more), pad(across, one_more))[:, :, 1:-1, 1:-1]
    return seen
