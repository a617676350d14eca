"""The loop of every transfer attack: a gradient, momentum, a step, and back inside the threat."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orchestrator.attacks.answer import Found, per_image
from orchestrator.attacks.attack import Points
from orchestrator.attacks.losses import cross_entropy
from orchestrator.attacks.settings import at_least
from orchestrator.attacks.source import Source, View
from orchestrator.attacks.starts import steepest
from orchestrator.attacks.threat import Threat, project


class Pace(NamedTuple):
    """How a climb moves."""

    steps: int
    reach: float
    """The length of all steps together, in ε."""
    momentum: float
    """The share of the sum of gradients that lasts to the next step."""


@dataclass
class Stand:
    """Where the climb of one batch stands: all that a way of taking gradients may know."""

    source: Source
    rows: Int[Tensor, " rows"]
    """Places of these images among the attacked."""
    points: Points
    """These images."""
    threat: Threat
    step: int
    """From 0."""
    last: bool
    """Whether no step follows."""
    step_size: float
    """In the threat's norm."""
    current: Float[Tensor, "rows 3 height width"]
    momentum: Float[Tensor, "rows 3 height width"]
    """The decayed sum of gradients, each scaled to a mean magnitude of 1."""
    variance: Float[Tensor, "rows 3 height width"]
    """What variance tuning keeps from one step to the next; 0 at first."""

    def gradient(
        self, shown: Float[Tensor, "rows 3 height width"], view: View | None = None
    ) -> Float[Tensor, "rows 3 height width"]:
        """Of the cross-entropy, at ``shown``, taken through ``view``; one pass forward, one back."""
        labels = self.points.labels
        return self.source.gradient(shown, self.rows, lambda logits: cross_entropy(logits, labels), view)

    def mean_gradient(
        self, looks: int, view: Callable[[int], View]
    ) -> Float[Tensor, "rows 3 height width"]:
        """The mean over a look at the current images as they are, and others through views.

        Each gradient is scaled to a mean magnitude of 1 first. The papers look through views alone and
        do not scale; a source that reads little through them then says little about the image, as a
        view that it cannot read has the highest loss and the loudest gradient.

        Args:
            looks: how many, the plain one included.
            view: gives the view of a stream; no two views of a climb share a stream.
        """
        total = _scaled(self.gradient(self.current))
        for stream in range(self.step * looks + 1, (self.step + 1) * looks):
            total = total + _scaled(self.gradient(self.current, view(stream)))
        return total / looks


Gradient = Callable[[Stand], Float[Tensor, "rows 3 height width"]]


def climb(source: Source, points: Points, threat: Threat, pace: Pace, gradient: Gradient) -> Found:
    """The image at which the last step ends, for both questions.

    MI-FGSM of Dong et al. (2018, arXiv 1710.06081, algorithm 1; equation 9 for ℓ2). As in the
    authors' code a gradient is scaled to a mean magnitude of 1, where the paper writes its sum. The
    image of highest loss is the last one in 99 of 100 cases, so no pass is spent on asking.

    Args:
        source: who is attacked.
        points: begin at the images, or where they are told to.
        threat: ℓ∞ or ℓ2.
        pace: how many steps, how long, and how straight.
        gradient: what is followed at each step.
    """
    moved = (points.images if points.start is None else points.start).clone()
    for rows in points.slices(source.batch):
        still = torch.zeros_like(moved[rows])
        stand = Stand(
            source=source,
            rows=rows,
            points=points.part(rows),
            threat=threat,
            step=0,
            last=False,
            step_size=threat.epsilon * pace.reach / pace.steps,
            current=moved[rows],
            momentum=still,
            variance=still,
        )
        for step in range(pace.steps):
            stand.step, stand.last = step, step == pace.steps - 1
            _advance(stand, pace.momentum, gradient(stand))
        moved[rows] = stand.current
    return Found.same(moved)


def _advance(stand: Stand, share: float, gradient: Float[Tensor, "rows 3 height width"]) -> None:
    stand.momentum = share * stand.momentum + _scaled(gradient)
    ahead = stand.current + stand.step_size * steepest(stand.momentum, stand.threat)
    stand.current = project(ahead, stand.points.images, stand.threat)


def check_pace(attack: Any) -> None:
    """Raise StudyError unless an attack's steps, reach and momentum make sense."""
    at_least(1, attack, "steps")
    at_least(1e-3, attack, "reach")
    at_least(0, attack, "momentum")


def _scaled(gradient: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows 3 height width"]:
    magnitude = per_image(gradient.abs().flatten(1).mean(dim=1))
    # A confident model's gradient is tiny, never nothing: only a gradient of exactly 0 stays 0.
    return torch.where(magnitude > 0, gradient / magnitude, torch.zeros_like(gradient))
