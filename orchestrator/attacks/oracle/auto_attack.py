"""AutoAttack, the standard protocol of its paper, run on the authors' code.

Croce & Hein (2020, arXiv 2003.01690, §5). The authors' loops move pixels (see loops.py); we
keep who is still standing, the noise, and the state of the process.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orchestrator.attacks.answer import Found, misread
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.oracle.loops import MOST_TARGETS, Stage, Standing, stages
from orchestrator.attacks.settings import at_least
from orchestrator.attacks.source import Access, Source
from orchestrator.attacks.threat import Norm, Threat, project


@dataclass(frozen=True, kw_only=True)
class AutoAttackStandard:
    """AutoAttack "standard": APGD-CE, APGD-T, FAB-T, Square, each on what the last left standing.

    An image comes back moved only if the model misreads the moved one strictly (a tie is read
    right). An image misread from the start, or broken by no attack, comes back exactly unchanged;
    the caller's mask "was moved" is ``(answer != images).flatten(1).any(1)``.

    What runs depends on the number of classes, because the targeted DLR loss reads four logits and
    the plain one three: from 4 classes all four attacks; with 3 plain APGD-DLR in APGD-T's place;
    with 2 APGD-CE, FAB-T and Square. APGD-T and FAB-T try the 9 likeliest wrong classes, or all.

    What is drawn for an image comes from its own seed, so its answer does not depend on its
    neighbours. Only the windows Square tries are common to all images, as they are to a batch of
    the authors'; they come from ``windows_seed``.

    Args:
        steps: iterations of each gradient attack; each has one start.
        queries: forward passes Square may spend on an image.
        windows_seed: seed of the windows Square tries.

    Raises:
        StudyError: steps or queries below 1.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset()
    early: ClassVar[bool] = True
    steps: int = 100
    queries: int = 5000
    windows_seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "queries")

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Images moved inside ``threat`` where an attack broke them, unchanged where none did.

        Images must be at least 5 pixels high and wide, as Square under ℓ2 needs. Models are given the
        images' type; the authors' code itself computes in float32.
        """
        moved = points.images.clone()
        if len(points) == 0:
            return Found.same(moved)
        with _random_state_kept(points.images.device), torch.no_grad():
            logits = torch.cat(
                [source.logits(points.images[rows], rows) for rows in points.slices(source.batch)]
            )
            standing = ~misread(logits, points.labels)
            wrong = _wrong(logits, points.labels)
            plan = stages(logits.shape[1], self.steps, self.queries, self.windows_seed)
            for number, attack in enumerate(plan.values()):
                for rows in torch.split(standing.nonzero()[:, 0], source.batch):
                    if len(rows):
                        some = Standing(
                            source=source,
                            rows=rows,
                            points=points.stage(number).part(rows),
                            wrong=wrong[rows],
                            threat=threat,
                        )
                        found, fallen = _strike(attack, some)
                        moved[rows[fallen]] = found[fallen]
                        standing[rows[fallen]] = False
        return Found.same(moved)

    def calls(self, classes: int) -> Calls:
        """Passes one image costs that no attack breaks; one that falls stops there."""
        targets = min(MOST_TARGETS, classes - 1)
        ascents = 1 + (targets if classes > 3 else int(classes == 3))
        looks = ascents * (self.steps + 1)  # APGD: every step, and the start
        fab = targets * (2 * self.steps + 2)  # a label after every step, two before the first
        decisions = 1 + ascents + targets + 1  # on the image itself and after every attack
        return Calls(
            forwards=looks + fab + self.queries + 1 + decisions,
            backwards=looks + targets * self.steps,
        )


def _strike(
    attack: Stage, some: Standing
) -> tuple[Float[Tensor, "batch 3 height width"], Bool[Tensor, " batch"]]:
    """What one attack made of the images, projected by us, and whether it is misread strictly."""
    found = project(attack(some).to(some.images.dtype), some.images, some.threat)
    return found, some.source.decisions(found, some.rows, some.labels)


def _wrong(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Int[Tensor, "batch others"]:
    """Wrong classes by logit, highest first; the label is none of them, also where it is tied."""
    ranked = logits.scatter(1, labels[:, None], float("inf")).argsort(dim=1, descending=True)
    return ranked[:, 1:]


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """Put back the state of every global generator that the authors' code or a model may draw from.

    CUDA's is touched only for images that are there, so that nothing wakes a GPU.
    """
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, device)
