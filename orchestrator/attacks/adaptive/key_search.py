"""Key search: random orders, then swaps, as they read the attacker's images best; then APGD."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchestrator.attacks.adaptive.guess import Guess, known_block_size
from orchestrator.attacks.answer import Found, misread
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.gradient.apgd_untargeted import ApgdUntargeted
from orchestrator.attacks.losses import cross_entropy
from orchestrator.attacks.noise import integers, permutations
from orchestrator.attacks.settings import at_least
from orchestrator.attacks.source import Access, Source
from orchestrator.attacks.threat import Norm, Threat
from orchestrator.errors import StudyError
from orchestrator.models.transform import CHANNELS, BlockShuffle

Score = tuple[float, float]
"""Accuracy, then the negative of the mean loss: more is better."""


@dataclass(frozen=True, kw_only=True)
class KeySearch:
    """APGD-CE through an estimate of the key, found with the model's weights and labelled images.

    The attacks ``randkey`` and ``heuristickey`` of the published code (KEY-code of arXiv 2010.00801),
    in one: the best of random orders, then swaps of two places as long as they help. As a stored model
    is folded, an order is tried by a shuffle in front of it; its product with the key inside is as
    random as the order (see ``EotKeys``), so nothing of the key is given away.

    The search asks the source about the attacker's own images: passes that belong to no attacked image
    and are added up in the finding ``example_forwards``, apart from ``calls``. It is made anew in each
    call, always the same, for each model of a source by itself. How well the estimates read those
    images is the finding ``estimate_accuracy``.

    Args:
        tries: random orders.
        swaps: swaps tried on the best of them.
        seed: of orders and swaps; the attacker's, not an image's.
        steps: gradient steps of APGD through the estimate, from one start.

    Raises:
        StudyError: tries or steps below 1 or swaps below 0; at the call, an unknown block size, or no
            examples.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset({"block-size", "examples", "shuffle"})
    tries: int = 100
    swaps: int = 500
    seed: int = 0
    steps: int = 100

    def __post_init__(self) -> None:
        at_least(1, self, "tries", "steps")
        at_least(0, self, "swaps", "seed")

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Images that the estimate misreads, where any are; the model itself is not asked about them."""
        if len(points) == 0:
            return Found.same(points.images)
        guesses, scores = [], []
        for model in source.models:
            order, score = self._searched(Trial.of(source, model, points))
            guesses.append(Guess(BlockShuffle(known_block_size(source), order), model))
            scores.append(score[0])
        source.findings["estimate_accuracy"] = sum(scores) / len(scores)
        return ApgdUntargeted(loss="ce", steps=self.steps)(source.of(*guesses), points, threat)

    def calls(self, classes: int) -> Calls:
        """Passes one image costs: APGD's, on the estimate; the search is counted apart."""
        return ApgdUntargeted(loss="ce", steps=self.steps).calls(classes)

    def _searched(self, trial: "Trial") -> tuple[Int[Tensor, " values"], Score]:
        seeds = torch.tensor([self.seed], device=trial.images.device)
        orders = [permutations(seeds, stream, trial.values)[0] for stream in range(self.tries)]
        best, score = max(((order, trial.score(order)) for order in orders), key=lambda scored: scored[1])
        for swap in range(self.swaps):
            swapped = _swapped(best, seeds, self.tries + swap)
            reached = trial.score(swapped)
            if reached > score:
                best, score = swapped, reached
        return best, score


@dataclass(frozen=True)
class Trial:
    """One model, and labelled images to judge orders by."""

    source: Source
    images: Float[Tensor, "examples 3 height width"]
    labels: Int[Tensor, " examples"]
    block_size: int
    findings: dict[str, float]

    @classmethod
    def of(cls, source: Source, model: nn.Module, points: Points) -> "Trial":
        """Of the attacker's examples.

        Raises:
            StudyError: he has none, or does not know the block size.
        """
        examples = source.knowledge.examples
        if examples is None or not len(examples[0]):
            raise StudyError(
                "Key search judges its guesses by labelled images of the attacker's own and has none. "
                "Give the source some that are not attacked."
            )
        images, labels = examples[0].to(points.images), examples[1].to(points.labels)
        # Counters of its own: what is asked here belongs to no attacked image.
        asked = replace(source, models=(model,), images=len(images))
        return cls(asked, images, labels, known_block_size(source), source.findings)

    @property
    def values(self) -> int:
        """How many values an order permutes."""
        return CHANNELS * self.block_size**2

    def score(self, order: Int[Tensor, " values"]) -> Score:
        """How well the model reads the examples behind this order; one forward pass each."""
        guess = self.source.of(
            *(Guess(BlockShuffle(self.block_size, order), m) for m in self.source.models)
        )
        rows = torch.arange(len(self.images), device=self.images.device)
        parts = torch.split(rows, self.source.batch)
        logits = torch.cat([guess.logits(self.images[part], part) for part in parts])
        self.findings["example_forwards"] = self.findings.get("example_forwards", 0.0) + len(rows)
        right = float((~misread(logits, self.labels)).double().mean())
        return right, -float(cross_entropy(logits, self.labels).mean())


def _swapped(
    order: Int[Tensor, " values"], seeds: Int[Tensor, " one"], stream: int
) -> Int[Tensor, " values"]:
    """The order with two different places exchanged."""
    first, offset = integers(seeds, stream, len(order), 2)[0]
    second = (first + 1 + offset % (len(order) - 1)) % len(order)
    places = torch.arange(len(order), device=order.device)
    places[first], places[second] = second, first
    return order[places]
