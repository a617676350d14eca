"""The nearest image inside an ℓ1 ball and inside [0, 1], exactly, image by image."""

import torch
from jaxtyping import Float
from torch import Tensor


def project_l1(
    moved: Float[Tensor, "batch 3 height width"],
    images: Float[Tensor, "batch 3 height width"],
    epsilon: float,
) -> Float[Tensor, "batch 3 height width"]:
    """The point of {‖z − images‖₁ ≤ ε} ∩ [0, 1] nearest to ``moved`` in ℓ2.

    Croce & Hein, "Mind the box" (2021, arXiv 2103.01208, Proposition 2.1): with u = |moved − images|
    and c the room each pixel has to its side of [0, 1], the answer moves each pixel by
    clamp(u − λ, 0, c) for the least λ ≥ 0 whose sum is at most ε. The sum falls with λ and is linear
    between the points u and u − c, so λ is found by one sort.
    """
    step = (moved - images).flatten(1)
    side, distance = step.sign(), step.abs()
    flat = images.flatten(1)
    room = torch.where(side > 0, 1 - flat, flat).clamp_min(0)
    spent = torch.minimum(distance, room)
    excess = (spent.sum(dim=1) > epsilon)[:, None]
    least = _threshold(distance, room, epsilon)[:, None]
    shortened = (distance - least).clamp_min(0).minimum(room)
    kept = torch.where(excess, shortened, spent)
    return (flat + side * kept).clamp(0, 1).view_as(images)


def _threshold(
    distance: Float[Tensor, "batch pixels"], room: Float[Tensor, "batch pixels"], epsilon: float
) -> Float[Tensor, " batch"]:
    """λ ≥ 0 with Σ clamp(distance − λ, 0, room) = ε, where λ = 0 spends more than ε."""
    # Going down from a large λ, pixel i starts to count at λ = distance and is full at distance − room.
    knots = torch.cat([distance, (distance - room).clamp_min(0)], dim=1)
    slopes = torch.cat([torch.ones_like(distance), -torch.ones_like(room)], dim=1)
    knots, order = knots.sort(dim=1, descending=True)
    slope = slopes.gather(1, order).cumsum(dim=1)
    gaps = knots[:, :-1] - knots[:, 1:]
    spent = torch.cat([torch.zeros_like(knots[:, :1]), (slope[:, :-1] * gaps).cumsum(dim=1)], dim=1)
    at = (spent <= epsilon).sum(dim=1, keepdim=True) - 1
    left = (epsilon - spent.gather(1, at)) / slope.gather(1, at).clamp_min(1)
    return (knots.gather(1, at) - left)[:, 0].clamp_min(0)
