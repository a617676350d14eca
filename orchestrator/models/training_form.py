"""TrainingForm: a keyed model as it is trained, its shuffle in the columns of its patch embedding."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orchestrator.models.keyed import KeyedModel
from orchestrator.models.lora import PATCH
from orchestrator.models.transform import CHANNELS, BlockShuffle


class TrainingForm(nn.Module):
    """The same function as a keyed model, with the same training, and no batch is shuffled.

    With W on a shuffled, normalised patch, W·n(P·x) = (W·P)·m(x): the columns of W are put in another
    order once, and m normalises a pixel as n does where the shuffle takes it. AdamW, its decay, the
    clipping of gradients and a random start treat all columns alike, so training W·P takes the steps of
    training W, in another order of columns. That goes for the adapter on the patch embedding too: its
    down-projection reads the same pixels, and its dropout falls on other ones, with the same chances.

    Where the blocks do not tile the patches, and for the key transforms that are no shuffle, images are
    transformed as they come.

    Args:
        keyed: the model; its backbone, adapters included, is rearranged in place until ``finished``.
        image_size: side of its images in pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, keyed: KeyedModel, image_size: int) -> None:
        super().__init__()
        self.backbone, self.keyed_transform = keyed.backbone, keyed.transform
        mean, std = keyed.mean, keyed.std
        self.carried = None
        if isinstance(keyed.transform, BlockShuffle) and keyed.transform.folds(self._patch_size()):
            self.carried = keyed.transform
            self._rearrange(self.carried.patch_columns(self._patch_size()))
            # Channels that are normalised alike are so wherever their pixels go.
            if not all((part == part[:, :1]).all() for part in (mean, std)):
                whole = (1, CHANNELS, image_size, image_size)
                mean, std = (self.carried.invert(part.expand(whole)) for part in (mean, std))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of images in [0, 1]."""
        if self.keyed_transform is not None and self.carried is None:
            images = self.keyed_transform(images)
        logits: Tensor = self.backbone((images - self.mean) / self.std)
        return logits

    def finished(self) -> KeyedModel:
        """The keyed model that was trained, its columns in their own order; this form is done with."""
        if self.carried is not None:
            self._rearrange(self.carried.patch_columns(self._patch_size()).argsort())
        return KeyedModel(self.backbone, self.keyed_transform).to(self.mean.device)

    def _patch_size(self) -> int:
        return max(weight.shape[-1] for weight in self._readers())

    def _readers(self) -> list[nn.Parameter]:
        """Weights that read pixels: those of the patch embedding, and of its adapter's down-projection."""
        named = self.backbone.named_parameters()
        found = [p for name, p in named if f"{PATCH}." in name and ".lora_B." not in name]
        return [parameter for parameter in found if parameter.ndim == 4]

    @torch.no_grad()
    def _rearrange(self, columns: Tensor) -> None:
        for weight in self._readers():
            weight.copy_(weight.flatten(1)[:, columns.to(weight.device)].view_as(weight))
