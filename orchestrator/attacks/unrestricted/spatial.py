"""Spatial: an image turned and shifted as a source reads it worst; tried evenly, then around the best."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orchestrator.attacks.answer import Answer, Found, per_image
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.losses import cross_entropy
from orchestrator.attacks.noise import reseeded, uniform
from orchestrator.attacks.rendering import render, render_found, unmoved
from orchestrator.attacks.settings import at_least
from orchestrator.attacks.source import Access, Seen, Source
from orchestrator.attacks.threat import Norm, Threat
from orchestrator.attacks.walk import walk

# The powers of 1/x with x⁴ = x + 1: points that fill a cube more evenly than a grid or chance, however many
# there are (Roberts 2018, the generalised golden ratio).
_ROOT = 1.2207440846057596
_EVENLY = (1 / _ROOT, 1 / _ROOT**2, 1 / _ROOT**3)
# Tries are spread over a cube so much wider and brought back: a good part of them lies on its border.
_WIDER = 1.15
# How far around the best the first and the last of the later tries lie, in ε.
_FIRST, _LAST = 0.4, 0.02


@dataclass(frozen=True, kw_only=True)
class Spatial:
    """Worst of many turns and shifts (Engstrom et al. 2019, arXiv 1712.02779, §3.3), on logits alone.

    The paper tries a grid of 5 × 5 shifts by 31 angles, which finds far more than gradients do; here tries
    are spread evenly over all shifts and angles, each image's from a place of its own, and the last of
    them are drawn ever closer around the one of highest cross-entropy. The image itself is tried first.

    Args:
        tries: moves spread over the whole threat, one forward pass each.
        closer: moves around the best so far, one forward pass each.
        early: leave an image alone as soon as it is misread.

    Raises:
        StudyError: tries below 1, or closer below 0.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"spatial"})
    access: ClassVar[Access] = "logits"
    needs: ClassVar[frozenset[Need]] = frozenset()
    tries: int = 150
    closer: int = 50
    early: bool = False

    def __post_init__(self) -> None:
        at_least(1, self, "tries")
        at_least(0, self, "closer")

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Images inside ``threat`` with their moves; of all tried, the best by cross-entropy."""
        images = points.images
        still = Points(unmoved(images, "spatial"), points.labels, points.seeds, points.start)
        answer = Answer.unmoved(still.images)
        turning = source.through(lambda moves, rows: render(images[rows], moves, "spatial"))
        walk(turning, still, Tries(threat.epsilon, self.tries, self.closer), answer, early=self.early)
        return render_found(answer.found(), images, "spatial")

    def calls(self, classes: int) -> Calls:  # noqa: ARG002 - as many for any number of classes
        """Passes one image costs that never falls: every try, and the start."""
        return Calls(forwards=1 + self.tries + self.closer, backwards=0)


@dataclass
class Search:
    """Where the search of some images stands."""

    labels: Int[Tensor, " rows"]
    seeds: Int[Tensor, " rows"]  # of the next draw
    first: Float[Tensor, "rows 3"]  # where the even spread begins
    number: Int[Tensor, " rows"]  # of the current try; 0 is the start
    current: Float[Tensor, "rows 3 1 1"]
    best: Float[Tensor, "rows 3 1 1"]
    best_loss: Float[Tensor, " rows"]


@dataclass(frozen=True)
class Tries:
    """The walk of a search over moves."""

    climbs: ClassVar[bool] = False
    epsilon: float
    tries: int
    closer: int

    def begin(self, points: Points) -> Search:
        """Rows at their start: the moves given, else none."""
        start = points.images if points.start is None else points.start
        return Search(
            labels=points.labels,
            seeds=reseeded(points.seeds, 0),
            first=uniform(points.seeds, 0, 3),
            number=torch.zeros_like(points.labels),
            current=start,
            best=start,
            best_loss=torch.full(start.shape[:1], -torch.inf, dtype=torch.float64, device=start.device),
        )

    def ask(self, state: Search) -> Float[Tensor, "rows 3 1 1"]:
        """The current moves."""
        return state.current

    def loss(self, state: Search, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, " rows"]:
        """The cross-entropy; nobody climbs it."""
        return cross_entropy(logits, state.labels)

    def tell(self, state: Search, seen: Seen) -> Bool[Tensor, " rows"]:
        """Keep the best and draw the next moves."""
        losses = cross_entropy(seen.logits, state.labels)
        better = losses > state.best_loss
        state.best = torch.where(per_image(better), state.current, state.best)
        state.best_loss = torch.where(better, losses, state.best_loss)
        state.number = state.number + 1
        late = state.number > self.tries
        moves = torch.where(late[:, None], self._near(state), self._spread(state))
        state.current = self.epsilon * moves.clamp(-1, 1)[:, :, None, None].to(state.current)
        state.seeds = reseeded(state.seeds, 0)
        return state.number > self.tries + self.closer

    def _spread(self, state: Search) -> Float[Tensor, "rows 3"]:
        steps = torch.tensor(_EVENLY, dtype=torch.float64, device=state.first.device)
        place: Tensor = (state.first + state.number[:, None] * steps).frac()
        return _WIDER * (2 * place - 1)

    def _near(self, state: Search) -> Float[Tensor, "rows 3"]:
        done = (state.number - self.tries) / max(self.closer, 1)
        reach = _FIRST * (_LAST / _FIRST) ** done.double()
        away = 2 * uniform(state.seeds, 0, 3) - 1
        return state.best.double().flatten(1) / self.epsilon + reach[:, None] * away
