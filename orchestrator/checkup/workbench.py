"""Workbench: a fresh place in a store where artifacts are made for a look, and nothing stays."""

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.errors import StoreError
from orchestrator.store.artifacts import ArtifactStore, open_store
from orchestrator.store.bucket import Bucket
from orchestrator.store.record import ArtifactRecord, FileEntry
from orchestrator.store.uri import StoreUri, is_folder

FILE = "probe.bin"
# Ahead of every clock: whatever lies on the bench is old enough to go.
_NOW_SECONDS = -7 * 86_400.0


class Workbench:
    """Artifacts below ``uri``; ``clear`` removes all of them, and folders that were made for them."""

    def __init__(self, uri: str) -> None:
        # Nothing may stay in the node's cache either.
        self.uri = uri if is_folder(uri) else replace(StoreUri.parse(uri), cache_gb=0.0).text
        self._made: list[Path] = []
        self._used: set[str] = set()

    @cached_property
    def store(self) -> ArtifactStore:
        """The bench as a store."""
        store = open_store(self.uri)
        if is_folder(self.uri):
            root = Path(store.uri)
            self._made = [folder for folder in (root, *root.parents) if not folder.exists()]
        return store

    @property
    def folder(self) -> Path:
        """The bench's folder, where the store is one."""
        return Path(self.store.uri)

    @cached_property
    def bucket(self) -> Bucket:
        """The bench as S3 sees it, for questions that are below a store."""
        return Bucket(StoreUri.parse(self.uri))

    def commit(self, address: str, content: bytes, **recipe: Any) -> bool:
        """Commit a probe artifact; False if another writer was first."""
        self._used.add(address)
        record = ArtifactRecord(recipe=recipe, files={FILE: FileEntry.of(content)})
        return self.store.commit(address, record, {FILE: content})

    def read(self, address: str) -> bytes:
        """The content of a probe artifact."""
        return self.store.read(address, FILE)

    def reply(self, operation: str, key: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """What S3 answers, its headers included."""
        return self.bucket.call(operation, key, arguments or {}, seconds=5.0)

    def clear(self) -> None:
        """Remove everything; nothing there: nothing happens.

        Raises:
            StoreError: something could not be removed.
        """
        if "store" not in self.__dict__:
            return
        try:
            # By name as well: whoever may not list may still delete.
            for address in sorted(self._used):
                self.store.delete(address)
            for address in list(self.store.addresses("")):
                self.store.delete(address)
            self.store.sweep(older_than_seconds=_NOW_SECONDS)
        finally:
            if is_folder(self.uri):
                shutil.rmtree(self.folder, ignore_errors=True)
                for folder in self._made:
                    with contextlib.suppress(OSError):  # somebody else's by now
                        folder.rmdir()
        self._used.clear()

    def leftovers(self) -> str:
        """Why something stays behind; empty where nothing does."""
        try:
            self.clear()
        except StoreError as error:
            return str(error)
        return ""
