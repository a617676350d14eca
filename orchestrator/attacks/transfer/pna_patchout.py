"""PNA-PatchOut: momentum steps on a ViT with no gradient through its attention maps, on random patches."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from orchestrator.attacks.answer import Found
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.noise import permutations
from orchestrator.attacks.settings import share
from orchestrator.attacks.source import Access, Source
from orchestrator.attacks.threat import Norm, Threat
from orchestrator.attacks.transfer.climb import Pace, Stand, check_pace, climb
from orchestrator.attacks.transfer.vit_blocks import changing, patch_side, vit_blocks


@dataclass(frozen=True, kw_only=True)
class PnaPatchOut:
    """PNA and PatchOut (Wei et al. 2022, arXiv 2109.04176), for ℓ∞ and ℓ2, with momentum.

    Pay No Attention: maps of attention are the source's own, so the gradient goes through the values
    alone. PatchOut: each step shows, and moves, the perturbation on some patches only, drawn for each
    image by itself. The penalty on a short perturbation, which the authors add to the loss, is left
    out: momentum steps of fixed length reach the border without it.

    Args:
        steps: gradient steps; each costs one forward and one backward pass.
        reach: length of all steps together, in ε.
        momentum: share of the sum of gradients that lasts to the next step.
        patches: share of patches in each step; the authors take 130 of 196.

    Raises:
        StudyError: steps below 1, reach below 0.001, momentum below 0, or patches outside (0, 1]; at
            the call, a source that is no ViT.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset({"vit"})
    steps: int = 10
    reach: float = 1.0
    momentum: float = 1.0
    patches: float = 0.66

    def __post_init__(self) -> None:
        check_pace(self)
        share(self, "patches")

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Where the last step ends."""
        side = patch_side(source)

        def gradient(stand: Stand) -> Float[Tensor, "rows 3 height width"]:
            kept = some_patches(stand.points, stand.step, side, self.patches)
            clean = stand.points.images
            return stand.gradient(stand.current, lambda shown: torch.where(kept, shown, clean))

        pace = Pace(self.steps, self.reach, self.momentum)
        with attention_held(source):
            return climb(source, points, threat, pace, gradient)

    def calls(self, classes: int) -> Calls:  # noqa: ARG002 - as many for any number of classes
        """Passes one image costs: one each way a step."""
        return Calls(forwards=self.steps, backwards=self.steps)


@contextmanager
def attention_held(source: Source) -> Iterator[None]:
    """Meanwhile every attention map of a source's models is a constant to the gradient.

    A map is made of queries and keys alone, so they are cut off, whether attention is fused or not.

    Raises:
        StudyError: a model is no ViT.
    """
    with ExitStack() as hooks:
        for block in vit_blocks(source):
            hooks.enter_context(changing(block.attn.qkv, _values_alone))
        yield


def _values_alone(
    qkv: Float[Tensor, "batch tokens channels"],
) -> Float[Tensor, "batch tokens channels"]:
    queries, keys, values = qkv.chunk(3, dim=-1)
    return torch.cat([queries.detach(), keys.detach(), values], dim=-1)


def some_patches(
    points: Points, step: int, side: int, patches: float
) -> Bool[Tensor, "rows 1 height width"]:
    """Which pixels are in the patches drawn for this step: the given share of all, at least one."""
    height, width = points.images.shape[-2] // side, points.images.shape[-1] // side
    count = max(1, round(patches * height * width))
    drawn = permutations(points.seeds, step, height * width) < count
    grid = drawn.view(len(points), 1, height, width)
    return grid.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)
