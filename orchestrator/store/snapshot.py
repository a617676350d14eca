"""Snapshot: a store that is only looked at: nothing can be written through it, no record is read twice."""

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from orchestrator.errors import StoreError
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.record import ArtifactRecord, recipe_digest
from orchestrator.store.verify import stale


class Snapshot:
    """Reads through to a store. A record is read again only once a listing shows that it was replaced."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store, self.uri = store, store.uri
        self._stamps: dict[str, str] = {}
        self._records: dict[str, ArtifactRecord] = {}

    def has(self, address: str) -> bool:
        """Whether an artifact is committed at the address."""
        return self._store.has(address)

    def addresses(self, prefix: str) -> Iterator[str]:
        """Addresses of committed artifacts at and below ``prefix``, sorted."""
        yield from self.stamps(prefix)

    def stamps(self, prefix: str) -> Mapping[str, str]:
        """Those addresses with their stamps; what they show to be replaced is forgotten."""
        stamps = self._store.stamps(prefix)
        for address, stamp in stamps.items():
            if self._stamps.get(address) != stamp:
                self._records.pop(address, None)
        self._stamps.update(stamps)
        return stamps

    def times(self, prefix: str) -> Mapping[str, float]:
        """When the record of each of those addresses was written."""
        return self._store.times(prefix)

    def record(self, address: str, expect: Mapping[str, Any] | None = None) -> ArtifactRecord:
        """The record; read once where it was listed."""
        record = self._records.get(address)
        if record is None:
            record = self._store.record(address)
            if address in self._stamps:
                self._records[address] = record
        if expect is not None and record.digest != recipe_digest(expect):
            raise stale(address, record, expect)
        return record

    def read(self, address: str, file: str, record: ArtifactRecord | None = None) -> bytes:
        """A payload file, verified against the record."""
        return self._store.read(address, file, record)

    def locate(self, address: str, file: str) -> str:
        """Where a person finds a payload file."""
        return self._store.locate(address, file)

    def commit(self, address: str, record: ArtifactRecord, files: Mapping[str, bytes]) -> bool:
        """Refused."""
        del record, files
        self._refuse(address)

    def delete(self, address: str) -> None:
        """Refused."""
        self._refuse(address)

    def sweep(self, older_than_seconds: float = 86_400.0) -> int:
        """Refused."""
        del older_than_seconds
        self._refuse("what killed writers left")

    def _refuse(self, what: str) -> NoReturn:
        raise StoreError(f"{self.uri} is only looked at here: {what} is not changed.")
