"""KeyVault: creates and opens keys by URI; the only place a key is written down.

A vault keeps numbered slots per study, so a study of 32 keys grown to 64 keeps its first 32.
"""

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

from orchestrator.errors import VaultError
from orchestrator.keys.secret import SecretKey


@runtime_checkable
class KeyVault(Protocol):
    """Where keys are. Opening needs the study and the slot; only ids leave the caller."""

    uri: str
    """The vault as every process of a cluster can open it, whatever its working folder."""

    def ensure(self, study: str, count: int) -> tuple[str, ...]:
        """Key ids of slots 0..count-1, creating the keys that do not exist yet."""
        ...

    def find(self, study: str, slot: int) -> str | None:
        """The key id in a slot, None where the slot is empty; creates nothing."""
        ...

    def open(self, study: str, slot: int, key_id: str) -> SecretKey:
        """The key in a slot; raises VaultError unless it is the one called ``key_id``."""
        ...


class FileVault:
    """A folder of mode 0700 with one file of mode 0600 a key, each 64 hex digits and a newline."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = str(folder)

    def ensure(self, study: str, count: int) -> tuple[str, ...]:
        """Key ids of slots 0..count-1; two processes that create a slot at once get the same key."""
        try:
            for slot in range(count):
                if not self._file(study, slot).exists():
                    self._create(study, slot)
        except OSError as error:
            raise VaultError(
                f"Vault {self.folder} cannot be written ({error.strerror}). "
                "Make it writable or name another with --vault."
            ) from None
        ids = tuple(self._read(study, slot).key_id for slot in range(count))
        if len(set(ids)) != count:
            raise VaultError(
                f"Vault {self.folder} holds one key in two slots of study {study}. "
                "Delete the copy: one key belongs to one model."
            )
        return ids

    def find(self, study: str, slot: int) -> str | None:
        """The key id in a slot, None where the slot is empty."""
        return self._read(study, slot).key_id if self._file(study, slot).exists() else None

    def open(self, study: str, slot: int, key_id: str) -> SecretKey:
        """The key in a slot, checked against its public id."""
        key = self._read(study, slot)
        if key.key_id != key_id:
            raise VaultError(
                f"Slot {slot} of study {study} holds {key.key_id} in vault {self.folder}, the store "
                f"expects {key_id}. Point --vault to the vault this study was begun with, "
                "or rename the study."
            )
        return key

    def _file(self, study: str, slot: int) -> Path:
        return self.folder / study / f"{slot:05d}.key"

    def _create(self, study: str, slot: int) -> None:
        folder = self._file(study, slot).parent
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Written whole under a private name (mkstemp gives mode 0600), then linked into place: a
        # reader never sees half a key, and of two writers exactly one link succeeds.
        handle, draft = tempfile.mkstemp(dir=folder, prefix=".draft-")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(SecretKey.generate().reveal().hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, self._file(study, slot))
        except FileExistsError:
            pass
        finally:
            Path(draft).unlink()

    def _read(self, study: str, slot: int) -> SecretKey:
        file = self._file(study, slot)
        try:
            mode = stat.S_IMODE(file.stat().st_mode)
            door = stat.S_IMODE(self.folder.stat().st_mode)
            text = file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            raise VaultError(
                f"Slot {slot} of study {study} cannot be read from vault {self.folder} ({reason}). "
                "Point --vault to the vault this study was begun with."
            ) from None
        if door & 0o022:
            raise VaultError(
                f"Vault {self.folder} can be written by others (mode {door:04o}), who could put keys of "
                "their own there. Run chmod 700 on it, and check what it holds."
            )
        if mode & 0o077:
            raise VaultError(
                f"Key file {file} is readable by others (mode {mode:04o}). "
                "Run chmod 600 on it, and consider the key known."
            )
        try:
            return SecretKey(bytes.fromhex(text))
        except ValueError:
            # `from None`: the original message would quote the file's content.
            raise VaultError(
                f"Key file {file} does not hold 64 hex digits. Restore it from a backup; "
                "the model trained with it cannot be rebuilt without it."
            ) from None


def _open_file_vault(uri: str) -> FileVault:
    return FileVault(Path(uri.removeprefix("file://")).expanduser().absolute())


# The table on the door: a backend is one class and one row.
VAULTS: dict[str, Callable[[str], KeyVault]] = {"": _open_file_vault, "file": _open_file_vault}


def open_vault(uri: str) -> KeyVault:
    """The vault at ``uri`` (a folder, or ``file:///folder``).

    Raises:
        VaultError: no backend knows the URI's scheme.
    """
    scheme = urlsplit(uri).scheme
    if scheme not in VAULTS:
        known = ", ".join(f"{name}://" for name in VAULTS if name)
        raise VaultError(f"No vault backend opens {scheme}:// (known: {known} or a folder's path).")
    return VAULTS[scheme](uri)
