"""ArtifactStore: artifacts by address; one exists when its record does, whole and at once."""

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from orchestrator.errors import DamagedArtifact, NotCommitted, StaleArtifact, StoreError
from orchestrator.store.record import RECORD_FILE, ArtifactRecord, FileEntry, recipe_digest

_DRAFTS = ".drafts"


@runtime_checkable
class ArtifactStore(Protocol):
    """Bytes by address. Addresses are relative, ``/``-separated and readable."""

    uri: str

    def has(self, address: str) -> bool:
        """Whether an artifact is committed at the address."""
        ...

    def addresses(self, prefix: str) -> Iterator[str]:
        """Addresses of committed artifacts below ``prefix``, sorted."""
        ...

    def record(self, address: str, expect: Mapping[str, Any] | None = None) -> ArtifactRecord:
        """The record; raises NotCommitted, or StaleArtifact if ``expect`` is another recipe."""
        ...

    def read(self, address: str, file: str) -> bytes:
        """A payload file, verified against the record; raises NotCommitted or DamagedArtifact."""
        ...

    def commit(self, address: str, record: ArtifactRecord, files: Mapping[str, bytes]) -> bool:
        """Make the artifact visible, whole, at once. False if another writer was first (its bytes stay)."""
        ...

    def delete(self, address: str) -> None:
        """Remove the artifact; it stops existing in one step. Nothing there: nothing happens."""
        ...

    def sweep(self, older_than_seconds: float = 86_400) -> int:
        """Remove what killed writers left behind; the number of such drafts."""
        ...


class LocalStore:
    """Artifacts in a folder only its owner may enter: weights in it are as secret as keys."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)

    def has(self, address: str) -> bool:
        """Whether an artifact is committed at the address."""
        return (self.root / address / RECORD_FILE).is_file()

    def addresses(self, prefix: str) -> Iterator[str]:
        """Addresses of committed artifacts below ``prefix``, sorted."""
        for folder, folders, files in os.walk(self.root / prefix):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if RECORD_FILE in files:
                yield Path(folder).relative_to(self.root).as_posix()

    def record(self, address: str, expect: Mapping[str, Any] | None = None) -> ArtifactRecord:
        """The record at the address, checked against the expected recipe if one is given."""
        try:
            content = (self.root / address / RECORD_FILE).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise NotCommitted(f"Nothing is committed at {address} in {self.uri}.") from None
        except OSError as error:
            raise self._unusable("read", error) from None
        record = ArtifactRecord.from_json(content, address)
        if expect is not None and record.digest != recipe_digest(expect):
            raise stale(address, record, expect)
        return record

    def read(self, address: str, file: str) -> bytes:
        """A payload file of a committed artifact, verified against its record."""
        entry = self.record(address).files.get(file)
        if entry is None:
            raise DamagedArtifact(f"{address} has no file {file} by its record. {_again(address)}")
        try:
            content = (self.root / address / file).read_bytes()
        except FileNotFoundError:
            raise DamagedArtifact(f"{address}/{file} is gone. {_again(address)}") from None
        except OSError as error:
            raise self._unusable("read", error) from None
        if FileEntry.of(content) != entry:
            raise DamagedArtifact(f"{address}/{file} differs from its record. {_again(address)}")
        return content

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

    def sweep(self, older_than_seconds: float = 86_400) -> int:
        """Remove drafts of writers that were killed; those younger may still be being written."""
        limit, swept = time.time() - older_than_seconds, 0
        for path in self.root.glob(f"{_DRAFTS}/*"):
            # A live writer may rename its draft into place between the listing and the look.
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < limit:
                    shutil.rmtree(path, ignore_errors=True)
                    swept += 1
        return swept

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


def _again(address: str) -> str:
    return f"Delete {address} and rerun: it will be made again."


def stale(address: str, record: ArtifactRecord, expect: Mapping[str, Any]) -> StaleArtifact:
    """The error that names what changed between a recorded recipe and the expected one."""
    changed = sorted(
        name for name in {*record.recipe, *expect} if record.recipe.get(name) != expect.get(name)
    )
    told = ", ".join(f"{n} {record.recipe.get(n)!r} -> {expect.get(n)!r}" for n in changed[:4])
    return StaleArtifact(
        f"{address} was built from recipe {record.digest[:8]}, this study expects "
        f"{recipe_digest(expect)[:8]} ({told[:300]}). Rename the study with --name, or delete that address."
    )


def open_store(uri: str) -> ArtifactStore:
    """The store at ``uri``, a folder's path or ``file:///folder``.

    Raises:
        StoreError: no backend knows the URI's scheme.
    """
    scheme = urlsplit(uri).scheme
    if scheme not in ("", "file"):
        raise StoreError(
            f"No store backend writes {scheme}:// yet. Give --store a folder's path "
            "(on a cluster: one that all nodes share)."
        )
    return LocalStore(Path(uri.removeprefix("file://")).expanduser().absolute())
