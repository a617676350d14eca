"""BlockShuffle: the paper's key transform, one permutation for the pixels of all blocks of an image.

MaungMaung, Echizen, Kiya, "Efficient Key-Based Adversarial Defense for ImageNet by Using Pre-trained
Model" (arXiv 2311.16577), section III; flatten order row, column, channel as in the published code of
"Block-wise Image Transformation with Secret Key" (arXiv 2010.00801).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orchestrator.errors import StudyError
from orchestrator.keys.permutation import draw_permutation
from orchestrator.keys.secret import SecretKey
from orchestrator.models.key_transform import KeyTransform

CHANNELS = 3


@dataclass(frozen=True, repr=False)
class BlockShuffle(KeyTransform):
    """Permutes the 3·M·M values of every M×M block; ``order`` is as secret as the key it is from."""

    order: Int[Tensor, " values"]

    @classmethod
    def from_key(cls, key: SecretKey, block_size: int) -> "BlockShuffle":
        """The shuffle a key stands for at one block size."""
        values = CHANNELS * block_size * block_size
        return cls(block_size, torch.tensor(draw_permutation(key, values), dtype=torch.long))

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Shuffled images: within a block, value i of the output is value ``order[i]`` of the input.

        A block is flattened by row, then column, then channel (channel fastest), so values move
        across positions and across channels. Pixels are in [0, 1], before any normalisation. An
        index, so gradients pass through it exactly.
        """
        return self._permute(images, self.order.to(images.device))

    def invert(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """The images whose shuffle this is."""
        return self._permute(images, self.order.to(images.device).argsort())

    def folds(self, patch_size: int) -> bool:
        """Whether blocks tile patches of this size."""
        return patch_size % self.block_size == 0

    def fold(
        self, weight: Float[Tensor, "out 3 patch patch"], bias: Float[Tensor, " out"]
    ) -> tuple[Float[Tensor, "out 3 patch patch"], Float[Tensor, " out"]]:
        """Weights on plain patches that equal these on shuffled ones: the columns in another order."""
        columns = self.patch_columns(weight.shape[-1]).to(weight.device)
        return weight.flatten(1)[:, columns].view_as(weight), bias

    def unfold(
        self, weight: Float[Tensor, "out 3 patch patch"], bias: Float[Tensor, " out"]
    ) -> tuple[Float[Tensor, "out 3 patch patch"], Float[Tensor, " out"]]:
        """Weights on shuffled patches that equal these on plain ones."""
        columns = self.patch_columns(weight.shape[-1]).to(weight.device)
        return weight.flatten(1)[:, columns.argsort()].view_as(weight), bias

    def patch_columns(self, patch_size: int) -> Int[Tensor, " columns"]:
        """Column order that folds the shuffle into weights on flattened (channel, row, column) patches.

        With ``W`` of shape (out, 3·p·p) acting on a shuffled patch, ``W[:, patch_columns(p)]`` gives
        the same output on the plain patch. Needs ``block_size`` to divide ``patch_size``.
        """
        if not self.folds(patch_size):
            raise StudyError(
                f"Blocks of {self.block_size} px do not tile patches of {patch_size} px, so this key "
                "cannot be folded into the patch embedding."
            )
        count = CHANNELS * patch_size * patch_size
        places = torch.arange(count, dtype=torch.float64).view(1, CHANNELS, patch_size, patch_size)
        # Shuffling the places tells, for each output place, which input place it was taken from;
        # the inverse tells, for each input place, which weight column reads it.
        return self(places).flatten().long().argsort()

    def _permute(
        self, images: Float[Tensor, "batch 3 height width"], order: Int[Tensor, " values"]
    ) -> Float[Tensor, "batch 3 height width"]:
        return from_blocks(to_blocks(images, self.block_size)[..., order], self.block_size)


def shuffle_rows(
    images: Float[Tensor, "batch 3 height width"], orders: Int[Tensor, "batch values"], block_size: int
) -> Float[Tensor, "batch 3 height width"]:
    """Every image shuffled by an order of its own: row i as ``BlockShuffle(block_size, orders[i])`` does.

    A gather, so gradients pass through it exactly.
    """
    blocks = to_blocks(images, block_size)
    places = orders[:, None, None, :].expand_as(blocks)
    return from_blocks(blocks.gather(-1, places), block_size)


def to_blocks(
    images: Float[Tensor, "batch 3 height width"], size: int
) -> Float[Tensor, "batch rows columns values"]:
    """The 3·M·M values of every block of M×M pixels, by row, then column, then channel.

    Raises:
        StudyError: the blocks do not tile the images.
    """
    batch, _, height, width = images.shape
    if height % size or width % size:
        raise StudyError(f"Blocks of {size} px do not tile images of {height}x{width} px.")
    rows, columns = height // size, width // size
    blocks = images.reshape(batch, CHANNELS, rows, size, columns, size)
    return blocks.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows, columns, CHANNELS * size * size)


def from_blocks(
    blocks: Float[Tensor, "batch rows columns values"], size: int
) -> Float[Tensor, "batch 3 height width"]:
    """The images that ``to_blocks`` took apart."""
    batch, rows, columns, _ = blocks.shape
    pixels = blocks.reshape(batch, rows, columns, size, size, CHANNELS)
    return pixels.permute(0, 5, 1, 3, 2, 4).reshape(batch, CHANNELS, rows * size, columns * size)
