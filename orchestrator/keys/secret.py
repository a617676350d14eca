"""SecretKey and its public id; redacted when printed, refused when pickled."""

import hashlib
import resource
import secrets
from typing import NoReturn

KEY_BYTES = 32
_ID_DOMAIN = b"multikey-orchestrator/key-id/v1\x00"


def forbid_core_dumps() -> None:
    """Keep a crash of this process from writing its memory, and the keys in it, to disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class SecretKey:
    """256 secret bits. Travels between processes by its id only, never by value.

    A key is compared in constant time, prints as its id, and cannot be pickled or copied: what Ray
    ships, spills or logs therefore cannot contain it.

    Raises:
        ValueError: not exactly 32 bytes were given (their number is named, never their value).
    """

    __slots__ = ("__secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"A key has {KEY_BYTES} bytes, got {len(secret)}.")
        self.__secret = bytes(secret)

    @classmethod
    def generate(cls) -> "SecretKey":
        """A fresh key from the operating system's random source."""
        return cls(secrets.token_bytes(KEY_BYTES))

    def reveal(self) -> bytes:
        """The 32 secret bytes; called where a vault stores them and where a permutation is drawn."""
        return self.__secret

    @property
    def key_id(self) -> str:
        """The key's public name, ``k-`` and 12 hex digits of a domain-separated SHA-256.

        One-way: it confirms a guess of all 256 bits and helps with nothing less. 48 bits keep
        10,000 keys apart with probability 1 - 2e-7; a vault refuses the collision that remains.
        """
        return "k-" + hashlib.sha256(_ID_DOMAIN + self.__secret).hexdigest()[:12]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretKey):
            return NotImplemented
        return secrets.compare_digest(self.__secret, other.reveal())

    def __hash__(self) -> int:
        return hash(self.key_id)

    def __repr__(self) -> str:
        return f"SecretKey({self.key_id})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("A SecretKey is never pickled or copied: pass its key id, open the vault there.")

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)
