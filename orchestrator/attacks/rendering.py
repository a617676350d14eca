"""Rendering: threats whose images are drawn by the house, from a few numbers that an attack moves.

A turned image does not show that it is nothing but turned. So an attack answers with its moves, and the
house draws the image from them.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.attacks.answer import Found, per_image
from orchestrator.attacks.threat import Norm
from orchestrator.attacks.unrestricted.recolouring import KNOTS, recolour
from orchestrator.attacks.unrestricted.turning import turn

Moves = Float[Tensor, "batch 3 ways numbers"]
Images = Float[Tensor, "batch 3 height width"]


class Rendering(NamedTuple):
    """How moves become an image: each number of a move is in [-ε, ε], and 0 changes nothing."""

    shape: tuple[int, int, int]
    """Of one image's moves."""
    draw: Callable[[Tensor, Tensor], Tensor]


RENDERED: Mapping[Norm, Rendering] = {
    "spatial": Rendering((3, 1, 1), turn),
    "colour": Rendering((3, KNOTS, KNOTS**2), recolour),
}


def unmoved(images: Images, norm: Norm) -> Moves:
    """The moves that leave images as they are."""
    return images.new_zeros(len(images), *RENDERED[norm].shape)


def render(images: Images, moves: Moves, norm: Norm) -> Images:
    """What moves make of images, in [0, 1]; an image whose every move is 0 stays as it is, to the bit."""
    still = per_image((moves == 0).flatten(1).all(dim=1))
    drawn: Tensor = RENDERED[norm].draw(images, moves)
    return torch.where(still, images, drawn.clamp(0, 1))


def render_found(found: Found, images: Images, norm: Norm) -> Found:
    """The images that found moves make, with their moves."""
    worst, best = (render(images, moves, norm) for moves in (found.worst, found.best))
    return Found(worst, best, found.worst, found.best)
