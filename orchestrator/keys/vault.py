"""KeyVault: creates and opens keys by URI; the only place a key is written down.

A vault keeps numbered slots per study, so a study of 32 keys grown to 64 keeps its first 32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

from orchestrator.errors import VaultError
from orchestrator.keys.file_vault import FileVault
from orchestrator.keys.secret import SecretKey
from orchestrator.keys.vault_uri import VaultUri


@runtime_checkable
class KeyVault(Protocol):
    """Where keys are. Opening needs the study and the slot; only ids leave the caller."""

    uri: str
    """The vault as every process of a cluster can open it, whatever its working folder."""

    def ensure(self, study: str, count: int) -> tuple[str, ...]:
        """Key ids of slots 0..count-1, creating the keys that do not exist yet."""
        ...

    def find_all(self, study: str, count: int) -> tuple[str | None, ...]:
        """Key ids of slots 0..count-1, None where a slot is empty; creates nothing."""
        ...

    def find(self, study: str, slot: int) -> str | None:
        """The key id in a slot, None where the slot is empty; creates nothing."""
        ...

    def open(self, study: str, slot: int, key_id: str) -> SecretKey:
        """The key in a slot; raises VaultError unless it is the one called ``key_id``."""
        ...


@runtime_checkable
class KeySource(Protocol):
    """Where a worker gets one key from. It is pickled to workers, so it holds no secret itself."""

    def open(self, study: str, slot: int, key_id: str) -> SecretKey:
        """The key in a slot; raises VaultError unless it is the one called ``key_id``."""
        ...


@dataclass(frozen=True)
class VaultAt:
    """The key source that opens the vault where it is asked: every node must reach the vault."""

    uri: str

    def open(self, study: str, slot: int, key_id: str) -> SecretKey:
        """The key in a slot; raises VaultError unless it is the one called ``key_id``."""
        return open_vault(self.uri).open(study, slot, key_id)


def _open_file_vault(uri: str) -> KeyVault:
    return FileVault(Path(uri.removeprefix("file://")).expanduser().absolute())


# Imported when asked for: a folder of keys needs no boto3.
def _open_object_vault(uri: str) -> KeyVault:
    from orchestrator.keys.object_vault import ObjectVault

    return ObjectVault(VaultUri.parse(uri))


def _open_secrets_manager(uri: str) -> KeyVault:
    from orchestrator.keys.secrets_manager import SecretsManagerVault

    return SecretsManagerVault(VaultUri.parse(uri))


# The table on the door: a backend is one class and one row.
VAULTS: dict[str, Callable[[str], KeyVault]] = {
    "": _open_file_vault,
    "file": _open_file_vault,
    "s3": _open_object_vault,
    "aws-sm": _open_secrets_manager,
}


def open_vault(uri: str) -> KeyVault:
    """The vault at ``uri``: a folder, ``file:///folder``, ``s3://bucket/prefix`` or ``aws-sm://prefix``.

    Nothing is read or written yet.

    Raises:
        VaultError: no backend knows the URI's scheme, or an option of it.
    """
    scheme = urlsplit(uri).scheme
    if scheme not in VAULTS:
        known = ", ".join(f"{name}://" for name in VAULTS if name)
        raise VaultError(f"No vault backend opens {scheme}:// (known: {known} or a folder's path).")
    return VAULTS[scheme](uri)
