"""Patch: a square of an image painted anew, where and as a source reads it worst."""

import functools
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orchestrator.attacks.answer import Answer, Found
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.gradient.apgd_run import ApgdRun
from orchestrator.attacks.losses import cross_entropy
from orchestrator.attacks.noise import integers
from orchestrator.attacks.patches import best_place, cut, first_changed, paste, window_at
from orchestrator.attacks.query.windows import Window
from orchestrator.attacks.settings import at_least, share
from orchestrator.attacks.source import Access, Source
from orchestrator.attacks.threat import Norm, Threat

# A patch may hold anything: the ball of this radius around grey is all of [0, 1].
_ANYTHING = Threat("linf", 0.5)


@dataclass(frozen=True, kw_only=True)
class Patch:
    """An adversarial patch of each image's own, anywhere in it.

    Brown et al. (2017, arXiv 1712.09665) make one patch for all images, LaVAN (Karmon et al. 2018, arXiv
    1801.02608) one for each, at a place that is drawn; Patch-Fool (Fu et al. 2022, arXiv 2203.08392) takes
    the patch of a ViT that is most attended to. Here several places are tried for some steps each: by turns
    the square in which the loss could rise most by its gradient, whatever model that is of, and one drawn
    at random, as gradients may mislead. The best is painted on. What is in a patch is climbed by APGD
    (Croce & Hein 2020, arXiv 2003.01690).

    Args:
        places: squares tried.
        scout: gradient steps in each of them.
        steps: gradient steps in the best of them; a step costs one forward and one backward pass.
        rho: APGD's share of a window's steps that must raise the loss.
        early: leave an image alone as soon as it is misread.

    Raises:
        StudyError: places, scout or steps below 1, or rho outside (0, 1].
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"patch"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset()
    places: int = 4
    scout: int = 10
    steps: int = 100
    rho: float = 0.75
    early: bool = False

    def __post_init__(self) -> None:
        at_least(1, self, "places", "scout", "steps")
        share(self, "rho")

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Images inside ``threat``; of all visited, the best by cross-entropy."""
        side = min(int(threat.epsilon), *points.images.shape[2:])
        painting = Painting.begun(self, source, points, side)
        gain = painting.look()
        for number in range(self.places):
            place, start = _place(points, gain, number, side), None
            if number == 0 and points.start is not None:
                place = first_changed(points.start, points.images, side)
                start = cut(points.start, painting.window(place), side)
            painting.paint(number, place, start, self.scout)
            # The next square is to gain what this one cannot.
            gain = gain.masked_fill(painting.window(place).mask(*gain.shape[1:])[:, 0], 0)
        painting.paint(self.places, painting.place.clone(), painting.patch.clone(), self.steps)
        return painting.answer.found()

    def calls(self, classes: int) -> Calls:  # noqa: ARG002 - as many for any number of classes
        """Passes one image costs that never falls: the image, and every start and step in every place."""
        looks = 1 + self.places * (self.scout + 1) + self.steps + 1
        return Calls(forwards=looks, backwards=looks)


@dataclass
class Painting:
    """The best patch of every image so far, and the images answered."""

    settings: Patch
    source: Source
    points: Points
    answer: Answer
    place: Int[Tensor, " rows"]
    patch: Float[Tensor, "rows 3 side side"]
    loss: Float[Tensor, " rows"]

    @classmethod
    def begun(cls, settings: Patch, source: Source, points: Points, side: int) -> "Painting":
        """Nothing painted yet."""
        images = points.images
        lowest = torch.full(images.shape[:1], -torch.inf, dtype=torch.float64, device=images.device)
        grey = images.new_full((len(images), 3, side, side), 0.5)
        nowhere = torch.zeros_like(points.labels)
        return cls(settings, source, points, Answer.unmoved(images), nowhere, grey, lowest)

    def window(self, place: Int[Tensor, " some"]) -> Window:
        """The squares at these places."""
        return window_at(place, self.patch.shape[-1], self.points.images.shape[3])

    def look(self) -> Float[Tensor, "rows height width"]:
        """Look at the images themselves; how far each pixel could raise the loss, to first order."""
        gain = torch.zeros_like(self.points.images[:, 0], dtype=torch.float64)
        for rows in self.points.slices(self.source.batch):
            images, labels = self.points.images[rows], self.points.labels[rows]
            seen = self.source.look(images, rows, labels, functools.partial(cross_entropy, labels=labels))
            self.source.saw_misread(rows[seen.misread])
            self.answer.offer(rows, images, seen.losses, seen.misread)
            gradient = seen.gradient.double()
            to_white, to_black = gradient * (1 - images), -gradient * images
            gain[rows] = torch.maximum(to_white, to_black).sum(dim=1)
        return gain

    def paint(self, stage: int, place: Int[Tensor, " rows"], start: Tensor | None, steps: int) -> None:
        """Climb in a square of each image, from a random patch or the one given; keep what is better."""
        early = self.settings.early
        rows = torch.arange(len(self.points), device=place.device)
        rows = rows[~self.answer.misread] if early else rows
        points, place = self.points.stage(stage).part(rows), place[rows]
        canvas = replace(points, images=torch.full_like(self.patch[rows], 0.5))
        canvas = replace(canvas, start=None if start is None else start[rows])
        found = Answer.unmoved(canvas.images)

        def draw(shown: Tensor, here: Int[Tensor, " some"]) -> Tensor:
            return paste(points.images[here], shown, self.window(place[here]))

        ascent = ApgdRun(steps=steps, rho=self.settings.rho, objective=_objective, early=early)
        ascent(self.source.part(rows).through(draw), canvas, _ANYTHING, found)
        every = torch.arange(len(rows), device=rows.device)
        self.answer.offer(rows, draw(found.worst, every), found.worst_loss, found.misread)
        # Whether the best is misread need not be known: if so, it is the worst too.
        self.answer.offer(rows, draw(found.best, every), found.best_loss, torch.zeros_like(found.misread))
        better = found.best_loss > self.loss[rows]
        self.place[rows[better]] = place[better]
        self.patch[rows[better]] = found.best[better]
        self.loss[rows[better]] = found.best_loss[better]


def _place(
    points: Points, gain: Float[Tensor, "rows height width"], number: int, side: int
) -> Int[Tensor, " rows"]:
    """Where to paint next: where the gradient promises most, or by every other number at random."""
    height, width = gain.shape[1:]
    if number % 2 == 0:
        return best_place(gain, side)
    top = integers(points.seeds, 2 * number, height - side + 1)
    return top * width + integers(points.seeds, 2 * number + 1, width - side + 1)


def _objective(
    logits: Float[Tensor, "rows classes"], labels: Int[Tensor, " rows"], _: Int[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    return cross_entropy(logits, labels)
