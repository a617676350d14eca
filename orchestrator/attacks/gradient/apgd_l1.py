"""APGD for ℓ1: gradient ascent in steps along few pixels that tunes how few, one step at a time.

Croce & Hein, "Mind the box" (2021, arXiv 2103.01208, §3 and Algorithm 1), in our own words. Where the
authors' code is more exact than their pseudo-code we follow the code, and a test holds us to it.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orchestrator.attacks.answer import per_image
from orchestrator.attacks.attack import Points
from orchestrator.attacks.gradient.apgd import ApgdLoss
from orchestrator.attacks.l1 import project_l1
from orchestrator.attacks.source import Seen
from orchestrator.attacks.starts import random_start
from orchestrator.attacks.threat import Threat

# A step moves fewer numbers than the best image so far by this factor; from a random start, a fifth of all.
FEWER, FIRST_SHARE = 1.5, 0.2
# At each review the step size falls by the first factor, altogether by the second at most.
SHORTER, SHORTEST = 1.5, 10
# A best image that moves fewer pixels than this share of the last one's is still getting sparser.
SPARSER = 0.95


@dataclass
class SparseAscent:
    """Where the ascent of some images stands."""

    images: Float[Tensor, "rows 3 height width"]
    labels: Int[Tensor, " rows"]
    targets: Int[Tensor, " rows"]
    step: Int[Tensor, " rows"]
    current: Float[Tensor, "rows 3 height width"]
    best: Float[Tensor, "rows 3 height width"]
    best_loss: Float[Tensor, " rows"]
    best_gradient: Float[Tensor, "rows 3 height width"]
    step_size: Float[Tensor, " rows"]
    share: Float[Tensor, " rows"]  # of an image's numbers that a step moves, in float64
    moved: Int[Tensor, " rows"]  # numbers that the best image of the last review moves


@dataclass(frozen=True)
class ApgdL1:
    """The walk under one ℓ1 threat.

    Args:
        threat: ℓ1.
        steps: gradient steps; one look more, at the start.
        objective: the loss of logits, labels and, where it has any, target classes.
    """

    climbs: ClassVar[bool] = True
    threat: Threat
    steps: int
    objective: ApgdLoss

    def begin(self, points: Points) -> SparseAscent:
        """Rows at their start: the one given, else a random one."""
        zeros = torch.zeros_like(points.seeds)
        lowest = torch.full(zeros.shape, float("-inf"), dtype=torch.float64, device=zeros.device)
        numbers = points.images[0].numel()
        start, moved = points.start, zeros + numbers
        share = torch.full_like(lowest, FIRST_SHARE)
        if start is None:
            start = random_start(points, self.threat)
        else:
            moved = _moved(start, points.images)
            share = moved.double() / numbers / FEWER
        return SparseAscent(
            images=points.images,
            labels=points.labels,
            targets=zeros if points.targets is None else points.targets,
            step=zeros,
            current=start,
            best=start,
            best_loss=lowest,
            best_gradient=torch.zeros_like(start),
            step_size=torch.full(zeros.shape, self.threat.epsilon, dtype=start.dtype, device=zeros.device),
            share=share,
            moved=moved,
        )

    def ask(self, state: SparseAscent) -> Float[Tensor, "rows 3 height width"]:
        """The current images."""
        return state.current

    def loss(self, state: SparseAscent, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, " rows"]:
        """The objective."""
        return self.objective(logits, state.labels, state.targets)

    def tell(self, state: SparseAscent, seen: Seen) -> Bool[Tensor, " rows"]:
        """Keep what is best, review size and sparsity every 4 % of all steps, and take the next step."""
        better = seen.losses > state.best_loss
        state.best = torch.where(per_image(better), state.current, state.best)
        state.best_gradient = torch.where(per_image(better), seen.gradient, state.best_gradient)
        state.best_loss = torch.where(better, seen.losses, state.best_loss)
        gradient = self._reviewed(state, seen.gradient)
        pixels = _steepest_pixels(gradient, state.share)
        length = pixels.abs().flatten(1).sum(dim=1) + 1e-10
        ahead = state.current + per_image(state.step_size / length) * pixels
        state.current = project_l1(ahead, state.images, self.threat.epsilon)
        state.step = state.step + 1
        return state.step > self.steps

    def _reviewed(
        self, state: SparseAscent, gradient: Float[Tensor, "rows 3 height width"]
    ) -> Float[Tensor, "rows 3 height width"]:
        """Where the best image got sparser, return to it with a whole step; elsewhere shorten the step."""
        due = (state.step > 0) & (state.step % max(int(0.04 * self.steps), 1) == 0)
        moved, numbers = _moved(state.best, state.images), state.images[0].numel()
        sparser = due & (moved.double() / state.moved < SPARSER)
        whole = self.threat.epsilon
        shorter = (state.step_size / SHORTER).clamp_min(whole / SHORTEST)
        reviewed = torch.where(sparser, torch.full_like(shorter, whole), shorter)
        state.step_size = torch.where(due, reviewed, state.step_size)
        state.share = torch.where(due, moved.double() / numbers / FEWER, state.share)
        state.moved = torch.where(due, moved, state.moved)
        state.current = torch.where(per_image(sparser), state.best, state.current)
        return torch.where(per_image(sparser), state.best_gradient, gradient)


def _steepest_pixels(
    gradient: Float[Tensor, "rows 3 height width"], share: Float[Tensor, " rows"]
) -> Float[Tensor, "rows 3 height width"]:
    """The signs of the largest numbers of each gradient, a share of all; 0 elsewhere."""
    sizes = gradient.abs().flatten(1)
    last = sizes.shape[1] - 1
    place = ((1 - share) * sizes.shape[1]).clamp(0, last).long()
    least = sizes.sort(dim=1).values.gather(1, place[:, None])
    return (gradient.flatten(1).sign() * (sizes >= least)).view_as(gradient)


def _moved(
    moved: Float[Tensor, "rows 3 height width"], images: Float[Tensor, "rows 3 height width"]
) -> Int[Tensor, " rows"]:
    """How many numbers of each image are moved."""
    return (moved != images).flatten(1).sum(dim=1)
