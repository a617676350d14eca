"""Sealing: a key in a box that one waiting process alone can open; knows nothing of how boxes travel.

The box is one message of HPKE (RFC 9180, base mode): X25519, HKDF-SHA256, ChaCha20-Poly1305. It hides
the key from everything between the two processes. It does not say who sealed it, nor who asked.
"""

from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from orchestrator.errors import VaultError
from orchestrator.keys.secret import KEY_BYTES, SecretKey

PUBLIC_BYTES = 32
BOX_BYTES = PUBLIC_BYTES + KEY_BYTES + 16
"""The sealer's own public half, the key, and the tag."""

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_DOMAIN = b"multikey-orchestrator/sealed-key/v1\x00"


class Envelope:
    """A request for one key: a fresh X25519 pair, whose private half never leaves this object."""

    __slots__ = ("__private",)

    def __init__(self) -> None:
        self.__private = X25519PrivateKey.generate()

    @property
    def public(self) -> bytes:
        """The 32 bytes to send to whoever seals."""
        return self.__private.public_key().public_bytes_raw()

    def unseal(self, box: bytes, key_id: str) -> SecretKey:
        """The key called ``key_id`` out of a box sealed for this envelope.

        Raises:
            VaultError: the box was changed, or sealed for another envelope or another key.
        """
        try:
            key = SecretKey(_SUITE.decrypt(box, self.__private, _bound(key_id)))
        except (InvalidTag, ValueError):
            key = None
        if key is None or key.key_id != key_id:
            raise VaultError(
                f"The sealed box for key {key_id} does not open: it was changed on its way, or sealed "
                "for another request. Run the same command again; if it stays so, do not trust the cluster."
            )
        return key

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("An Envelope is never pickled or copied: send its public half.")


def seal(key: SecretKey, public: bytes) -> bytes:
    """The key in a box of ``BOX_BYTES`` that only the envelope with this public half opens.

    Args:
        key: what to seal; its id is bound to the box.
        public: 32 bytes, ``Envelope.public``.

    Raises:
        VaultError: ``public`` is not a public half anyone could have drawn.
    """
    try:
        return _SUITE.encrypt(key.reveal(), X25519PublicKey.from_public_bytes(public), _bound(key.key_id))
    except ValueError:
        raise VaultError(
            "A key was asked for with a public half that is not one of X25519. "
            "Ask with Envelope.public of this version."
        ) from None


def _bound(key_id: str) -> bytes:
    return _DOMAIN + key_id.encode()
