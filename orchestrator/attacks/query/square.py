"""Square: random search by squares of pixels, on nothing but the logits."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orchestrator.attacks.answer import Answer, Found, per_image
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.losses import cross_entropy, margin
from orchestrator.attacks.noise import reseeded, uniform
from orchestrator.attacks.patience import due, hopeless
from orchestrator.attacks.query.stripes import grid, signs_of, stripes
from orchestrator.attacks.query.windows import Window, bumps, bumps_in, halvings, window_sides
from orchestrator.attacks.settings import at_least, share
from orchestrator.attacks.source import Access, Seen, Source
from orchestrator.attacks.starts import unit_steps
from orchestrator.attacks.threat import Norm, Threat, project
from orchestrator.attacks.walk import keep_full
from orchestrator.errors import StudyError

_FIRST_REVIEW = 256  # queries; an image is given up after twice as many at the earliest
_ABREAST_FROM = 256


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
        abreast: from query 256 on, when few windows help, so many are tried on the same image at a time
            and the best is kept; one after another, as in the paper, if 1. The last images standing
            otherwise come to thousands of batches of one.

    Raises:
        StudyError: queries below 1, p_init outside (0, 1], or abreast not a power of two up to 256.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2"})
    access: ClassVar[Access] = "logits"
    needs: ClassVar[frozenset[Need]] = frozenset()
    queries: int = 5000
    p_init: float = 0.8
    rescaled: bool = False
    early: bool = True
    give_up: bool = False
    abreast: int = 1

    def __post_init__(self) -> None:
        at_least(1, self, "queries", "abreast")
        share(self, "p_init")
        # Reviews come after powers of two.
        if _ABREAST_FROM % self.abreast:
            raise StudyError(
                f"Setting abreast of square is {self.abreast}. Give a power of two up to {_ABREAST_FROM}."
            )

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Images inside ``threat``; of all tried, the best by cross-entropy."""
        answer = Answer.unmoved(points.images)
        every = torch.arange(len(points), device=points.images.device)
        self.search(source, points, threat, answer, every)
        return answer.found()

    def search(
        self, source: Source, points: Points, threat: Threat, answer: Answer, rows: Int[Tensor, " some"]
    ) -> None:
        """Search with these of the points, and offer ``answer`` every image tried."""
        searching = Searching(self, source, threat, answer)
        keep_full(source.batch, points, searching.begin, searching.step, rows=rows)

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
    best: Float[Tensor, "rows 3 height width"]
    lead: Float[Tensor, " rows"]  # of the label, at best: what must fall below 0
    reviewed: Float[Tensor, " rows"]  # lead at the last review


@dataclass(frozen=True)
class Trial:
    """The images shown in one step, one or several of every row."""

    row: Int[Tensor, " shown"]
    number: Int[Tensor, " shown"]  # among those of the same row
    shown: Float[Tensor, "shown 3 height width"]


