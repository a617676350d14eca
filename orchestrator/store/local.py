"""LocalStore: artifacts in a folder, each written as a draft and renamed into place."""

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import StoreError
from orchestrator.store.record import RECORD_FILE, ArtifactRecord
from orchestrator.store.scratch import SCRATCH
from orchestrator.store.verify import entry_of, not_committed, parse_record, verified

_DRAFTS = ".drafts"


class LocalStore:
    """Artifacts in a folder only its owner may enter: weights in it are as secret as keys."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)

    def has(self, address: str) -> bool:
        """Whether an artifact is committed at the address."""
        return (self.root / address / RECORD_FILE).is_file()

    def addresses(self, prefix: str) -> Iterator[str]:
        """Addresses of committed artifacts at and below ``prefix``, sorted."""
        found = []
        for folder, folders, files in os.walk(self.root / prefix):
            folders[:] = [name for name in folders if not name.startswith(".")]
            if RECORD_FILE in files:
                found.append(Path(folder).relative_to(self.root).as_posix())
        yield from sorted(found)

    def stamps(self, prefix: str) -> dict[str, str]:
        """Time, size and inode of every record at and below ``prefix``, by address."""
        return {
            address: f"{found.st_mtime_ns}-{found.st_size}-{found.st_ino}"
            for address, found in self._looks(prefix)
        }

    def times(self, prefix: str) -> dict[str, float]:
        """When each of those records was written, by the clock of the machine that did."""
        return {address: found.st_mtime for address, found in self._looks(prefix)}

    def record(self, address: str, expect: Mapping[str, Any] | None = None) -> ArtifactRecord:
        """The record at the address, checked against the expected recipe if one is given."""
        try:
            content = (self.root / address / RECORD_FILE).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise not_committed(address, self.uri) from None
        except OSError as error:
            raise self._unusable("read", error) from None
        return parse_record(content, address, expect)

    def read(self, address: str, file: str, record: ArtifactRecord | None = None) -> bytes:
        """A payload file of a committed artifact, verified against its record."""
        entry = entry_of(record or self.record(address), address, file)
        try:
            content = (self.root / address / file).read_bytes()
        except FileNotFoundError:
            content = None
        except OSError as error:
            raise self._unusable("read", error) from None
        return verified(content, entry, address, file)

    def locate(self, address: str, file: str) -> str:
        """The path of a payload file."""
        return str(self.root / address / file)

    def commit(self, address: str, record: ArtifactRecord, files: Mapping[str, bytes]) -> bool:
        """Write a whole draft beside the artifacts, then rename it into place; the first one wins.

        One rename makes payload and record visible together. Two writers of one address leave one
        whole artifact: a rename onto a folder that is not empty fails.
        """
        try:
            draft = self._draft()
            for name, content in {**files, RECORD_FILE: record.to_json()}.items():
                _write_durably(draft / name, content)
            target = self.root / address
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                draft.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                shutil.rmtree(draft, ignore_errors=True)
                return False
        except OSError as error:
            raise self._unusable("written", error) from None
        return True

    def delete(self, address: str) -> None:
        """Move the artifact out of sight in one step, then remove it."""
        try:
            draft = self._draft()
            (self.root / address).rename(draft)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._unusable("written", error) from None
        shutil.rmtree(draft, ignore_errors=True)

    def sweep(self, older_than_seconds: float = 86_400.0) -> int:
        """Remove drafts and scratch of processes that were killed; younger ones may be in use."""
        limit, swept = time.time() - older_than_seconds, 0
        for path in (*self.root.glob(f"{_DRAFTS}/*"), *self.root.glob(f"{SCRATCH}/*")):
            # A live writer may rename its draft into place between the listing and the look.
            with contextlib.suppress(FileNotFoundError):
                if max(part.stat().st_mtime for part in (path, *path.rglob("*"))) < limit:
                    shutil.rmtree(path, ignore_errors=True)
                    swept += 1
        return swept

    def _looks(self, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        for address in self.addresses(prefix):
            # A record may be deleted between the listing and the look.
            with contextlib.suppress(FileNotFoundError):
                yield address, (self.root / address / RECORD_FILE).stat()

    def _draft(self) -> Path:
        drafts = self.root / _DRAFTS
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        drafts.mkdir(mode=0o700, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=drafts))

    def _unusable(self, done: str, error: OSError) -> StoreError:
        return StoreError(
            f"Store {self.uri} cannot be {done} ({error.strerror}). "
            "Free space or permissions there, or name another with --store."
        )


def _write_durably(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 and wait until the disk has it."""
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
