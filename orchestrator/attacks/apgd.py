"""APGD-CE: gradient ascent on the cross-entropy that tunes its own step size.

Algorithm 1 of Croce & Hein (2020, arXiv 2003.01690), in our own words, so that every image has its
own noise and its own steps. Where the authors' code is more exact than their pseudo-code we follow
the code, and a test holds us to it example by example.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows it by
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from orchestrator.attacks.answer import Answer, misread, per_image
from orchestrator.attacks.attack import Calls, Threat, project
from orchestrator.attacks.starts import random_start, unit_steps
from orchestrator.errors import StudyError
from orchestrator.seeds import derive_seed

# α of the paper: the share of the new step; the rest continues the last movement.
NEW_STEP_SHARE = 0.75


@dataclass(frozen=True, kw_only=True)
class ApgdCe:
    """APGD on the cross-entropy (Croce & Hein 2020, Algorithm 1), for ℓ∞ and ℓ2.

    Answers with one image per row: of all images visited that the model misreads, the one of
    highest loss; where it misreads none, the one of highest loss. So one image serves both
    questions: did the source fall, and what transfers. Noise, steps and answer of an image depend
    on that image and its seed alone, as far as the model's logits do: one that rounds differently
    in another batch size can flip the sign of a gradient that is nearly 0.

    Args:
        steps: gradient steps from each start; a step costs one forward and one backward pass.
        restarts: random starts; later ones are tried on every image.
        rho: share of a window's steps that must raise the loss, else the step size is halved.

    Raises:
        StudyError: steps or restarts below 1, or rho outside (0, 1].
    """

    steps: int = 100
    restarts: int = 1
    rho: float = 0.75

    def __post_init__(self) -> None:
        if min(self.steps, self.restarts) < 1:
            raise StudyError(
                f"Apgd-ce with steps={self.steps} and restarts={self.restarts} would do nothing. "
                "Give both at least 1."
            )
        if not 0 < self.rho <= 1:
            raise StudyError(f"Rho {self.rho:g} of apgd-ce is not in (0, 1]. The paper's is 0.75.")

    def __call__(
        self,
        model: nn.Module,
        images: Float[Tensor, "batch 3 height width"],
        labels: Int[Tensor, " batch"],
        threat: Threat,
        seeds: Sequence[int],
    ) -> Float[Tensor, "batch 3 height width"]:
        """Images of the highest loss found inside ``threat``; see Attack for what stays untouched.

        Args:
            model: maps images in [0, 1] to logits, two classes or more, each row by itself.
            images: in [0, 1], float32 or float64; the answer has their type and device.
            labels: the classes to move away from.
            threat: how far each image may be moved.
            seeds: one per image.
        """
        images, labels = images.detach().contiguous(), labels.long()
        answer = Answer.unmoved(images)
        if len(images) == 0:
            return answer.images
        for restart in range(self.restarts):
            of_start = [derive_seed(seed, "restart", restart) for seed in seeds]
            start = random_start(images, threat, of_start)
            found = apgd(model, images, labels, threat, start, self.steps, self.rho).answer
            answer.offer(found.images, found.losses, found.misread)
        return answer.images

    def calls(self, classes: int) -> Calls:  # noqa: ARG002 - as many for any number of classes
        """Passes one image costs, whether it falls or not: every step, and the start."""
        looks = self.restarts * (self.steps + 1)
        return Calls(forwards=looks, backwards=looks)


@dataclass
class Ascent:
    """Where the ascent of a batch stands; the names in brackets are those of Algorithm 1."""

    current: Float[Tensor, "batch 3 height width"]  # [x(k)]
    previous: Float[Tensor, "batch 3 height width"]  # [x(k-1)]
    gradient: Float[Tensor, "batch 3 height width"]  # at current
    best: Float[Tensor, "batch 3 height width"]  # [x_max]
    best_loss: Float[Tensor, " batch"]  # [f_max]
    best_gradient: Float[Tensor, "batch 3 height width"]  # at best
    step_size: Float[Tensor, " batch"]  # [η]
    checked_loss: Float[Tensor, " batch"]  # best_loss at the last checkpoint
    checked_halved: Bool[Tensor, " batch"]  # whether the last checkpoint halved η
    answer: Answer


def apgd(
    model: nn.Module,
    images: Float[Tensor, "batch 3 height width"],
    labels: Int[Tensor, " batch"],
    threat: Threat,
    start: Float[Tensor, "batch 3 height width"],
    steps: int,
    rho: float,
) -> Ascent:
    """Algorithm 1 from ``start``, a point inside the threat of each image; where it ended."""
    ascent = _begin(model, images, labels, threat, start)
    # The authors compare the first loss with the last, still zero, row. We keep it for parity.
    losses = torch.zeros(steps, len(images), dtype=torch.float64, device=images.device)
    windows = _checkpoints(steps)
    for step in range(steps):
        _advance(ascent, images, threat, NEW_STEP_SHARE if step else 1.0)
        losses[step] = _look(ascent, model, labels)
        if step in windows:
            window = torch.arange(step - windows[step] + 1, step + 1)
            raised = (losses[window] > losses[window - 1]).sum(dim=0)
            _halve_where_stalled(ascent, raised <= rho * windows[step])
    return ascent


def _begin(model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, start: Tensor) -> Ascent:
    none = Answer.unmoved(images)
    # The paper's first step size: the whole width of the ball.
    step_size = torch.full_like(images[:, 0, 0, 0], 2 * threat.epsilon)
    ascent = Ascent(
        current=start,
        previous=start,
        gradient=start,
        best=start,
        best_loss=none.losses,
        best_gradient=start,
        step_size=step_size,
        checked_loss=none.losses,
        checked_halved=torch.ones_like(none.misread),
        answer=none,
    )
    ascent.best_loss = ascent.checked_loss = _look(ascent, model, labels)
    ascent.best_gradient = ascent.gradient
    return ascent


def _checkpoints(steps: int) -> dict[int, int]:
    """The steps after which step sizes are reviewed, each with the length of its window (§3.2).

    Windows are 22 % of all steps, then shorter by 3 % each time, never below 6 %.
    """
    window, shortest, shorter = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    checkpoints = {}
    step = window - 1
    while step < steps:
        checkpoints[step] = window
        window = max(window - shorter, shortest)
        step += window
    return checkpoints


def _advance(ascent: Ascent, images: Tensor, threat: Threat, share: float) -> None:
    """One step along the gradient, blended with the last movement (lines 3, 7 and 8)."""
    direction = ascent.gradient.sign() if threat.norm == "linf" else unit_steps(ascent.gradient, threat)
    ahead = ascent.current + per_image(ascent.step_size) * direction
    step = project(ahead, images, threat) - ascent.current
    movement = ascent.current - ascent.previous
    ascent.previous = ascent.current
    blended = ascent.current + step * share + movement * (1 - share)
    ascent.current = project(blended, images, threat)


def _look(ascent: Ascent, model: nn.Module, labels: Tensor) -> Float[Tensor, " batch"]:
    """The loss at the current images; takes their gradient, and keeps what is best so far."""
    with torch.enable_grad():
        current = ascent.current.detach().requires_grad_()
        # In float32 the loss is exactly 0 from a margin of 17 on, as confident models reach, and
        # an ascent that sees no change halves its steps for nothing. Float64 lasts to 36.
        logits = model(current).double()
        losses = F.cross_entropy(logits, labels, reduction="none")
        (ascent.gradient,) = torch.autograd.grad(losses.sum(), current)
    losses = losses.detach()
    ascent.answer.offer(ascent.current, losses, misread(logits.detach(), labels))
    better = losses > ascent.best_loss
    ascent.best = torch.where(per_image(better), ascent.current, ascent.best)
    ascent.best_gradient = torch.where(per_image(better), ascent.gradient, ascent.best_gradient)
    ascent.best_loss = torch.where(better, losses, ascent.best_loss)
    return losses


def _halve_where_stalled(ascent: Ascent, oscillates: Bool[Tensor, " batch"]) -> None:
    """Halve the step and return to the best image where either condition of §3.2 holds."""
    no_gain = ~ascent.checked_halved & (ascent.checked_loss >= ascent.best_loss)
    stalled = oscillates | no_gain
    ascent.checked_halved, ascent.checked_loss = stalled, ascent.best_loss
    ascent.step_size = torch.where(stalled, ascent.step_size / 2, ascent.step_size)
    ascent.current = torch.where(per_image(stalled), ascent.best, ascent.current)
    ascent.gradient = torch.where(per_image(stalled), ascent.best_gradient, ascent.gradient)
