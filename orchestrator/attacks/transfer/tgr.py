"""TGR: momentum steps on a ViT whose gradients are damped, and freed of their extreme tokens."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.attacks.answer import Found
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.settings import share
from orchestrator.attacks.source import Access, Source
from orchestrator.attacks.threat import Norm, Threat
from orchestrator.attacks.transfer.climb import Pace, Stand, check_pace, climb
from orchestrator.attacks.transfer.vit_blocks import attention_unfused, changing, regularise, vit_blocks


@dataclass(frozen=True, kw_only=True)
class TokenGradient:
    """Token gradient regularisation (Zhang et al. 2023, arXiv 2303.15754), for ℓ∞ and ℓ2.

    Tokens of extreme gradient are the source's own, and momentum does not average them away. In every
    block the gradient that reaches the attention map, the output of ``qkv`` and that of ``mlp`` is
    scaled, and its largest and smallest token set to 0: of each channel, or of each head's map with
    their row and column. The authors' code finds the extremes of the first image of a batch and uses
    them for all; here each image has its own.

    Args:
        steps: gradient steps; each costs one forward and one backward pass.
        reach: length of all steps together, in ε.
        momentum: share of the sum of gradients that lasts to the next step.
        attention: scale of the gradient that reaches an attention map.
        qkv: scale of the one that reaches queries, keys and values.
        mlp: scale of the one that reaches the output of an MLP.

    Raises:
        StudyError: steps below 1, reach below 0.001, momentum below 0, or a scale outside (0, 1]; at
            the call, a source that is no ViT.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset({"vit"})
    steps: int = 10
    reach: float = 1.0
    momentum: float = 1.0
    attention: float = 0.25
    qkv: float = 0.75
    mlp: float = 0.5

    def __post_init__(self) -> None:
        check_pace(self)
        share(self, "attention", "qkv", "mlp")

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Where the last step ends."""
        pace = Pace(self.steps, self.reach, self.momentum)
        with self.damped(source):
            return climb(source, points, threat, pace, _here)

    def calls(self, classes: int) -> Calls:  # noqa: ARG002 - as many for any number of classes
        """Passes one image costs: one each way a step."""
        return Calls(forwards=self.steps, backwards=self.steps)

    @contextmanager
    def damped(self, source: Source) -> Iterator[None]:
        """Meanwhile the gradients inside a source's models are regularised.

        Raises:
            StudyError: a model is no ViT.
        """
        blocks = vit_blocks(source)
        with ExitStack() as hooks:
            hooks.enter_context(attention_unfused(blocks))
            for block in blocks:
                # A module that drops nothing in eval mode, but one that the map passes through.
                for place, rule in (
                    (block.attn.attn_drop, partial(without_extreme_pairs, scale=self.attention)),
                    (block.attn.qkv, partial(without_extreme_tokens, scale=self.qkv)),
                    (block.mlp, partial(without_extreme_tokens, scale=self.mlp)),
                ):
                    hooks.enter_context(changing(place, partial(regularise, rule=rule)))
            yield


def without_extreme_tokens(
    gradient: Float[Tensor, "batch tokens channels"], scale: float
) -> Float[Tensor, "batch tokens channels"]:
    """Scaled, with 0 where a channel has its largest and its smallest value, for each image by itself."""
    extremes = torch.stack([gradient.argmax(dim=1), gradient.argmin(dim=1)], dim=1)
    return (scale * gradient).scatter(1, extremes, 0.0)


def without_extreme_pairs(
    gradient: Float[Tensor, "batch heads queries keys"], scale: float
) -> Float[Tensor, "batch heads queries keys"]:
    """Scaled, with 0 in the rows and columns where a head's map has its largest and smallest value."""
    flat, keys = gradient.flatten(2), gradient.shape[-1]
    extremes = torch.stack([flat.argmax(dim=2), flat.argmin(dim=2)], dim=2)
    kept = torch.ones_like(gradient[..., 0]).scatter(2, extremes // keys, 0.0)
    heeded = torch.ones_like(gradient[..., 0, :]).scatter(2, extremes % keys, 0.0)
    return scale * gradient * kept[..., :, None] * heeded[..., None, :]


def _here(stand: Stand) -> Float[Tensor, "rows 3 height width"]:
    return stand.gradient(stand.current)
