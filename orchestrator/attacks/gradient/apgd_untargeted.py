"""APGD-CE and APGD-DLR: APGD away from the label, on cross-entropy or the difference of logits ratio."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor

from orchestrator.attacks.answer import Answer, Found
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.gradient.apgd_run import ApgdRun
from orchestrator.attacks.losses import cross_entropy, dlr
from orchestrator.attacks.settings import at_least, share
from orchestrator.attacks.source import Access, Source
from orchestrator.attacks.threat import Norm, Threat


@dataclass(frozen=True, kw_only=True)
class ApgdUntargeted:
    """APGD away from the label (Croce & Hein 2020, arXiv 2003.01690, Algorithm 1), for ℓ∞, ℓ2 and ℓ1.

    Finds the misread image of highest cross-entropy, and the image of highest cross-entropy of all.
    The ratio (``dlr``) does not change when logits are scaled or shifted, so a confident model hides
    nothing from it; with two classes it is not defined, and the margin takes its place.

    Args:
        loss: what is climbed, ``ce`` or ``dlr``.
        steps: gradient steps from each start; a step costs one forward and one backward pass.
        restarts: random starts.
        rho: share of a window's steps that must raise the loss, else the step size is halved;
            not used under ℓ1.
        early: end an image's ascent where it is first misread: cheapest where only that is asked, and
            a weak image for transfer.

    Raises:
        StudyError: steps or restarts below 1, or rho outside (0, 1].
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2", "l1"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset()
    loss: Literal["ce", "dlr"] = "ce"
    steps: int = 100
    restarts: int = 1
    rho: float = 0.75
    early: bool = False

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "restarts")
        share(self, "rho")

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Images inside ``threat``; of several starts, the best by cross-entropy."""
        answer = Answer.unmoved(points.images)
        run = ApgdRun(steps=self.steps, rho=self.rho, objective=_OBJECTIVES[self.loss], early=self.early)
        for restart in range(self.restarts):
            run(source, points.stage(restart), threat, answer)
        return answer.found()

    def calls(self, classes: int) -> Calls:  # noqa: ARG002 - as many for any number of classes
        """Passes one image costs that never falls: every step, and the start."""
        looks = self.restarts * (self.steps + 1)
        return Calls(forwards=looks, backwards=looks)


def _cross_entropy(
    logits: Float[Tensor, "rows classes"], labels: Int[Tensor, " rows"], _: Int[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    return cross_entropy(logits, labels)


def _dlr(
    logits: Float[Tensor, "rows classes"], labels: Int[Tensor, " rows"], _: Int[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    return dlr(logits, labels)


_OBJECTIVES = {"ce": _cross_entropy, "dlr": _dlr}
