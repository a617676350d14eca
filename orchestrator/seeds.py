"""Independent random streams by name, so that no result depends on order, batch or worker."""

import hashlib


def derive_seed(root: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called ``names`` under the study's ``root`` seed.

    Streams of different names are independent for every practical purpose: the seed is a SHA-256
    digest, and each name is prefixed by its length so that ("ab", "c") and ("a", "bc") differ.

    Args:
        root: the study's seed; any integer.
        names: what the stream is for, from general to particular, e.g. ``"attack", image_id``.
    """
    digest = hashlib.sha256()
    for name in (str(root), *map(str, names)):
        encoded = name.encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return int.from_bytes(digest.digest()[:8], "big") >> 1
