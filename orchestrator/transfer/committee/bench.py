"""Bench: what every quorum of a committee reads images as, from one pass of each member."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from orchestrator.attacks.answer import misread
from orchestrator.models.committee import Quorum, Rule
from orchestrator.transfer.judge import decided


@dataclass(frozen=True)
class Misread:
    """In how many of all ways a query can be answered an image is misread."""

    quorums: Int[Tensor, " images"]
    """By how many quorums."""
    members: Int[Tensor, " images"]
    """By how many members, each by itself: what a service of the same models without quorums would do."""
    unconfirmed: int
    """Misreadings, by quorums, that another batch size did not repeat."""


@dataclass(frozen=True)
class Bench:
    """A committee's models, in the order of its members, and the quorums that count."""

    models: Sequence[nn.Module]
    quorums: Sequence[Quorum]
    rule: Rule
    batch: int = 256

    def judge(self, images: Float[Tensor, "images 3 size size"], labels: Int[Tensor, " images"]) -> Misread:
        """How often each image is misread.

        As everywhere, an image counts as misread if another logit, or number of votes, is strictly above
        the label's, and is so again in a batch of another size.

        Raises:
            WeightsError: a logit is not a number.
        """
        wrong = self._read(images, labels, self.batch)
        doubtful = wrong.any(dim=0).nonzero()[:, 0]
        # Never the same size, as a single model is judged.
        size = self.batch // 2 + 1 if self.batch > 2 else 3 - self.batch
        again = self._read(images[doubtful], labels[doubtful], size)
        before, count = wrong[:, doubtful], len(self.quorums)
        wrong[:, doubtful] = before & again
        unconfirmed = int((before & ~again)[:count].sum())
        return Misread(wrong[:count].sum(dim=0), wrong[count:].sum(dim=0), unconfirmed)

    def _read(self, images: Tensor, labels: Tensor, batch: int) -> Bool[Tensor, "ways images"]:
        """By quorums, then by members alone."""
        starts = range(0, len(labels), batch)
        parts = [self._batch(images[at : at + batch], labels[at : at + batch]) for at in starts]
        ways = len(self.quorums) + len(self.models)
        return torch.cat(parts, dim=1) if parts else labels.new_zeros(ways, 0, dtype=torch.bool)

    @torch.no_grad()
    def _batch(self, images: Tensor, labels: Tensor) -> Bool[Tensor, "ways images"]:
        answers = torch.stack([model(images).float() for model in self.models])
        read = torch.stack([decided(logits, labels) for logits in answers])
        # A vote is the mean of ballots; both in float64, where a sum of equals is a tie.
        ballots = torch.nn.functional.one_hot(read, answers.shape[2])
        spoken = (answers if self.rule == "mean" else ballots).double()
        by_quorum = [misread(spoken[list(quorum)].mean(dim=0), labels) for quorum in self.quorums]
        return torch.cat([torch.stack(by_quorum), read != labels])
