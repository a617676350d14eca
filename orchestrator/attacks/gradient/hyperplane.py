"""The shortest step onto a hyperplane that stays inside [0, 1], in ℓ∞, ℓ2 and ℓ1, image by image."""

import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.attacks.threat import Norm


def step_onto(
    points: Float[Tensor, "rows pixels"],
    weights: Float[Tensor, "rows pixels"],
    heights: Float[Tensor, " rows"],
    norm: Norm,
) -> Float[Tensor, "rows pixels"]:
    """The shortest step from each point in [0, 1] after which w·step + height is 0; see Croce & Hein.

    (2020, arXiv 1907.02044, §3.1 and appendix A.) Every pixel goes against the height, by an amount
    that falls short only where it meets 0 or 1. Where the plane does not reach into [0, 1], every
    pixel that matters goes as far as it can.

    Args:
        points: in [0, 1].
        weights: w, normal to the plane.
        heights: of the point over the plane, w·point - b.
        norm: what the length of the step is measured in.
    """
    side = torch.where(heights >= 0, 1, -1).to(points)[:, None]
    down = -side * weights.sign()
    room = torch.where(down > 0, 1 - points, points) * (weights != 0)
    gain, fall = weights.abs(), heights.abs()
    if norm == "l1":
        return down * _greedily(gain, room, fall)
    pace = (weights != 0).to(points) if norm == "linf" else gain
    return down * _evenly(gain, pace, room, fall)


def _evenly(
    gain: Float[Tensor, "rows pixels"],
    pace: Float[Tensor, "rows pixels"],
    room: Float[Tensor, "rows pixels"],
    fall: Float[Tensor, " rows"],
) -> Float[Tensor, "rows pixels"]:
    """Amounts min(λ pace, room) for the λ at which Σ gain · amount is ``fall``; ``room`` if none is.

    The sum grows with λ and is linear between the points room / pace at which a pixel is used up, so
    one sort finds λ.
    """
    used_up = torch.where(pace > 0, room / pace, 0)
    knots, order = used_up.sort(dim=1)
    spent = (gain * room).gather(1, order).cumsum(dim=1)
    slopes = (gain * pace).gather(1, order).flip(1).cumsum(dim=1).flip(1)
    before = torch.cat([torch.zeros_like(spent[:, :1]), spent[:, :-1]], dim=1)
    # At a knot its own pixel may be counted on either side: its amount is the same.
    at = (before + knots * slopes < fall[:, None]).sum(dim=1, keepdim=True)
    last = at.clamp_max(knots.shape[1] - 1)
    between = (fall[:, None] - before.gather(1, last)) / slopes.gather(1, last).clamp_min(1e-30)
    rate = torch.where(at > last, torch.inf, between.clamp_min(0))
    return torch.where(pace > 0, torch.minimum(rate * pace, room), 0)


def _greedily(
    gain: Float[Tensor, "rows pixels"], room: Float[Tensor, "rows pixels"], fall: Float[Tensor, " rows"]
) -> Float[Tensor, "rows pixels"]:
    """Amounts of which Σ gain · amount is ``fall``: pixels of most gain first, each as far as it can."""
    steepest, order = gain.sort(dim=1, descending=True, stable=True)
    ahead = room.gather(1, order)
    spent = (steepest * ahead).cumsum(dim=1) - steepest * ahead
    amount = ((fall[:, None] - spent) / steepest.clamp_min(1e-30)).clamp_min(0).minimum(ahead)
    return torch.zeros_like(room).scatter(1, order, amount)
