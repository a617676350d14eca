"""KeyedModel: a ViT behind a key, taking plain images in [0, 1]; explicit, or folded into its weights."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orchestrator.models.backbone import normalisation_of, patch_projection
from orchestrator.models.key_transform import KeyTransform


class KeyedModel(nn.Module):
    """Transform, normalise, classify; without a key's transform it is the undefended (plain) model.

    Neither the key's transform nor the normalisation is part of ``state_dict``: what is saved is the
    backbone alone.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        transform: KeyTransform | None = None,
        *,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        if mean is None or std is None:
            mean, std = normalisation_of(backbone)
        self.backbone = backbone
        self.transform = transform
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of images in [0, 1]."""
        if self.transform is not None:
            images = self.transform(images)
        logits: Tensor = self.backbone((images - self.mean) / self.std)
        return logits


def folds(transform: KeyTransform | None, patch_size: int) -> bool:
    """Whether a key's transform can be folded into patches of this size."""
    return transform is None or transform.folds(patch_size)


@torch.no_grad()
def folded_patch_weights(
    model: KeyedModel, weight: Float[Tensor, "out 3 patch patch"], bias: Float[Tensor, " out"]
) -> tuple[Float[Tensor, "out 3 patch patch"], Float[Tensor, " out"]]:
    """Patch-embedding weights on plain [0, 1] pixels that equal the model's transform and normalisation.

    With W on a normalised, shuffled patch: W·((Px − μ)/σ) + b = (W/σ)P·x + (b − Σ W·μ/σ). A transform
    that is affine folds likewise. The group
    behind the defence published this identity (arXiv 2207.05366): a key by itself is a change of
    basis, and only training makes keyed models differ.
    """
    mean, std = (buffer.double().to(weight.device) for buffer in (model.mean, model.std))
    scaled = weight.double() / std
    moved_bias = bias.double() - (scaled * mean).sum(dim=(1, 2, 3))
    if model.transform is not None:
        scaled, moved_bias = model.transform.fold(scaled, moved_bias)
    return scaled.to(weight.dtype), moved_bias.to(bias.dtype)


@torch.no_grad()
def unfolded_patch_weights(
    model: KeyedModel, weight: Float[Tensor, "out 3 patch patch"], bias: Float[Tensor, " out"]
) -> tuple[Float[Tensor, "out 3 patch patch"], Float[Tensor, " out"]]:
    """Weights behind the model's transform and normalisation that equal these on plain patches.

    What ``folded_patch_weights`` undoes: any weights on plain pixels can be rewritten for any key.
    """
    mean, std = (buffer.double().to(weight.device) for buffer in (model.mean, model.std))
    scaled, moved_bias = weight.double(), bias.double()
    if model.transform is not None:
        scaled, moved_bias = model.transform.unfold(scaled, moved_bias)
    moved_bias = moved_bias + (scaled * mean).sum(dim=(1, 2, 3))
    return (scaled * std).to(weight.dtype), moved_bias.to(bias.dtype)


@torch.no_grad()
def fold(model: KeyedModel) -> KeyedModel:
    """Fold transform and normalisation into the model's own patch embedding, in place.

    The result computes the same function of plain images with no key beside it: this is the form
    a device carries, and the reason its weights are as secret as its key.

    Raises:
        StudyError: the block size does not divide the patch size, or the transform is not affine.
    """
    projection = patch_projection(model.backbone)
    assert projection.bias is not None  # noqa: S101 - patch_projection refuses one without
    weight, bias = folded_patch_weights(model, projection.weight, projection.bias)
    projection.weight.copy_(weight)
    projection.bias.copy_(bias)
    return as_folded(model.backbone)


def as_folded(backbone: nn.Module) -> KeyedModel:
    """A model around a backbone whose patch embedding already takes plain [0, 1] pixels."""
    zeros, ones = (0.0,) * 3, (1.0,) * 3
    return KeyedModel(backbone, mean=zeros, std=ones)
