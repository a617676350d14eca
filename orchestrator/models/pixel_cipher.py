"""PixelCipher: the key transform that encrypts 8-bit values at half of a block's places (FFX)."""

from dataclasses import dataclass
from typing import NoReturn

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orchestrator.errors import StudyError
from orchestrator.keys.bits import draw_bits
from orchestrator.keys.permutation import draw_permutation
from orchestrator.keys.secret import SecretKey
from orchestrator.models.key_transform import KeyTransform
from orchestrator.models.transform import CHANNELS, from_blocks, to_blocks

LEVELS = 256


@dataclass(frozen=True, repr=False)
class PixelCipher(KeyTransform):
    """Takes the 8-bit value p to ``table[p]`` at the places of every block where ``places`` is true.

    What "FFX encryption" is in MaungMaung and Kiya (arXiv 2010.00801): one format-preserving cipher of
    pixel values for all places that are encrypted. On so few values a cipher is a table. Here it is a
    permutation of 0..255, uniform over random keys, which a Feistel network (NIST SP 800-38G, FF1) only
    comes near to; the published code encrypts three decimal digits, to 0..999. See docs/keys.md.

    It is not linear, so it never folds: the key is needed wherever the model is. A value between two
    8-bit ones is rounded first, at encrypted places alone.
    """

    places: Bool[Tensor, " values"]
    """One for each value of a block, by row, then column, then channel; as secret as the key."""
    table: Int[Tensor, " levels"]
    """What each 8-bit value becomes; as secret as the key."""

    @classmethod
    def from_key(cls, key: SecretKey, block_size: int) -> "PixelCipher":
        """The places and the table a key stands for at one block size."""
        places = draw_bits(key, CHANNELS * block_size**2)
        table = draw_permutation(key, LEVELS)
        return cls(block_size, torch.tensor(places), torch.tensor(table, dtype=torch.long))

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Images encrypted at the key's places.

        The gradient is passed straight through, as if nothing were encrypted: the table has none. That
        is BPDA (Athalye et al. 2018, arXiv 1802.00420) with the identity behind.
        """
        return self._look_up(images, self.table)

    def invert(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """The images that this transform takes to these, rounded to 8 bits at encrypted places."""
        return self._look_up(images, self.table.argsort())

    def folds(self, patch_size: int) -> bool:  # noqa: ARG002 - into patches of no size
        """Never."""
        return False

    def fold(self, weight: Tensor, bias: Tensor) -> NoReturn:  # noqa: ARG002 - no weights do
        """Refused: no weights on plain patches do what a table does."""
        raise StudyError("FFX is not linear, so this key cannot be folded into the patch embedding.")

    def unfold(self, weight: Tensor, bias: Tensor) -> NoReturn:
        """Refused, as ``fold`` is."""
        self.fold(weight, bias)

    def _look_up(
        self, images: Float[Tensor, "batch 3 height width"], table: Int[Tensor, " levels"]
    ) -> Float[Tensor, "batch 3 height width"]:
        blocks = to_blocks(images, self.block_size)
        levels = (blocks.detach() * (LEVELS - 1)).round().clamp(0, LEVELS - 1).long()
        values = table.to(images.device)[levels].to(images.dtype) / (LEVELS - 1)
        # The second term is zero and has the gradient, so that the values stay those of the table.
        encrypted = values + (blocks - blocks.detach())
        return from_blocks(torch.where(self.places.to(images.device), encrypted, blocks), self.block_size)
