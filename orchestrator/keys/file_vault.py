"""FileVault: a private folder with one file a key; for one machine, or one that hands keys out."""

import os
import stat
import tempfile
from pathlib import Path

from orchestrator.errors import VaultError
from orchestrator.keys.secret import SecretKey
from orchestrator.keys.slots import SlotVault, read_key, write_key


class FileVault(SlotVault):
    """A folder of mode 0700 with one file of mode 0600 a key, each 64 hex digits and a newline."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = str(folder)

    def _file(self, study: str, slot: int) -> Path:
        return self.folder / study / f"{slot:05d}.key"

    def _fill(self, study: str, slot: int) -> None:
        try:
            self._create(self._file(study, slot))
        except OSError as error:
            raise VaultError(
                f"Vault {self.folder} cannot be written ({error.strerror}). "
                "Make it writable or name another with --vault."
            ) from None

    def _create(self, file: Path) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Written whole under a private name (mkstemp gives mode 0600), then linked into place: a
        # reader never sees half a key, and of two writers exactly one link succeeds.
        handle, draft = tempfile.mkstemp(dir=file.parent, prefix=".draft-")
        try:
            with os.fdopen(handle, "w") as draft_file:
                draft_file.write(write_key(SecretKey.generate()) + "\n")
                draft_file.flush()
                os.fsync(draft_file.fileno())
            os.link(draft, file)
        except FileExistsError:
            pass
        finally:
            Path(draft).unlink()

    def _look(self, study: str, slot: int) -> SecretKey | None:
        file = self._file(study, slot)
        try:
            mode = stat.S_IMODE(file.stat().st_mode)
            door = stat.S_IMODE(self.folder.stat().st_mode)
            text = file.read_text("ascii")
        except FileNotFoundError:
            return None
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
        return read_key(text, f"Key file {file}")
