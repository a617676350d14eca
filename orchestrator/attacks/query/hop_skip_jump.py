"""HopSkipJump: from a misread image along the boundary towards the image, on decisions alone.

Chen, Jordan & Wainwright (2020, arXiv 1904.02144, Algorithm 2), in our own words, for one image; what
is asked about many goes into the same batches (see dialogue.py). Their attack seeks the nearest misread
image; ours is done as soon as one is inside the threat.
"""

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import ClassVar, Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from orchestrator.attacks.answer import Found, per_image
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.noise import normal, uniform
from orchestrator.attacks.query.dialogue import Dialogue, converse
from orchestrator.attacks.settings import at_least
from orchestrator.attacks.source import Access, Source
from orchestrator.attacks.threat import Norm, Threat, distances, project

Image = Float[Tensor, "1 3 height width"]
Asking = Generator[Float[Tensor, "asked 3 height width"], Bool[Tensor, " asked"], Image]
"""A part of a dialogue, which comes to an image."""

# Directions tried in one question. A constant, so that sums are the same in every batch.
_TOGETHER: Final = 16
# Shares of noise in the images tried first; pure noise, as in the paper, may be read as the label.
_BLENDS: Final = (1.0, 0.75, 0.5, 0.25)
# Halvings of a step at most; then the step is lost in the rounding of pixels.
_HALVINGS: Final = 24


@dataclass(frozen=True, kw_only=True)
class HopSkipJump:
    """HopSkipJump for ℓ∞ and ℓ2: asks only whether an image is misread, and no more than it may.

    Args:
        queries: questions about each image, the first of which is about the image itself.
        probes: directions tried at the first point of the boundary; √t times as many at the t-th.

    Raises:
        StudyError: queries below 1, or probes below 2.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2"})
    access: ClassVar[Access] = "decisions"
    needs: ClassVar[frozenset[Need]] = frozenset()
    queries: int = 2500
    probes: int = 100

    def __post_init__(self) -> None:
        at_least(1, self, "queries")
        at_least(2, self, "probes")

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Images inside ``threat``: the first misread one found; else the nearest, brought inside."""
        begin = partial(_journey, threat=threat, probes=self.probes)
        return Found.same(converse(source, points, threat, begin, queries=self.queries))

    def calls(self, classes: int) -> Calls:  # noqa: ARG002 - as many for any number of classes
        """An image that never falls costs every query, and no backward pass."""
        return Calls(forwards=self.queries, backwards=0)


def _journey(point: Points, threat: Threat, probes: int) -> Dialogue:
    """Start misread anywhere; then to the boundary, across it, and again, without an end."""
    streams = count()
    far = yield from _misread_somewhere(point, streams)
    for turn in count(1):
        edge = yield from _to_boundary(point.images, far, threat)
        tried = int(probes * turn**0.5)
        reach = 0.1 if turn == 1 else _apart(edge, point.images, threat.norm) / edge.numel()
        direction = yield from _away(point, edge, threat.norm, tried, reach, streams)
        length = _apart(edge, point.images, threat.norm) / turn**0.5
        far = yield from _step(edge, direction, length)


def _misread_somewhere(point: Points, streams: "count[int]") -> Asking:
    """Uniform noise, and blends of the image with it, until one is misread."""
    while True:
        noise = uniform(point.seeds, next(streams), *point.images.shape[1:]).to(point.images)
        for share in _BLENDS:
            blend = torch.lerp(point.images, noise, share)
            if (yield blend)[0]:
                return blend


def _to_boundary(image: Image, far: Image, threat: Threat) -> Asking:
    """The nearest misread image on the way from ``image`` to ``far``, by bisection down to the threat.

    Precision is the paper's: a share d^-2 (ℓ∞) or d^-3/2 (ℓ2) of the distance in d numbers, but
    nothing finer than pixels can be.
    """
    within, edge = threat.epsilon, _apart(far, image, threat.norm)
    finest = edge * image.numel() ** (-2.0 if threat.norm == "linf" else -1.5)
    finest = max(finest, torch.finfo(image.dtype).eps)
    nearest, tried = far, within
    while True:
        between = project(far, image, Threat(threat.norm, tried))
        if (yield between)[0]:
            nearest, edge = between, tried
        else:
            within = tried
        if edge - within <= finest:
            return nearest
        tried = (within + edge) / 2


def _away(
    point: Points, edge: Image, norm: Norm, tried: int, reach: float, streams: "count[int]"
) -> Asking:
    """The direction in which more images are misread, of length 1 under ℓ2 and of signs under ℓ∞ (§3.2).

    Directions weighed by the decision on ``edge`` a small way along each, less the mean decision.
    """
    # Any nearer, and what is asked is the rounding of pixels.
    reach = max(reach, 16 * torch.finfo(edge.dtype).eps * edge.numel() ** 0.5)
    misread, directions, decided = 0, torch.zeros_like(edge), torch.zeros_like(edge)
    for first in range(0, tried, _TOGETHER):
        now = min(_TOGETHER, tried - first)
        shown = (edge + reach * _directions(point, next(streams), now, norm).to(edge)).clamp(0, 1)
        answers = yield shown
        moved = (shown - edge) / reach
        misread += int(answers.sum())
        directions += moved.sum(dim=0)
        decided += moved[answers].sum(dim=0)
    # Decisions are 1 and -1: Σ(decision - mean)·direction is twice this.
    weighed = decided - misread / tried * directions
    if misread in (0, tried):
        weighed = directions if misread else -directions
    return weighed.sign() if norm == "linf" else weighed / weighed.norm().clamp_min(1e-12)


def _directions(point: Points, stream: int, some: int, norm: Norm) -> Float[Tensor, "some 3 height width"]:
    """Random directions of length 1, as the authors draw them: from a cube for ℓ∞, a sphere for ℓ2."""
    shape = (some, *point.images.shape[1:])
    drawn = (
        2 * uniform(point.seeds, stream, *shape) - 1
        if norm == "linf"
        else normal(point.seeds, stream, *shape)
    )
    lengths: Tensor = drawn[0].flatten(1).norm(dim=1)
    directions: Tensor = drawn[0] / per_image(lengths)
    return directions


def _step(edge: Image, direction: Image, length: float) -> Asking:
    """The longest halving of a step that is still misread; the boundary itself where none is."""
    for _ in range(_HALVINGS):
        ahead = (edge + length * direction).clamp(0, 1)
        if (yield ahead)[0]:
            return ahead
        length /= 2
    return edge


def _apart(one: Image, other: Image, norm: Norm) -> float:
    return float(distances(one, other)[norm])
