"""NegativePositive: the key transform that takes the negative at half of a block's places."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from orchestrator.errors import StudyError
from orchestrator.keys.bits import draw_bits
from orchestrator.keys.secret import SecretKey
from orchestrator.models.key_transform import KeyTransform
from orchestrator.models.transform import CHANNELS, from_blocks, to_blocks


@dataclass(frozen=True, repr=False)
class NegativePositive(KeyTransform):
    """Takes x to 1 − x, the 8-bit p to 255 − p, at the places of every block where ``flips`` is true.

    MaungMaung and Kiya, "Block-wise Image Transformation with Secret Key for Adversarially Robust
    Defense" (arXiv 2010.00801), where it is also called bit flipping. Its own inverse, and affine: it
    folds into a patch embedding as the shuffle does.
    """

    flips: Bool[Tensor, " values"]
    """One for each value of a block, by row, then column, then channel; as secret as the key."""

    @classmethod
    def from_key(cls, key: SecretKey, block_size: int) -> "NegativePositive":
        """The flips a key stands for at one block size."""
        return cls(block_size, torch.tensor(draw_bits(key, CHANNELS * block_size**2)))

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Images with the negative at the flipped places; gradients pass exactly, with their sign."""
        blocks = to_blocks(images, self.block_size)
        return from_blocks(torch.where(self.flips.to(images.device), 1 - blocks, blocks), self.block_size)

    def invert(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """The images that this transform takes to these: it undoes itself."""
        return self(images)

    def folds(self, patch_size: int) -> bool:
        """Whether blocks tile patches of this size."""
        return patch_size % self.block_size == 0

    def fold(
        self, weight: Float[Tensor, "out 3 patch patch"], bias: Float[Tensor, " out"]
    ) -> tuple[Float[Tensor, "out 3 patch patch"], Float[Tensor, " out"]]:
        """Weights on plain patches that equal these on transformed ones: W·Tx = (W·S)x + Σ W at the flips.

        S has −1 at the flipped places and 1 at the others.
        """
        if not self.folds(weight.shape[-1]):
            raise StudyError(
                f"Blocks of {self.block_size} px do not tile patches of {weight.shape[-1]} px, so this key "
                "cannot be folded into the patch embedding."
            )
        flipped = self(torch.zeros_like(weight[:1]))  # of black, white: 1 where a value is flipped
        return weight * (1 - 2 * flipped), bias + (weight * flipped).sum(dim=(1, 2, 3))

    def unfold(
        self, weight: Float[Tensor, "out 3 patch patch"], bias: Float[Tensor, " out"]
    ) -> tuple[Float[Tensor, "out 3 patch patch"], Float[Tensor, " out"]]:
        """Weights on transformed patches that equal these on plain ones: the same step once more."""
        return self.fold(weight, bias)
