"""transform_from_key(): the transform a key stands for, by its name; the one place that knows them all."""

from collections.abc import Callable
from typing import Final

from orchestrator.keys.secret import SecretKey
from orchestrator.models.key_transform import KeyTransform, TransformName
from orchestrator.models.negative_positive import NegativePositive
from orchestrator.models.pixel_cipher import PixelCipher
from orchestrator.models.transform import BlockShuffle

_DERIVED: Final[dict[TransformName, Callable[[SecretKey, int], KeyTransform]]] = {
    "shuffle": BlockShuffle.from_key,
    "negative-positive": NegativePositive.from_key,
    "ffx": PixelCipher.from_key,
}


def transform_from_key(name: TransformName, key: SecretKey, block_size: int) -> KeyTransform:
    """The transform of this name under a key, on blocks of so many pixels a side."""
    return _DERIVED[name](key, block_size)
