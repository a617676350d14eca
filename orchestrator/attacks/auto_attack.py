"""AutoAttack, the standard protocol of its paper, run on the authors' code.

Croce & Hein (2020, arXiv 2003.01690, §5). The authors' loops move pixels (see reference.py); we
keep who is still standing, the noise, and the state of the process.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from orchestrator.attacks.answer import misread
from orchestrator.attacks.attack import Calls, Threat, project
from orchestrator.attacks.reference import MOST_TARGETS, Stage, Standing, stages
from orchestrator.errors import StudyError
from orchestrator.seeds import derive_seed


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
        batch: images attacked at a time, for memory and speed. Nothing drawn depends on it; only
            a model that rounds differently in another batch size lets an answer depend on it.
        windows_seed: seed of the windows Square tries.

    Raises:
        StudyError: steps, queries or batch below 1.
    """

    steps: int = 100
    queries: int = 5000
    batch: int = 64
    windows_seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.queries, self.batch) < 1:
            raise StudyError(
                f"Autoattack with steps={self.steps}, queries={self.queries} and "
                f"batch={self.batch} would do nothing. Give each at least 1."
            )

    def __call__(
        self,
        model: nn.Module,
        images: Float[Tensor, "batch 3 height width"],
        labels: Int[Tensor, " batch"],
        threat: Threat,
        seeds: Sequence[int],
    ) -> Float[Tensor, "batch 3 height width"]:
        """Images moved inside ``threat`` where an attack broke them, unchanged where none did.

        Args:
            model: maps images in [0, 1] to logits, two classes or more, each row by itself. It is
                given the images' type; the authors' code itself computes in float32.
            images: in [0, 1]; at least 5 pixels high and wide, as Square under ℓ2 needs.
            labels: the classes to move away from.
            threat: how far each image may be moved.
            seeds: one per image.
        """
        if len(seeds) != len(images):
            raise ValueError(f"There are {len(seeds)} seeds for {len(images)} images.")
        images, labels = images.detach().contiguous(), labels.long()
        moved = images.clone()
        if len(images) == 0:
            return moved
        with _random_state_kept(images.device), torch.no_grad():
            logits = torch.cat([model(part).float() for part in torch.split(images, self.batch)])
            standing = ~misread(logits, labels)
            ranking = _ranking(logits, labels)
            plan = stages(logits.shape[1], self.steps, self.queries, self.windows_seed)
            for name, attack in plan.items():
                if not standing.any():
                    break
                for rows in torch.split(standing.nonzero()[:, 0], self.batch):
                    some = Standing(
                        model=model,
                        images=images[rows],
                        labels=labels[rows],
                        ranking=ranking[rows],
                        threat=threat,
                        seeds=[derive_seed(seeds[row], name) for row in rows.tolist()],
                    )
                    found, fallen = _strike(attack, some)
                    moved[rows[fallen]] = found[fallen]
                    standing[rows[fallen]] = False
        return moved

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
    return found, misread(some.logits(found), some.labels)


def _ranking(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Int[Tensor, "batch classes"]:
    """Classes by logit, highest first; the label before all, also where it is tied."""
    return logits.scatter(1, labels[:, None], float("inf")).argsort(dim=1, descending=True)


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
