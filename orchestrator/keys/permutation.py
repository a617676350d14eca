"""From a key to a permutation: SHAKE-256 and unbiased Fisher–Yates, the same in every library version.

Published test vectors are in docs/keys.md and in tests/test_keys.py. Peers seed ``torch.randperm``
with a small integer: the key space is then the seed, and the permutation changes with the library.
"""

import hashlib
from collections.abc import Iterator

from orchestrator.keys.secret import SecretKey

_PERMUTATION_DOMAIN = b"multikey-orchestrator/permutation/v1\x00"


def draw_permutation(key: SecretKey, size: int) -> tuple[int, ...]:
    """The key's permutation of ``range(size)``: output position i takes input ``permutation[i]``.

    Every one of the ``size!`` permutations is equally likely over random keys (up to 256 bits of
    key). Different sizes give unrelated permutations: the size is part of the hash input.

    Args:
        key: the secret key.
        size: how many values are permuted; 3·M·M for blocks of M×M RGB pixels. At least 1.
    """
    if size < 1:
        raise ValueError(f"A permutation has at least one element, got size {size}.")
    words = _words(key, size)
    order = list(range(size))
    # Fisher–Yates (Knuth, TAOCP 2, 3.4.2, Algorithm P): i from the last place down, j uniform in 0..i.
    for i in range(size - 1, 0, -1):
        j = _uniform_below(i + 1, words)
        order[i], order[j] = order[j], order[i]
    return tuple(order)


def _words(key: SecretKey, size: int) -> Iterator[int]:
    """64-bit little-endian words of SHAKE-256(domain ‖ size as 8 bytes ‖ key), without end."""
    state = hashlib.shake_256(_PERMUTATION_DOMAIN + size.to_bytes(8, "little") + key.reveal())
    length = 16 * size
    while True:
        stream = state.digest(length)
        # An extendable output function: a longer digest begins with the shorter one.
        start = 0 if length == 16 * size else length // 2
        for place in range(start, length, 8):
            yield int.from_bytes(stream[place : place + 8], "little")
        length *= 2


def _uniform_below(bound: int, words: Iterator[int]) -> int:
    """A uniform integer in [0, bound): words past the last whole multiple of ``bound`` are rejected."""
    limit = (1 << 64) - (1 << 64) % bound
    return next(word for word in words if word < limit) % bound
