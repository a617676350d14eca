"""ArtifactStore: artifacts by address; one exists when its record does, whole and at once."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from orchestrator.errors import StoreError
from orchestrator.store.local import LocalStore
from orchestrator.store.record import ArtifactRecord


@runtime_checkable
class ArtifactStore(Protocol):
    """Bytes by address. Addresses are relative, ``/``-separated and readable."""

    uri: str
    """What ``open_store`` opens the same store with, in any process of a cluster; never a credential."""

    def has(self, address: str) -> bool:
        """Whether an artifact is committed at the address."""
        ...

    def addresses(self, prefix: str) -> Iterator[str]:
        """Addresses of committed artifacts at and below ``prefix``, sorted."""
        ...

    def stamps(self, prefix: str) -> Mapping[str, str]:
        """Those addresses, each with a stamp that changes whenever its record is replaced; one listing."""
        ...

    def times(self, prefix: str) -> Mapping[str, float]:
        """When each of those records was written, in seconds since the epoch; one listing."""
        ...

    def record(self, address: str, expect: Mapping[str, Any] | None = None) -> ArtifactRecord:
        """The record; raises NotCommitted, or StaleArtifact if ``expect`` is another recipe."""
        ...

    def read(self, address: str, file: str, record: ArtifactRecord | None = None) -> bytes:
        """A payload file, verified against the record; raises NotCommitted or DamagedArtifact.

        Args:
            address: Where the artifact is.
            file: Name of the payload file.
            record: The artifact's record where the caller has it: it is then not read again.
        """
        ...

    def locate(self, address: str, file: str) -> str:
        """Where a person finds a payload file of a committed artifact: a path, or an ``s3://`` URI."""
        ...

    def commit(self, address: str, record: ArtifactRecord, files: Mapping[str, bytes]) -> bool:
        """Make the artifact visible, whole, at once. False if another writer was first (its bytes stay)."""
        ...

    def delete(self, address: str) -> None:
        """Remove the artifact; it stops existing in one step. Nothing there: nothing happens."""
        ...

    def sweep(self, older_than_seconds: float = 86_400.0) -> int:
        """Remove what killed writers left behind; the number of such leftovers."""
        ...


def _open_folder(uri: str) -> ArtifactStore:
    return LocalStore(Path(uri.removeprefix("file://")).expanduser().absolute())


def _open_bucket(uri: str) -> ArtifactStore:
    # Imported here: a store in a folder needs no boto3, and importing that takes a while.
    from orchestrator.store.s3 import S3Store

    return S3Store(uri)


# The table on the door: a backend is one class and one row.
STORES: dict[str, Callable[[str], ArtifactStore]] = {
    "": _open_folder,
    "file": _open_folder,
    "s3": _open_bucket,
}


def open_store(uri: str) -> ArtifactStore:
    """The store at ``uri``: a folder's path, ``file:///folder``, or ``s3://bucket/prefix?options``.

    Raises:
        StoreError: no backend knows the URI's scheme, or the backend does not understand its options.
    """
    scheme = urlsplit(uri).scheme
    if scheme not in STORES:
        raise StoreError(
            f"No store backend writes {scheme}://. Give --store a folder's path or s3://bucket/prefix."
        )
    return STORES[scheme](uri)
