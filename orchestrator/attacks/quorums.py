"""QuorumSource: several models of which a random few answer each query, as one attacks them who holds all.

Expectation over transformation (Athalye et al. 2018, arXiv 1707.07397), the transformation being which
models answer. A quorum's logits are a mean of its models', so all quorums cost one pass of each model, and
where they are few the expectation is exact. It is not the gradient of the mean of all models, but for
losses linear in the logits.

An expected loss is led by quorums that err already: cross-entropy has no upper end, and there its slope is
steepest. The loss of the expected answer is led by those that still read the label.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from orchestrator.attacks.source import Source
from orchestrator.errors import ThreatViolated


@dataclass
class QuorumSource(Source):
    """A committee as its insider asks it: what it answers are expected probabilities over quorums.

    With ``combine`` as gradients, losses are means over quorums, each of its own logits; as logits, there
    is one loss, of the expected probabilities.

    Of two images the better one is that whose label has the lower expected probability, and an image is
    misread where another class has a higher one than the label: no single quorum decides.

    Args:
        quorums: of the models, by their places; all of them, or as many draws as are to stand for all.
    """

    quorums: Sequence[tuple[int, ...]] = ()

    def _heard(self, answers: list[Tensor]) -> list[Tensor]:
        """Every quorum's logits."""
        if not self.quorums or len(answers) <= max(map(max, self.quorums)):
            raise ThreatViolated(
                "A committee's attacker was asked for other models than its members. Choose an attack that "
                "makes no models of its own."
            )
        # One after another: a sum over members in one product would round by the batch.
        each = [torch.stack([answers[member] for member in quorum]).mean(dim=0) for quorum in self.quorums]
        return each if self.combine == "gradients" else [self._settled(each)]

    def _settled(self, heard: list[Tensor]) -> Tensor:
        """Logarithms of the probabilities in the mean over quorums."""
        if len(heard) == 1:
            return heard[0]
        logs = torch.stack([logits.log_softmax(dim=1) for logits in heard])
        return logs.logsumexp(dim=0) - math.log(len(heard))
