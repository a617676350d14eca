"""Square: random search by squares of pixels, on nothing but the logits."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orchestrator.attacks.answer import Answer, Found, per_image
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.losses import margin
from orchestrator.attacks.noise import reseeded, uniform
from orchestrator.attacks.patience import due, hopeless
from orchestrator.attacks.query.windows import (
    Window,
    bump,
    bumps,
    bumps_in,
    halvings,
    window_sides,
)
from orchestrator.attacks.settings import at_least, share
from orchestrator.attacks.source import Access, Seen, Source
from orchestrator.attacks.starts import unit_steps
from orchestrator.attacks.threat import Norm, Threat, project
from orchestrator.attacks.walk import walk

_FIRST_REVIEW = 256  # queries; an image is given up after twice as many at the earliest


@dataclass(frozen=True, kw_only=True)
class Square:
    """Square Attack (Andriushchenko et al. 2020, arXiv 1912.00049) on the margin, for ℓ∞ and ℓ2.

    It asks for logits alone, so a model that hides its gradients hides nothing from it. Windows lie
    wherever they fit, as in the paper; the authors' code leaves out the last row and column.

    Args:
        queries: windows tried, one forward pass each.
        p_init: the share of all pixels in the first windows.
        rescaled: shrink the windows as fast as suits this many queries, not 10,000.
        early: leave an image alone as soon as it is misread.
        give_up: leave an image whose lead falls too slowly to be lost within the queries.

    Raises:
        StudyError: queries below 1, or p_init outside (0, 1].
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2"})
    access: ClassVar[Access] = "logits"
    needs: ClassVar[frozenset[Need]] = frozenset()
    queries: int = 5000
    p_init: float = 0.8
    rescaled: bool = False
    early: bool = True
    give_up: bool = False

    def __post_init__(self) -> None:
        at_least(1, self, "queries")
        share(self, "p_init")

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Images inside ``threat``; of all tried, the best by cross-entropy."""
        answer = Answer.unmoved(points.images)
        walk(source, points, SquareWalk(self, threat), answer, early=self.early)
        return answer.found()

    def calls(self, classes: int) -> Calls:  # noqa: ARG002 - as many for any number of classes
        """Passes one image costs that never falls: every window, and the start; at most, if given up."""
        return Calls(forwards=self.queries + 1, backwards=0)


@dataclass
class Search:
    """Where the search of some images stands."""

    images: Float[Tensor, "rows 3 height width"]
    labels: Int[Tensor, " rows"]
    seeds: Int[Tensor, " rows"]  # of the next draw
    looks: Int[Tensor, " rows"]
    tried: Float[Tensor, "rows 3 height width"]
    best: Float[Tensor, "rows 3 height width"]
    lead: Float[Tensor, " rows"]  # of the label, at best: what must fall below 0
    reviewed: Float[Tensor, " rows"]  # lead at the last review


@dataclass(frozen=True)
class SquareWalk:
    """Square's search under one threat."""

    climbs: ClassVar[bool] = False
    settings: Square
    threat: Threat

    def begin(self, points: Points) -> Search:
        """Rows at their start: the one given, else vertical stripes (ℓ∞) or a grid of bumps (ℓ2)."""
        start = points.start
        if start is None:
            start = (
                _stripes(points, self.threat) if self.threat.norm == "linf" else _grid(points, self.threat)
            )
        unknown = torch.full(
            points.labels.shape, torch.inf, dtype=torch.float64, device=points.labels.device
        )
        return Search(
            images=points.images,
            labels=points.labels,
            seeds=reseeded(points.seeds, 0),
            looks=torch.zeros_like(points.labels),
            tried=start,
            best=start,
            lead=unknown,
            reviewed=unknown,
        )

    def ask(self, state: Search) -> Float[Tensor, "rows 3 height width"]:
        """The image with its latest window."""
        return state.tried

    def loss(self, state: Search, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, " rows"]:
        """The margin, though nobody climbs it."""
        return margin(logits, state.labels)

    def tell(self, state: Search, seen: Seen) -> Bool[Tensor, " rows"]:
        """Keep the window where it lowered the label's lead, and try the next."""
        lead = -margin(seen.logits, state.labels)
        better = lead < state.lead
        state.best = torch.where(per_image(better), state.tried, state.best)
        state.lead = torch.where(better, lead, state.lead)
        state.tried = self._next(state)
        state.seeds = reseeded(state.seeds, 0)
        state.looks = state.looks + 1
        over = state.looks > self.settings.queries
        return over | self._given_up(state) if self.settings.give_up else over

    def _next(self, state: Search) -> Float[Tensor, "rows 3 height width"]:
        iterations = state.looks
        if self.settings.rescaled:
            iterations = (iterations.double() / self.settings.queries * 10_000).long()
        kinds = halvings(iterations)
        draw = uniform(state.seeds, 0, 8)
        signs = _signs(draw[:, :3])[:, :, None, None].to(state.images)
        height, width = state.images.shape[2:]
        bumpy = self.threat.norm == "l2"
        sides = window_sides(height, width, self.settings.p_init, bumpy=bumpy)
        side = torch.tensor(sides, device=kinds.device)[kinds]
        window = Window.at(draw[:, 3:5], side, height, width)
        if not bumpy:
            step = window.mask(height, width) * signs * (2 * self.threat.epsilon)
            return project(state.best + step, state.images, self.threat)
        canvas = bumps(sides, signs.device, signs.dtype)
        new = signs * bumps_in(window, kinds, draw[:, 7] > 0.5, canvas, height, width)
        emptied = Window.at(draw[:, 5:7], side, height, width)
        return self._moved(state, new, window, emptied)

    def _moved(
        self,
        state: Search,
        new: Float[Tensor, "rows 3 height width"],
        window: Window,
        emptied: Window,
    ) -> Float[Tensor, "rows 3 height width"]:
        """Put a bump in one window with all the length that the other gives up (Algorithm 3)."""
        height, width = state.images.shape[2:]
        inside, out = window.mask(height, width), emptied.mask(height, width)
        step = state.best - state.images
        spare = (self.threat.epsilon**2 - _length(step, (1, 2, 3)) ** 2).clamp_min(0) / 3
        within = (spare + _length(step * (inside | out), (2, 3)) ** 2).sqrt()
        old = step * inside
        bumped = new + old / (1e-12 + _length(old, (2, 3)))
        bumped = bumped / (1e-12 + _length(bumped, (2, 3))) * within
        step = torch.where(inside, bumped, torch.where(out, 0, step))
        moved = (state.images + self.threat.epsilon * unit_steps(step, self.threat)).clamp(0, 1)
        return project(moved, state.images, self.threat)

    def _given_up(self, state: Search) -> Bool[Tensor, " rows"]:
        review = due(state.looks, _FIRST_REVIEW)
        given_up = review & hopeless(state.lead, state.reviewed, state.looks, self.settings.queries)
        state.reviewed = torch.where(review, state.lead, state.reviewed)
        return given_up


