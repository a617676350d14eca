"""KeyTransform: what a key does to images before a model sees them; what every such transform can do."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NoReturn

from jaxtyping import Float
from torch import Tensor

TransformName = Literal["shuffle", "negative-positive", "ffx"]
"""The three of "Block-wise Image Transformation with Secret Key" (arXiv 2010.00801)."""


@dataclass(frozen=True, repr=False)
class KeyTransform(ABC):
    """Does the same to every M×M block of images in [0, 1], decided by a key and as secret as it.

    Not a module, so that nothing of it can get into a ``state_dict``. It prints without its secrets and
    is never pickled or copied.
    """

    block_size: int

    @abstractmethod
    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Transformed images, in [0, 1] too, before any normalisation.

        Raises:
            StudyError: the blocks do not tile the images.
        """

    @abstractmethod
    def invert(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """The images that this transform takes to these."""

    @abstractmethod
    def folds(self, patch_size: int) -> bool:
        """Whether weights on patches of this size can take the transform in."""

    @abstractmethod
    def fold(
        self, weight: Float[Tensor, "out 3 patch patch"], bias: Float[Tensor, " out"]
    ) -> tuple[Float[Tensor, "out 3 patch patch"], Float[Tensor, " out"]]:
        """Weights on plain patches that equal these on transformed ones.

        Raises:
            StudyError: it does not fold into patches of this size.
        """

    @abstractmethod
    def unfold(
        self, weight: Float[Tensor, "out 3 patch patch"], bias: Float[Tensor, " out"]
    ) -> tuple[Float[Tensor, "out 3 patch patch"], Float[Tensor, " out"]]:
        """Weights on transformed patches that equal these on plain ones: what ``fold`` undoes.

        Raises:
            StudyError: it does not fold into patches of this size.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}(block_size={self.block_size})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"A {type(self).__name__} is as secret as its key: pass the key id, open the vault there."
        )
