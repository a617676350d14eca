"""APGD-T: APGD towards one wrong class after another, likeliest first, on the targeted DLR loss."""

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.attacks.answer import Answer, Found
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.gradient.apgd_run import ApgdRun
from orchestrator.attacks.losses import targeted_dlr
from orchestrator.attacks.settings import at_least, share
from orchestrator.attacks.source import Access, Source
from orchestrator.attacks.targets import wrong_classes
from orchestrator.attacks.threat import Norm, Threat


@dataclass(frozen=True, kw_only=True)
class ApgdTargeted:
    """APGD-T (Croce & Hein 2020, arXiv 2003.01690, §4), for ℓ∞, ℓ2 and ℓ1.

    Each of the likeliest wrong classes by the clean image's logits is tried from a start of its own.
    With fewer than four classes the loss is the target's lead, unscaled.

    Args:
        steps: gradient steps towards each class.
        targets: wrong classes tried at most.
        rho: share of a window's steps that must raise the loss, else the step size is halved;
            not used under ℓ1.
        early: leave an image alone as soon as it is misread.

    Raises:
        StudyError: steps or targets below 1, or rho outside (0, 1].
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2", "l1"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset()
    steps: int = 100
    targets: int = 9
    rho: float = 0.75
    early: bool = False

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "targets")
        share(self, "rho")

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Images inside ``threat``; of all classes tried, the best by cross-entropy."""
        answer = Answer.unmoved(points.images)
        wrong = wrong_classes(source, points)[:, : self.targets]
        run = ApgdRun(steps=self.steps, rho=self.rho, objective=targeted_dlr, early=self.early)
        for rank in range(wrong.shape[1]):
            towards = points.stage(rank).towards(wrong[:, rank])
            run(source, towards, threat, answer)
        return answer.found()

    def calls(self, classes: int) -> Calls:
        """Passes an image costs that never falls: for each class every step and the start; the ranking."""
        looks = min(self.targets, classes - 1) * (self.steps + 1)
        return Calls(forwards=1 + looks, backwards=looks)
