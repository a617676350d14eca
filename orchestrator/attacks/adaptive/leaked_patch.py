"""Leaked patch embedding: its columns give the key away; the public body behind it is attacked."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import scipy.optimize
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchestrator.attacks.adaptive.graft import Graft
from orchestrator.attacks.adaptive.guess import Guess, known_block_size, known_plain, vit_of
from orchestrator.attacks.answer import Found
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.source import Access, Source
from orchestrator.attacks.threat import Norm, Threat
from orchestrator.attacks.transfer.climb import Pace, Stand, check_pace, climb
from orchestrator.errors import StudyError
from orchestrator.models.backbone import patch_projection
from orchestrator.models.keyed import KeyedModel, folded_patch_weights
from orchestrator.models.transform import BlockShuffle, to_blocks


@dataclass(frozen=True, kw_only=True)
class LeakedPatch:
    """Momentum steps on an estimate of a keyed model whose patch embedding leaked; for ℓ∞ and ℓ2.

    Folding permutes the columns of the patch embedding by the key (arXiv 2207.05366; see
    ``folded_patch_weights``), and tuning changes each a little. So the public column that a leaked one
    is most like tells its place in the key, one for one over a block: a linear assignment. Nothing else
    of the keyed model is used; no pass through it is made. How alike the matched columns are is the finding
    ``matched_correlation``; the order itself is the key, and stays in memory.

    Of what leaked, the whole embedding says more than the key: on four digits models (M = 8, ℓ∞ 8/255)
    every place of every key was found, and the public body behind the leaked embedding fooled 61 % of
    their images, behind the key alone 22 %. It is a transfer attack, not a white-box one: through the
    same estimates APGD reached 39 % and 12 %.

    Args:
        through: the estimate is the public model with the leaked ``embedding`` in place of its own, or
            behind the ``key`` that was read off it.
        steps: gradient steps; each costs one forward and one backward pass of the estimate.
        reach: length of all steps together, in ε.
        momentum: share of the sum of gradients that lasts to the next step.

    Raises:
        StudyError: steps below 1, reach below 0.001 or momentum below 0; at the call, an unknown block
            size, one that does not divide the patch, no plain model, or one that is no ViT with patches
            of the same shape.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset({"plain", "block-size", "shuffle"})
    through: Literal["embedding", "key"] = "embedding"
    steps: int = 20
    reach: float = 2.0
    momentum: float = 1.0

    def __post_init__(self) -> None:
        check_pace(self)

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Where the last step ends; the keyed model is not asked about any image."""
        estimates, alike = [], []
        for model in source.models:
            estimate, correlation = self._estimate(source, model)
            estimates.append(estimate)
            alike.append(correlation)
        source.findings["matched_correlation"] = sum(alike) / len(alike)
        pace = Pace(self.steps, self.reach, self.momentum)
        return climb(source.of(*estimates), points, threat, pace, _here)

    def calls(self, classes: int) -> Calls:  # noqa: ARG002 - as many for any number of classes
        """Passes one image costs, of the estimate: one each way a step."""
        return Calls(forwards=self.steps, backwards=self.steps)

    def _estimate(self, source: Source, model: nn.Module) -> tuple[nn.Module, float]:
        size, plain = known_block_size(source), known_plain(source)
        order, correlation = matched_order(vit_of(model), vit_of(plain), size)
        if self.through == "key":
            return Guess(BlockShuffle(size, order), plain), correlation
        return Graft(vit_of(model), plain), correlation


def matched_order(
    keyed: KeyedModel, plain: KeyedModel, block_size: int
) -> tuple[Int[Tensor, " values"], float]:
    """The order of a block that best explains the keyed patch embedding by the plain one.

    Args:
        keyed: what leaked; only its patch embedding is read, in the folded form a device carries.
        plain: the public model it was tuned from.
        block_size: side M of a block; divides the patch.

    Returns:
        The order, of 3·M·M values and as secret as the key, and the mean correlation of matched columns.

    Raises:
        StudyError: the block size does not divide the patch, or the embeddings differ in shape.
    """
    leaked, public = (_columns(model, block_size) for model in (keyed, plain))
    if leaked.shape != public.shape:
        raise StudyError(
            "The keyed model's patch embedding has another shape than the plain one's. Give the source "
            "the plain model it was tuned from."
        )
    # Folding puts column i of a block where value i was taken from: row i matches column order[i].
    alike = torch.einsum("iko,jko->ij", public, leaked) / public.shape[1]
    places, order = scipy.optimize.linear_sum_assignment(alike.cpu().numpy(), maximize=True)
    correlation = float(alike.cpu().numpy()[places, order].mean())
    return torch.tensor(order, dtype=torch.long, device=leaked.device), correlation


def _columns(model: KeyedModel, block_size: int) -> Float[Tensor, "values blocks out"]:
    """The weights of each place of a block, in every block of a patch, centred and of length 1.

    Both models in the form that takes [0, 1] pixels: the normalisation that folding put in is then in
    both, and correlation does not see its scale.
    """
    projection = patch_projection(model.backbone)
    if projection.kernel_size[0] % block_size:
        raise StudyError(
            f"Blocks of {block_size} px do not tile patches of {projection.kernel_size[0]} px, so the "
            "key is not folded into the patch embedding and cannot be read off it."
        )
    assert projection.bias is not None  # noqa: S101 - patch_projection refuses one without
    weight, _ = folded_patch_weights(model, projection.weight.double(), projection.bias.double())
    columns = to_blocks(weight, block_size).flatten(1, 2).permute(2, 1, 0)
    centred = columns - columns.mean(dim=-1, keepdim=True)
    unit: Tensor = centred / centred.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return unit


def _here(stand: Stand) -> Float[Tensor, "rows 3 height width"]:
    return stand.gradient(stand.current)
