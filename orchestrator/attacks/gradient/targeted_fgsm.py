"""Targeted FGSM, iterated: small steps towards a random wrong class until the source is confident of it."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Int
from torch import Tensor

from orchestrator.attacks.answer import Answer, Found
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.losses import cross_entropy
from orchestrator.attacks.noise import integers
from orchestrator.attacks.settings import at_least, share
from orchestrator.attacks.source import Access, Source
from orchestrator.attacks.starts import steepest
from orchestrator.attacks.threat import Norm, Threat, project


@dataclass(frozen=True, kw_only=True)
class TargetedFgsm:
    """The attack that neural fingerprints were made for (arXiv 2411.04533), for ℓ∞ and ℓ2.

    Steps of one size down the cross-entropy of a random wrong class, until that class is read with
    confidence (Kurakin et al. 2017, arXiv 1607.02533). The released code steps by 0.01 of normalised pixels
    and knows no bound; here every step is projected onto the threat. A step of 0.16 ε is about as long
    as theirs at ε = 8/255.

    Args:
        steps: at most; each costs one forward and one backward pass, and the last look one forward more.
        step: length of a step, in ε.
        confidence: probability of the target at which an image is left alone.

    Raises:
        StudyError: steps below 1, or step or confidence outside (0, 1].
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset()
    steps: int = 150
    step: float = 0.16
    confidence: float = 0.7

    def __post_init__(self) -> None:
        at_least(1, self, "steps")
        share(self, "step", "confidence")

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """The image in which the target is most likely, of all visited; for both questions."""
        answer = Answer.unmoved(points.images)
        for rows in points.slices(source.batch):
            self._climb(source, points, threat, rows, answer)
        return answer.found()

    def _climb(
        self, source: Source, points: Points, threat: Threat, rows: Int[Tensor, " rows"], answer: Answer
    ) -> None:
        current = (points.images if points.start is None else points.start)[rows].clone()
        for step in range(self.steps + 1):
            part, last = points.part(rows), step == self.steps

            def towards(logits: Tensor, part: Points = part) -> Tensor:
                return -cross_entropy(logits, wanted(part, logits.shape[1]))

            seen = source.look(current, rows, part.labels, None if last else towards)
            losses = towards(seen.logits) if last else seen.losses
            answer.offer(rows, current, losses, seen.misread)
            # The loss is the logarithm of the target's probability.
            going_on = losses.exp() <= self.confidence
            if last or not going_on.any():
                return
            ahead = current + threat.epsilon * self.step * steepest(seen.gradient, threat)
            current = project(ahead, part.images, threat)[going_on]
            rows = rows[going_on]

    def calls(self, classes: int) -> Calls:  # noqa: ARG002 - as many for any number of classes
        """Passes one image costs at most."""
        return Calls(forwards=self.steps + 1, backwards=self.steps)


def wanted(points: Points, classes: int) -> Int[Tensor, " rows"]:
    """The class each image is to be read as: as told, or any wrong one, drawn from the image's own seed."""
    if points.targets is not None:
        return points.targets
    return (points.labels + 1 + integers(points.seeds, 0, classes - 1)) % classes