def _length(values: Float[Tensor, "rows 3 height width"], axes: tuple[int, ...]) -> Tensor:
    return values.square().sum(dim=axes, keepdim=True).sqrt()


def _signs(numbers: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """-1 or 1, from uniform numbers."""
    return torch.where(numbers < 0.5, -1.0, 1.0).to(numbers)


def _stripes(points: Points, threat: Threat) -> Float[Tensor, "rows 3 height width"]:
    """Every column of every channel moved by ε, up or down."""
    _, channels, _, width = points.images.shape
    signs = _signs(uniform(points.seeds, 0, channels, 1, width)).to(points.images)
    return project(points.images + threat.epsilon * signs, points.images, threat)


def _grid(points: Points, threat: Threat) -> Float[Tensor, "rows 3 height width"]:
    """Bumps side by side, a fifth of the image each, with signs and sides of their own."""
    rows, channels, height, width = points.images.shape
    side = max(min(height, width) // 5, 1)
    down, right = height // side, width // side
    numbers = uniform(points.seeds, 0, channels + 1, down, right)
    signs = _signs(numbers[:, :channels])[:, :, :, None, :, None]
    one = bump(side).to(signs)
    upright, turned = one[None, :, None, :], one.T[None, :, None, :]
    chosen = torch.where((numbers[:, channels] > 0.5)[:, :, None, :, None], turned, upright)
    tiles = (signs * chosen[:, None]).reshape(rows, channels, down * side, right * side)
    top, left = (height - down * side) // 2, (width - right * side) // 2
    step = torch.zeros_like(points.images)
    step[:, :, top : top + down * side, left : left + right * side] = tiles.to(step)
    moved = points.images + threat.epsilon * unit_steps(step, threat)
    return project(moved, points.images, threat)
