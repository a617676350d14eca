"""APGD: gradient ascent that tunes its own step size, one step at a time, for ℓ∞ and ℓ2.

Algorithm 1 of Croce & Hein (2020, arXiv 2003.01690), in our own words, so that every image has its
own noise, its own steps and its own end. Where the authors' code is more exact than their pseudo-code
we follow the code, and a test holds us to it step by step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orchestrator.attacks.answer import per_image
from orchestrator.attacks.attack import Points
from orchestrator.attacks.source import Seen
from orchestrator.attacks.starts import random_start, steepest
from orchestrator.attacks.threat import Threat, project

# α of the paper: the share of the new step; the rest continues the last movement.
NEW_STEP_SHARE = 0.75
ApgdLoss = Callable[
    [Float[Tensor, "rows classes"], Int[Tensor, " rows"], Int[Tensor, " rows"]], Float[Tensor, " rows"]
]


@dataclass
class Ascent:
    """Where the ascent of some images stands; the names in brackets are those of Algorithm 1."""

    images: Float[Tensor, "rows 3 height width"]
    labels: Int[Tensor, " rows"]
    targets: Int[Tensor, " rows"]
    step: Int[Tensor, " rows"]  # [k]; the start is looked at in step 0
    current: Float[Tensor, "rows 3 height width"]  # [x(k)]
    previous: Float[Tensor, "rows 3 height width"]  # [x(k-1)]
    best: Float[Tensor, "rows 3 height width"]  # [x_max]
    best_loss: Float[Tensor, " rows"]  # [f_max]
    best_gradient: Float[Tensor, "rows 3 height width"]  # at best
    step_size: Float[Tensor, " rows"]  # [η]
    last_loss: Float[Tensor, " rows"]
    raised: Int[Tensor, " rows"]  # steps since the last checkpoint that raised the loss
    checked_loss: Float[Tensor, " rows"]  # best_loss at the last checkpoint
    checked_halved: Bool[Tensor, " rows"]  # whether the last checkpoint halved η


@dataclass(frozen=True)
class Apgd:
    """The walk of Algorithm 1 under one threat.

    Args:
        threat: ℓ∞ or ℓ2.
        steps: gradient steps; one look more, at the start.
        rho: share of a window's steps that must raise the loss, else the step size is halved.
        objective: the loss of logits, labels and, where it has any, target classes.
    """

    climbs: ClassVar[bool] = True
    threat: Threat
    steps: int
    rho: float
    objective: ApgdLoss

    def begin(self, points: Points) -> Ascent:
        """Rows at their start: the one given, else a random one."""
        start = random_start(points, self.threat) if points.start is None else points.start
        zeros = torch.zeros_like(points.seeds)
        lowest = torch.full(zeros.shape, float("-inf"), dtype=torch.float64, device=zeros.device)
        return Ascent(
            images=points.images,
            labels=points.labels,
            targets=zeros if points.targets is None else points.targets,
            step=zeros,
            current=start,
            previous=start,
            best=start,
            best_loss=lowest,
            best_gradient=torch.zeros_like(start),
            # The paper's first step size: the whole width of the ball.
            step_size=torch.full(
                zeros.shape, 2 * self.threat.epsilon, dtype=start.dtype, device=zeros.device
            ),
            last_loss=lowest,
            raised=zeros,
            checked_loss=lowest,
            checked_halved=zeros == 0,
        )

    def ask(self, state: Ascent) -> Float[Tensor, "rows 3 height width"]:
        """The current images."""
        return state.current

    def loss(self, state: Ascent, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, " rows"]:
        """The objective."""
        return self.objective(logits, state.labels, state.targets)

    def tell(self, state: Ascent, seen: Seen) -> Bool[Tensor, " rows"]:
        """Keep what is best, review the step size where a window ends, and take the next step."""
        better = seen.losses > state.best_loss
        state.best = torch.where(per_image(better), state.current, state.best)
        state.best_gradient = torch.where(per_image(better), seen.gradient, state.best_gradient)
        state.best_loss = torch.where(better, seen.losses, state.best_loss)
        first = state.step == 0
        # The authors compare the first loss with the last, still zero, row of a table; so do we.
        before = torch.where(state.step == 1, torch.zeros_like(state.last_loss), state.last_loss)
        state.raised = torch.where(first, state.raised, state.raised + (seen.losses > before).long())
        state.last_loss = seen.losses
        state.checked_loss = torch.where(first, state.best_loss, state.checked_loss)
        gradient = self._reviewed(state, seen.gradient)
        self._advance(state, gradient)
        state.step = state.step + 1
        return state.step > self.steps

    @cached_property
    def windows(self) -> Int[Tensor, " steps"]:
        """For every step the length of the window that ends with it; 0 where none does (§3.2).

        Windows are 22 % of all steps, then shorter by 3 % each time, never below 6 %.
        """
        window, shortest, shorter = (max(int(share * self.steps), 1) for share in (0.22, 0.06, 0.03))
        lengths = torch.zeros(self.steps + 1, dtype=torch.long)
        step = window
        while step <= self.steps:
            lengths[step] = window
            window = max(window - shorter, shortest)
            step += window
        return lengths

    def _reviewed(
        self, state: Ascent, gradient: Float[Tensor, "rows 3 height width"]
    ) -> Float[Tensor, "rows 3 height width"]:
        """Halve the step and return to the best image where either condition of §3.2 holds."""
        window = self.windows.to(state.step.device)[state.step]
        due = window > 0
        oscillates = state.raised <= self.rho * window
        no_gain = ~state.checked_halved & (state.checked_loss >= state.best_loss)
        stalled = due & (oscillates | no_gain)
        state.checked_halved = torch.where(due, stalled, state.checked_halved)
        state.checked_loss = torch.where(due, state.best_loss, state.checked_loss)
        state.raised = torch.where(due, torch.zeros_like(state.raised), state.raised)
        state.step_size = torch.where(stalled, state.step_size / 2, state.step_size)
        state.current = torch.where(per_image(stalled), state.best, state.current)
        return torch.where(per_image(stalled), state.best_gradient, gradient)

    def _advance(self, state: Ascent, gradient: Float[Tensor, "rows 3 height width"]) -> None:
        """One step along the gradient, blended with the last movement (lines 3, 7 and 8)."""
        ahead = state.current + per_image(state.step_size) * steepest(gradient, self.threat)
        step = project(ahead, state.images, self.threat) - state.current
        movement = state.current - state.previous
        share = per_image(torch.where(state.step == 0, 1.0, NEW_STEP_SHARE).to(step))
        blended = state.current + step * share + movement * (1 - share)
        state.previous = state.current
        state.current = project(blended, state.images, self.threat)
