"""Replicates: how often each image counts in each redrawn set of images, from the image's name alone.

A bootstrap with Poisson(1) weights (Hanley & MacGibbon 2006) instead of drawing n of n: the weights of an
image depend on no other image, so they are the same in every cell, shard, order and study. Differences
between cells that saw the same images are paired by that.
"""

import itertools
import math
from collections.abc import Sequence
from decimal import Decimal, localcontext

import numpy as np
from jaxtyping import UInt8

from orchestrator.seeds import derive_seed

# One root for all studies, so that two of them on the same images are paired as well.
_ROOT = 0
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST = np.uint64(31)


def _thresholds() -> np.ndarray:
    """Where a uniform 64-bit number passes from one Poisson(1) count to the next."""
    # Decimal: to the last bit the same on every machine, which the exp of a C library is not.
    with localcontext(prec=50):
        first = Decimal(-1).exp()
        shares = itertools.accumulate(first / math.factorial(count) for count in range(16))
        return np.array([int(share * 2**64) for share in shares], dtype=np.uint64)


_ENDS = _thresholds()


def poisson_weights(names: Sequence[str], replicates: int) -> UInt8[np.ndarray, "images replicates"]:
    """Poisson(1) weights of images by name, one column a replicate.

    Column r is the same however many replicates are asked for.
    """
    seeds = [derive_seed(_ROOT, "replicate", name) for name in names]
    places = np.arange(1, replicates + 1, dtype=np.uint64) * _STEP
    state = np.array(seeds, dtype=np.uint64)[:, None] + places[None, :]
    # SplitMix64 (Steele, Lea & Flood 2014) as a counter: seed and place in, a uniform number out.
    for shift, factor in _MIX:
        state = (state ^ (state >> shift)) * factor
    state ^= state >> _LAST
    return np.searchsorted(_ENDS, state, side="right").astype(np.uint8)
