"""From a key to fair bits, one for each place of a block: SHAKE-256, the same in every library version."""

import hashlib

from orchestrator.keys.secret import SecretKey

_BITS_DOMAIN = b"multikey-orchestrator/bits/v1\x00"


def draw_bits(key: SecretKey, size: int) -> tuple[bool, ...]:
    """The key's bits for ``size`` places, independent and fair over random keys.

    The first bits of SHAKE-256(domain ‖ size as 8 bytes little-endian ‖ key), the lowest of each byte
    first. Different sizes give unrelated bits, and so do ``draw_permutation`` and this function. Test
    vectors are in docs/keys.md and in tests/test_keys.py.

    Args:
        key: the secret key.
        size: how many places; 3·M·M for blocks of M×M RGB pixels. At least 1.
    """
    if size < 1:
        raise ValueError(f"A block has at least one place, got size {size}.")
    state = hashlib.shake_256(_BITS_DOMAIN + size.to_bytes(8, "little") + key.reveal())
    stream = state.digest(-(-size // 8))
    return tuple(bool(stream[place // 8] >> place % 8 & 1) for place in range(size))
