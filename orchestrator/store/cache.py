"""The cache of a node: payload files by their SHA-256, fetched once for all its processes, bounded.

Its files are as secret as what they copy, so nobody else may enter its folder. It helps and never
hurts: what it holds is verified like what the store holds, and where it cannot work the file is
fetched as if there were none.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.store.record import FileEntry

LEAST_BYTES = 1 << 18
"""Smaller files are not kept: fetching one costs little more than finding room for it."""
# A disk is never filled for the cache's sake: this share of it stays free.
_FREE_SHARE = 0.1


class Cache:
    """Files of one folder, the least recently used of which go first."""

    def __init__(self, most_bytes: int, folder: Path | None = None) -> None:
        self.most_bytes = most_bytes
        self.folder = folder or default_folder()

    def get(self, entry: FileEntry, fetch: Callable[[], bytes]) -> bytes:
        """The content recorded as ``entry``: from this node if it is here, else from ``fetch``.

        Of many processes that want one file, one fetches it and the others wait for that.

        Args:
            entry: What the content has to be.
            fetch: Gives the content, verified, or raises.
        """
        if not LEAST_BYTES <= entry.size_bytes <= self.most_bytes:
            return fetch()
        kept = self._kept(entry)
        if kept is not None:
            return kept
        with self._alone(entry):
            kept = self._kept(entry)
            if kept is not None:
                return kept
            content = fetch()
            self._keep(entry, content)
            return content

    def _kept(self, entry: FileEntry) -> bytes | None:
        path = self.folder / entry.sha256
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            if FileEntry.of(content) == entry:
                os.utime(path)
                return content
            path.unlink()
        return None

    def _keep(self, entry: FileEntry, content: bytes) -> None:
        with contextlib.suppress(OSError):
            self._make_room(entry.size_bytes)
            disk = shutil.disk_usage(self.folder)
            if disk.free - entry.size_bytes < _FREE_SHARE * disk.total:
                return
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".draft-")
            draft = Path(name)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                draft.rename(self.folder / entry.sha256)
            except OSError:
                draft.unlink()

    def _make_room(self, size_bytes: int) -> None:
        """Remove what was not used for longest, until ``size_bytes`` more fit."""
        found = []
        for path in self.folder.iterdir():
            # Another process may be making room as well.
            with contextlib.suppress(FileNotFoundError):
                found.append((path.stat().st_mtime, path.stat().st_size, path))
        held = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if held + size_bytes <= self.most_bytes:
                return
            path.unlink(missing_ok=True)
            held -= size

    @contextlib.contextmanager
    def _alone(self, entry: FileEntry) -> Iterator[None]:
        """While the only one on this node to fetch this file; the lock ends with its process."""
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                name = self.folder / f".lock-{entry.sha256}"
                lock = os.open(name, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
                held.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def default_folder() -> Path:
    """``~/.cache/multikey-orchestrator``, or where ``XDG_CACHE_HOME`` says caches are."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "multikey-orchestrator"
