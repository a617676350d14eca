"""The standard cascade: APGD-CE, APGD-T, FAB-T and Square, each on what the last left standing."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orchestrator.attacks.answer import Answer, Found, per_image
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.gradient.apgd_run import ApgdRun
from orchestrator.attacks.gradient.fab import FabTargeted
from orchestrator.attacks.losses import cross_entropy, targeted_dlr
from orchestrator.attacks.query.square import Square
from orchestrator.attacks.settings import at_least, share
from orchestrator.attacks.source import Access, Source
from orchestrator.attacks.targets import likeliest
from orchestrator.attacks.threat import Norm, Threat


@dataclass(frozen=True, kw_only=True)
class Standard:
    """The worst case, by the four attacks of AutoAttack (Croce & Hein 2020, arXiv 2003.01690, §5).

    An image is left alone from its first misread image on, in the middle of an attack too. With two
    classes APGD-T is left out: its loss is a monotone function of the cross-entropy.

    Args:
        steps: of every ascent of APGD, and of FAB towards every class.
        targets: wrong classes that APGD-T and FAB-T try at most.
        queries: windows Square tries.
        rho: APGD's share of a window's steps that must raise the loss.
        give_up: leave a class (FAB-T) or an image (Square) that is approached too slowly to be broken
            within the budget; see patience.py.
        abreast: late windows that Square tries on an image at a time; in eighths of the batches they
            lower its lead all but as far.

    Raises:
        StudyError: steps, targets or queries below 1, rho outside (0, 1], or abreast not one that Square
            takes.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset()
    early: ClassVar[bool] = True
    steps: int = 100
    targets: int = 9
    queries: int = 5000
    rho: float = 0.75
    give_up: bool = True
    abreast: int = 8

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "targets", "queries")
        share(self, "rho")
        self._square()

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Images inside ``threat``: misread where one was found, else unmoved; the best by loss."""
        answer = Answer.unmoved(points.images)
        wrong = _seen_clean(source, points, answer)[:, : self.targets]
        self._ascend(source, points, threat, answer, wrong)
        fab = FabTargeted(steps=self.steps, targets=self.targets, give_up=self.give_up)
        fab.cross(source, points, threat, answer, wrong)
        standing = (~answer.misread).nonzero()[:, 0]
        self._square().search(source, points.stage(1 + self.targets), threat, answer, standing)
        worst = torch.where(per_image(answer.misread), answer.worst, points.images)
        return Found(worst, answer.best)

    def _square(self) -> Square:
        return Square(queries=self.queries, give_up=self.give_up, abreast=self.abreast)

    def _ascend(
        self,
        source: Source,
        points: Points,
        threat: Threat,
        answer: Answer,
        wrong: Int[Tensor, "rows others"],
    ) -> None:
        """APGD on the cross-entropy, and from three classes on towards each wrong one."""
        run = ApgdRun(steps=self.steps, rho=self.rho, objective=_away, early=True)
        run(source, points, threat, answer)
        towards = ApgdRun(steps=self.steps, rho=self.rho, objective=targeted_dlr, early=True)
        for rank in range(_ascents(wrong.shape[1])):
            towards(source, points.stage(1 + rank).towards(wrong[:, rank]), threat, answer)

    def calls(self, classes: int) -> Calls:
        """The most passes one image costs; without ``give_up``, what one costs that never falls."""
        others = min(self.targets, classes - 1)
        looks = (1 + _ascents(others)) * (self.steps + 1)
        crossings = others * self.steps
        return Calls(forwards=1 + looks + 2 * crossings + self.queries + 1, backwards=looks + crossings)


def _ascents(others: int) -> int:
    """Targeted ascents worth their cost, towards so many wrong classes."""
    return others if others > 1 else 0


def _seen_clean(source: Source, points: Points, answer: Answer) -> Int[Tensor, "rows others"]:
    """Look at the images themselves, once: what is misread is done; the wrong classes, likeliest first."""
    wrong = [points.labels.new_zeros(0, 1)]
    for rows in points.slices(source.batch):
        images, labels = points.images[rows], points.labels[rows]
        seen = source.look(images, rows, labels)
        answer.offer(rows, images, cross_entropy(seen.logits, labels), seen.misread)
        wrong.append(likeliest(seen.logits, labels))
    return torch.cat(wrong[1:] or wrong)


def _away(
    logits: Float[Tensor, "rows classes"], labels: Int[Tensor, " rows"], _: Int[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    return cross_entropy(logits, labels)
