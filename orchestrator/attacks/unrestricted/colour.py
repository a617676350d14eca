"""Colour: APGD on a map of colours, the same for every pixel of an image."""

from dataclasses import dataclass, replace
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from orchestrator.attacks.answer import Found
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.gradient.apgd_untargeted import ApgdUntargeted
from orchestrator.attacks.rendering import render, render_found, unmoved
from orchestrator.attacks.source import Access, Source
from orchestrator.attacks.threat import Norm, Threat

# Moves are climbed as if they were pixels: in [0, 1], with none at 0.5, the whole threat around it.
_WHOLE = Threat("linf", 0.5)


@dataclass(frozen=True, kw_only=True)
class Colour:
    """Functional colour attack (ReColorAdv, Laidlaw & Feizi 2019, arXiv 1906.00001), in RGB.

    A smooth map of colours is climbed by APGD (Croce & Hein 2020, arXiv 2003.01690) on the cross-entropy;
    the paper takes Adam on a margin. Pixels of one colour stay of one colour.

    Args:
        steps: gradient steps from each start; a step costs one forward and one backward pass.
        restarts: random starts.
        early: end an image's ascent where it is first misread.

    Raises:
        StudyError: steps or restarts below 1.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"colour"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset()
    steps: int = 100
    restarts: int = 1
    early: bool = False

    def __post_init__(self) -> None:
        self._ascent()

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Images inside ``threat`` with their maps; of several starts, the best by cross-entropy."""
        images, width = points.images, 2 * threat.epsilon

        def moves(shown: Float[Tensor, "rows 3 ways numbers"]) -> Float[Tensor, "rows 3 ways numbers"]:
            return (width * (shown - 0.5)).clamp(-threat.epsilon, threat.epsilon)

        still = replace(points, images=unmoved(images, "colour") + 0.5)
        if points.start is not None:
            still = replace(still, start=(points.start / width + 0.5).clamp(0, 1))
        mapping = source.through(lambda shown, rows: render(images[rows], moves(shown), "colour"))
        found = self._ascent()(mapping, still, _WHOLE)
        return render_found(Found(moves(found.worst), moves(found.best)), images, "colour")

    def calls(self, classes: int) -> Calls:
        """Passes one image costs that never falls: every step, and the start."""
        return self._ascent().calls(classes)

    def _ascent(self) -> ApgdUntargeted:
        return ApgdUntargeted(steps=self.steps, restarts=self.restarts, early=self.early)
