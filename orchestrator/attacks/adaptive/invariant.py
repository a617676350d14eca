"""Key-invariant: momentum steps on what a key leaves alone, block means or low frequencies."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orchestrator.attacks.adaptive.guess import known_block_size
from orchestrator.attacks.answer import Answer, Found, per_image
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.losses import cross_entropy
from orchestrator.attacks.settings import at_least, share
from orchestrator.attacks.source import Access, Seen, Source
from orchestrator.attacks.starts import steepest, unit_steps
from orchestrator.attacks.threat import Norm, Threat, project
from orchestrator.attacks.walk import walk
from orchestrator.models.transform import from_blocks, to_blocks

Span = Callable[[Float[Tensor, "rows 3 height width"]], Float[Tensor, "rows 3 height width"]]
"""The nearest perturbation, by ℓ2, that is in the subspace."""


@dataclass(frozen=True, kw_only=True)
class KeyInvariant:
    """Momentum steps on one source, confined to what every key's shuffle maps to itself.

    What is added to an image is added to its shuffle in the same place exactly if it is one value per
    block and over all three channels, which the shuffle mixes too (``block-mean``). ``low-pass`` is so
    nearly, and richer: the lowest frequencies of the two-dimensional DCT, the same in all channels.
    Both hold before the result is clamped to [0, 1].

    Args:
        subspace: ``block-mean`` or ``low-pass``.
        keep: share of the frequencies along each axis that low-pass keeps, from 0 up; at least one.
        steps: gradient steps; each costs one forward and one backward pass, as does the start.
        reach: length of all steps together, in ε.
        momentum: share of the sum of gradients that lasts to the next step.

    Raises:
        StudyError: steps below 1, reach below 0.001, momentum below 0, or keep outside (0, 1]; at the
            call, for block means, an unknown block size, or blocks that do not tile the images.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset({"block-size", "shuffle"})
    subspace: Literal["block-mean", "low-pass"] = "block-mean"
    keep: float = 0.5
    steps: int = 20
    reach: float = 4.0
    momentum: float = 1.0

    def __post_init__(self) -> None:
        at_least(1, self, "steps")
        at_least(1e-3, self, "reach")
        at_least(0, self, "momentum")
        share(self, "keep")

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Of all images visited, the best by cross-entropy."""
        answer = Answer.unmoved(points.images)
        span = (
            block_mean(known_block_size(source)) if self.subspace == "block-mean" else low_pass(self.keep)
        )
        walk(source, points, _Confined(threat, self, span), answer, early=False)
        return answer.found()

    def calls(self, classes: int) -> Calls:  # noqa: ARG002 - as many for any number of classes
        """Passes one image costs: one each way a step, and the start."""
        return Calls(forwards=self.steps + 1, backwards=self.steps + 1)


def block_mean(size: int) -> Span:
    """Every value replaced by the mean over its block and all channels."""

    def span(moves: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows 3 height width"]:
        blocks = to_blocks(moves, size)
        return from_blocks(blocks.mean(dim=-1, keepdim=True).expand_as(blocks), size)

    return span


def low_pass(keep: float) -> Span:
    """The mean over the channels, without the frequencies above the share ``keep`` of each axis."""

    def span(moves: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows 3 height width"]:
        down, across = (_lowest(length, keep).to(moves) for length in moves.shape[-2:])
        grey = moves.mean(dim=1)
        # One product for each image, whatever its batch: a sum in another order is another number.
        low: Tensor = down.expand(len(grey), -1, -1) @ grey @ across.expand(len(grey), -1, -1)
        return low[:, None].expand_as(moves)

    return span


def _lowest(length: int, keep: float) -> Float[Tensor, "length length"]:
    """The projection to the lowest frequencies of the orthonormal DCT-II, at least to the constant."""
    kept = torch.arange(max(1, round(keep * length)), dtype=torch.float64)[:, None]
    places = torch.arange(length, dtype=torch.float64)[None]
    waves = torch.cos(math.pi / length * (places + 0.5) * kept)
    waves = waves / waves.norm(dim=1, keepdim=True)
    lowest: Tensor = waves.T @ waves
    return lowest


@dataclass
class _Standing:
    images: Float[Tensor, "rows 3 height width"]
    labels: Int[Tensor, " rows"]
    step: Int[Tensor, " rows"]
    shift: Float[Tensor, "rows 3 height width"]  # in the subspace and inside the radius
    momentum: Float[Tensor, "rows 3 height width"]  # in the subspace


@dataclass(frozen=True)
class _Confined:
    """The walk: all is in the subspace but the image that is looked at, which is clamped to [0, 1]."""

    climbs: ClassVar[bool] = True
    threat: Threat
    attack: KeyInvariant
    span: Span

    def begin(self, points: Points) -> _Standing:
        start = points.images if points.start is None else points.start
        shift = self._inside(start - points.images)
        steps, still = torch.zeros_like(points.labels), torch.zeros_like(shift)
        return _Standing(points.images, points.labels, steps, shift, still)

    def ask(self, state: _Standing) -> Float[Tensor, "rows 3 height width"]:
        return project(state.images + state.shift, state.images, self.threat)

    def loss(self, state: _Standing, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, " rows"]:
        return cross_entropy(logits, state.labels)

    def tell(self, state: _Standing, seen: Seen) -> Bool[Tensor, " rows"]:
        gradient = self.span(seen.gradient)
        state.momentum = self.attack.momentum * state.momentum + _mean_one(gradient)
        # A sign leaves the subspace: back into it, then to full length.
        direction = unit_steps(self.span(steepest(state.momentum, self.threat)), self.threat)
        length = self.threat.epsilon * self.attack.reach / self.attack.steps
        state.shift = self._inside(state.shift + length * direction)
        state.step = state.step + 1
        return state.step > self.attack.steps

    def _inside(self, shift: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows 3 height width"]:
        """In the subspace and the radius: under ℓ∞ cut off and put back, then shrunk by what sticks out."""
        epsilon = self.threat.epsilon
        cut = shift.clamp(-epsilon, epsilon) if self.threat.norm == "linf" else shift
        spanned = self.span(cut)
        order = torch.inf if self.threat.norm == "linf" else 2
        length = torch.linalg.vector_norm(spanned.flatten(1), order, dim=1).clamp_min(1e-12)
        return spanned * per_image((epsilon / length).clamp_max(1))


def _mean_one(gradient: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows 3 height width"]:
    magnitude = per_image(gradient.abs().flatten(1).mean(dim=1))
    return torch.where(magnitude > 0, gradient / magnitude, torch.zeros_like(gradient))