@dataclass(frozen=True)
class Searching:
    """Square's search under one threat."""

    settings: Square
    source: Source
    threat: Threat
    answer: Answer

    def begin(self, points: Points) -> Search:
        """Rows at their start: the one given, else vertical stripes (ℓ∞) or a grid of bumps (ℓ2)."""
        start = points.start
        if start is None:
            start = (stripes if self.threat.norm == "linf" else grid)(points, self.threat)
        unknown = torch.full(
            points.labels.shape, torch.inf, dtype=torch.float64, device=points.labels.device
        )
        return Search(
            images=points.images,
            labels=points.labels,
            seeds=points.seeds,
            looks=torch.zeros_like(points.labels),
            best=start,
            lead=unknown,
            reviewed=unknown,
        )

    def step(self, state: Search, here: Int[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
        """Show every row's start or its next windows, and keep the best; which rows are at their end."""
        tried = torch.where(state.looks < _ABREAST_FROM, 1, self.settings.abreast)
        tried = tried.minimum(self.settings.queries + 1 - state.looks)
        trial = self._trial(state, tried)
        seen = self._look(trial, here, state.labels)
        self._offer(trial, here, state.labels, seen)
        self._keep(state, trial, seen)
        state.looks = state.looks + tried
        over = state.looks > self.settings.queries
        if self.settings.early:
            over[trial.row[seen.misread]] = True
        return over | self._given_up(state) if self.settings.give_up else over

    def _trial(self, state: Search, tried: Int[Tensor, " rows"]) -> Trial:
        row = torch.arange(len(tried), device=tried.device).repeat_interleave(tried)
        number = torch.arange(len(row), device=row.device) - (tried.cumsum(0) - tried)[row]
        draw = uniform(state.seeds, 0, int(tried.max()), 8)[row, number]
        state.seeds = reseeded(state.seeds, 0)
        looks, best = state.looks[row], state.best[row]
        changed = self._changed(best, state.images[row], looks - 1 + number, draw)
        return Trial(row, number, torch.where(per_image(looks == 0), best, changed))

    def _look(self, trial: Trial, here: Int[Tensor, " rows"], labels: Int[Tensor, " rows"]) -> Seen:
        """As many at a time as the source takes."""
        parts = [
            self.source.look(trial.shown[some], here[trial.row[some]], labels[trial.row[some]])
            for some in torch.split(torch.arange(len(trial.row), device=here.device), self.source.batch)
        ]
        if len(parts) == 1:
            return parts[0]
        logits, misread = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("logits", "misread")
        )
        return Seen(logits, misread, parts[0].losses, parts[0].gradient)

    def _offer(
        self, trial: Trial, here: Int[Tensor, " rows"], labels: Int[Tensor, " rows"], seen: Seen
    ) -> None:
        rows, losses = here[trial.row], cross_entropy(seen.logits, labels[trial.row])
        self.source.saw_misread(rows[seen.misread])
        wanted = seen.misread | (losses > self.answer.best_loss[rows])
        # An offer holds a row once.
        for number in sorted(set(trial.number[wanted].tolist())):
            some = wanted & (trial.number == number)
            self.answer.offer(rows[some], trial.shown[some], losses[some], seen.misread[some])

    def _keep(self, state: Search, trial: Trial, seen: Seen) -> None:
        """Go on from the image that lowered the label's lead the most; the first of several."""
        lead = -margin(seen.logits, state.labels[trial.row])
        lead = torch.where(lead.isnan(), torch.inf, lead)
        lowest = state.lead.scatter_reduce(0, trial.row, lead, "amin")
        lowered = (lead < state.lead[trial.row]) & (lead == lowest[trial.row])
        place = torch.where(lowered, trial.number, _ABREAST_FROM)
        first = torch.full_like(state.looks, _ABREAST_FROM).scatter_reduce(0, trial.row, place, "amin")
        kept = (lowered & (trial.number == first[trial.row])).nonzero()[:, 0]
        state.best = state.best.index_copy(0, trial.row[kept], trial.shown[kept])
        state.lead = lowest

    def _changed(
        self,
        best: Float[Tensor, "shown 3 height width"],
        images: Float[Tensor, "shown 3 height width"],
        iterations: Int[Tensor, " shown"],
        draw: Float[Tensor, "shown 8"],
    ) -> Float[Tensor, "shown 3 height width"]:
        """Each image with one window of its own changed."""
        if self.settings.rescaled:
            iterations = (iterations.double() / self.settings.queries * 10_000).long()
        kinds = halvings(iterations)
        signs = signs_of(draw[:, :3])[:, :, None, None].to(images)
        height, width = images.shape[2:]
        bumpy = self.threat.norm == "l2"
        sides = window_sides(height, width, self.settings.p_init, bumpy=bumpy)
        side = torch.tensor(sides, device=kinds.device)[kinds]
        window = Window.at(draw[:, 3:5], side, height, width)
        if not bumpy:
            step = window.mask(height, width) * signs * (2 * self.threat.epsilon)
            return project(best + step, images, self.threat)
        canvas = bumps(sides, signs.device, signs.dtype)
        new = signs * bumps_in(window, kinds, draw[:, 7] > 0.5, canvas, height, width)
        emptied = Window.at(draw[:, 5:7], side, height, width)
        return self._bumped(best, images, new, window, emptied)

    def _bumped(
        self,
        best: Float[Tensor, "rows 3 height width"],
        images: Float[Tensor, "rows 3 height width"],
        new: Float[Tensor, "rows 3 height width"],
        window: Window,
        emptied: Window,
    ) -> Float[Tensor, "rows 3 height width"]:
        """Put a bump in one window with all the length that the other gives up (Algorithm 3)."""
        height, width = images.shape[2:]
        inside, out = window.mask(height, width), emptied.mask(height, width)
        step = best - images
        spare = (self.threat.epsilon**2 - _length(step, (1, 2, 3)) ** 2).clamp_min(0) / 3
        within = (spare + _length(step * (inside | out), (2, 3)) ** 2).sqrt()
        old = step * inside
        bumped = new + old / (1e-12 + _length(old, (2, 3)))
        bumped = bumped / (1e-12 + _length(bumped, (2, 3))) * within
        step = torch.where(inside, bumped, torch.where(out, 0, step))
        moved = (images + self.threat.epsilon * unit_steps(step, self.threat)).clamp(0, 1)
        return project(moved, images, self.threat)

    def _given_up(self, state: Search) -> Bool[Tensor, " rows"]:
        review = due(state.looks, _FIRST_REVIEW)
        given_up = review & hopeless(state.lead, state.reviewed, state.looks, self.settings.queries)
        state.reviewed = torch.where(review, state.lead, state.reviewed)
        return given_up


def _length(values: Float[Tensor, "rows 3 height width"], axes: tuple[int, ...]) -> Tensor:
    return values.square().sum(dim=axes, keepdim=True).sqrt()
