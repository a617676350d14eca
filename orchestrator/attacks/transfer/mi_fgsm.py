"""I-FGSM and MI-FGSM: small steps along the gradient's sign; along the sign of its decayed sum."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from orchestrator.attacks.answer import Found
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.source import Access, Source
from orchestrator.attacks.threat import Norm, Threat
from orchestrator.attacks.transfer.climb import Pace, Stand, check_pace, climb


@dataclass(frozen=True, kw_only=True)
class MomentumFgsm:
    """MI-FGSM (Dong et al. 2018, arXiv 1710.06081), for ℓ∞ and ℓ2.

    A sum of gradients keeps what the steps agree on and forgets the source's own peculiarities. Without
    momentum it is I-FGSM (Kurakin et al. 2017, arXiv 1607.02533).

    Args:
        steps: gradient steps; each costs one forward and one backward pass.
        reach: length of all steps together, in ε.
        momentum: share of the sum of gradients that lasts to the next step.

    Raises:
        StudyError: steps below 1, reach below 0.001 or momentum below 0.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset()
    steps: int = 10
    reach: float = 1.0
    momentum: float = 1.0

    def __post_init__(self) -> None:
        check_pace(self)

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Where the last step ends."""
        return climb(source, points, threat, Pace(self.steps, self.reach, self.momentum), _here)

    def calls(self, classes: int) -> Calls:  # noqa: ARG002 - as many for any number of classes
        """Passes one image costs: one each way a step."""
        return Calls(forwards=self.steps, backwards=self.steps)


def _here(stand: Stand) -> Float[Tensor, "rows 3 height width"]:
    return stand.gradient(stand.current)
