"""NI-FGSM: MI-FGSM that looks one step ahead, where its momentum is about to take it."""

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
class NesterovFgsm:
    """NI-FGSM (Lin et al. 2020, arXiv 1908.06281, equations 6 to 8), for ℓ∞ and ℓ2.

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
        pace = Pace(self.steps, self.reach, self.momentum)
        return climb(source, points, threat, pace, lambda stand: stand.gradient(ahead(stand, pace)))

    def calls(self, classes: int) -> Calls:  # noqa: ARG002 - as many for any number of classes
        """Passes one image costs: one each way a step."""
        return Calls(forwards=self.steps, backwards=self.steps)


def ahead(stand: Stand, pace: Pace) -> Float[Tensor, "rows 3 height width"]:
    """Where the momentum alone would take the current images, within [0, 1].

    Under ℓ∞ a gradient of mean magnitude 1 moves a pixel by a step, as in the authors' code; under ℓ2
    it moves the image by a step or a little more. Models are asked about no pixel outside [0, 1].
    """
    pixels = stand.current[0].numel()
    size = stand.step_size if stand.threat.norm == "linf" else stand.step_size / pixels**0.5
    return (stand.current + pace.momentum * size * stand.momentum).clamp(0, 1)
