"""Square's first images: stripes of columns (ℓ∞) or a grid of bumps (ℓ2), from each image's own seed."""

import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.attacks.attack import Points
from orchestrator.attacks.noise import uniform
from orchestrator.attacks.query.windows import bump
from orchestrator.attacks.starts import unit_steps
from orchestrator.attacks.threat import Threat, project


def signs_of(numbers: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """-1 or 1, from uniform numbers."""
    return torch.where(numbers < 0.5, -1.0, 1.0).to(numbers)


def stripes(points: Points, threat: Threat) -> Float[Tensor, "rows 3 height width"]:
    """Every column of every channel moved by ε, up or down."""
    _, channels, _, width = points.images.shape
    signs = signs_of(uniform(points.seeds, 0, channels, 1, width)).to(points.images)
    return project(points.images + threat.epsilon * signs, points.images, threat)


def grid(points: Points, threat: Threat) -> Float[Tensor, "rows 3 height width"]:
    """Bumps side by side, a fifth of the image each, with signs and sides of their own."""
    rows, channels, height, width = points.images.shape
    side = max(min(height, width) // 5, 1)
    down, right = height // side, width // side
    numbers = uniform(points.seeds, 0, channels + 1, down, right)
    signs = signs_of(numbers[:, :channels])[:, :, :, None, :, None]
    one = bump(side).to(signs)
    upright, turned = one[None, :, None, :], one.T[None, :, None, :]
    chosen = torch.where((numbers[:, channels] > 0.5)[:, :, None, :, None], turned, upright)
    tiles = (signs * chosen[:, None]).reshape(rows, channels, down * side, right * side)
    top, left = (height - down * side) // 2, (width - right * side) // 2
    step = torch.zeros_like(points.images)
    step[:, :, top : top + down * side, left : left + right * side] = tiles.to(step)
    moved = points.images + threat.epsilon * unit_steps(step, threat)
    return project(moved, points.images, threat)
