"""Noise of an image, from the image's own seed: the same in every batch, on every device."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN = -7046029254386353131  # 2^64 / φ as a signed number
_FIRST, _SECOND = -4658895280553007687, -7723592293110705685


def uniform(seeds: Int[Tensor, " rows"], stream: int, *shape: int) -> Float[Tensor, "rows ..."]:
    """Numbers in [0, 1), float64: number j of an image depends on its seed, ``stream`` and j alone.

    SplitMix64 (Steele, Lea, Flood 2014) used as a counter: number j is the mix of seed and counter,
    so no generator has a state, rows do not know each other, and a GPU draws what a CPU draws.

    Args:
        seeds: one per image, int64; the numbers are on their device.
        stream: which draw of the image this is, from 0; draws of different streams are independent.
        shape: of one image's numbers.
    """
    places = torch.arange(math.prod(shape), dtype=torch.int64, device=seeds.device)
    base = _mixed(_mixed(seeds) + _word(stream * _GOLDEN))
    bits = _mixed(base[:, None] + (places + 1) * _GOLDEN)
    numbers = ((bits >> 11) & (2**53 - 1)).double() * 2.0**-53
    return numbers.view(len(seeds), *shape)


def normal(seeds: Int[Tensor, " rows"], stream: int, *shape: int) -> Float[Tensor, "rows ..."]:
    """Standard normal numbers, float64, by Box and Muller's transform of uniform ones."""
    pairs = uniform(seeds, stream, 2, *shape)
    # 1 - u is in (0, 1]: its logarithm is finite.
    return (-2 * (1 - pairs[:, 0]).log()).sqrt() * (2 * math.pi * pairs[:, 1]).cos()


def integers(seeds: Int[Tensor, " rows"], stream: int, below: int, *shape: int) -> Int[Tensor, "rows ..."]:
    """Whole numbers in [0, below)."""
    return (uniform(seeds, stream, *shape) * below).long()


def permutations(seeds: Int[Tensor, " rows"], stream: int, length: int) -> Int[Tensor, "rows length"]:
    """One permutation of ``length`` places per image."""
    return uniform(seeds, stream, length).argsort(dim=1)


def reseeded(seeds: Int[Tensor, " rows"], stream: int) -> Int[Tensor, " rows"]:
    """Other seeds, one per image, whose numbers are independent of these."""
    return _mixed(_mixed(seeds) + _word(~stream * _GOLDEN))


def _word(number: int) -> int:
    """A whole number as a signed word of 64 bits, as tensors have them."""
    return (number + 2**63) % 2**64 - 2**63


def _mixed(words: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """SplitMix64's finaliser; shifts are made logical by masking what the sign drags in."""
    words = (words ^ ((words >> 30) & (2**34 - 1))) * _FIRST
    words = (words ^ ((words >> 27) & (2**37 - 1))) * _SECOND
    return words ^ ((words >> 31) & (2**33 - 1))
