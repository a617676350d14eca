"""Scratch: a place in the store for Ray's own bookkeeping while it trains; gone afterwards, never read."""

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pyarrow import fs

from orchestrator.store.files import local_path
from orchestrator.store.uri import StoreUri, is_folder

SCRATCH = ".ray"
"""Its folder in a study; a killed driver leaves it to a later sweep."""


class Scratch(NamedTuple):
    """A folder or prefix, as Ray's run settings take it."""

    system: fs.FileSystem
    path: str


@contextlib.contextmanager
def scratch(store: str) -> Iterator[Scratch]:
    """A fresh place below a study's store, the same for all nodes of a cluster.

    Credentials are ambient on every node: none is in the file system object that travels.
    """
    name = uuid.uuid4().hex[:12]
    if is_folder(store):
        root = Path(local_path(store.removeprefix("file://"))) / SCRATCH
        (root / name).mkdir(mode=0o700, parents=True)
        try:
            yield Scratch(fs.LocalFileSystem(), str(root / name))
        finally:
            shutil.rmtree(root / name, ignore_errors=True)
            with contextlib.suppress(OSError):  # another driver's trial folders are still there
                root.rmdir()
        return
    uri = StoreUri.parse(store)
    place = Scratch(uri.file_system(), f"{uri.bucket}/{uri.prefix}/{SCRATCH}/{name}")
    try:
        yield place
    finally:
        with contextlib.suppress(OSError):  # a store that is gone by now keeps some small files
            place.system.delete_dir(place.path)
