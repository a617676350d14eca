"""S3Store: artifacts in a bucket; payload first, then the record by one write that only the first wins.

An artifact's record is at ``{address}/record.json``, its payload at ``{address}/{writer}/{file}``. The
writer is a random token that each commit draws and its record names, so that two writers of one
address never touch each other's bytes, and a writer whose reply was lost knows its own record.
"""

import contextlib
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from orchestrator.errors import DamagedArtifact, NotCommitted
from orchestrator.store.cache import Cache
from orchestrator.store.objects import Listed, Objects
from orchestrator.store.record import MOST_RECORD_BYTES, RECORD_FILE, ArtifactRecord
from orchestrator.store.scratch import SCRATCH
from orchestrator.store.uri import StoreUri
from orchestrator.store.verify import entry_of, not_committed, parse_record, verified

# Names that begin with a dot are not ours to count as artifacts, as in a folder.
_RECORD = re.compile(r"(?P<address>(?!\.)[^/]+(?:/(?!\.)[^/]+)*)/record\.json")
_PAYLOAD = re.compile(r"(?P<address>.+)/(?P<writer>w-[0-9a-f]{16})/[^/]+")


class S3Store:
    """Artifacts below a prefix of a bucket, on AWS or any server with atomic conditional writes."""

    def __init__(self, uri: str) -> None:
        self.place = StoreUri.parse(uri)
        self.uri = self.place.text
        self._objects = Objects(self.place)
        self._cache = Cache(int(self.place.cache_gb * 1e9))

    def has(self, address: str) -> bool:
        """Whether an artifact is committed at the address."""
        return self._objects.exists(_record_key(address))

    def addresses(self, prefix: str) -> Iterator[str]:
        """Addresses of committed artifacts at and below ``prefix``, sorted."""
        yield from self.stamps(prefix)

    def stamps(self, prefix: str) -> dict[str, str]:
        """ETag and time of every record at and below ``prefix``, by address."""
        return {address: item.stamp for address, item in self._records(prefix)}

    def times(self, prefix: str) -> dict[str, float]:
        """When each of those records was written, by the server's clock."""
        return {address: item.modified for address, item in self._records(prefix)}

    def record(self, address: str, expect: Mapping[str, Any] | None = None) -> ArtifactRecord:
        """The record at the address, checked against the expected recipe if one is given."""
        content = self._objects.get_small(_record_key(address), MOST_RECORD_BYTES)
        if content is None:
            raise not_committed(address, self.uri)
        return parse_record(content, address, expect)

    def read(self, address: str, file: str, record: ArtifactRecord | None = None) -> bytes:
        """A payload file of a committed artifact, verified against its record."""
        record = record or self.record(address)
        entry = entry_of(record, address, file)
        key = _payload_key(address, record.writer, file)
        return self._cache.get(
            entry, lambda: verified(self._objects.get(key, entry.size_bytes), entry, address, file)
        )

    def locate(self, address: str, file: str) -> str:
        """The ``s3://`` URI of a payload file, of the writing that is committed."""
        return f"{self.place.place}/{_payload_key(address, self.record(address).writer, file)}"

    def commit(self, address: str, record: ArtifactRecord, files: Mapping[str, bytes]) -> bool:
        """Write the payload under a token of this writing, then the record unless there is one."""
        own = replace(record, writer=f"w-{secrets.token_hex(8)}")
        payload = {_payload_key(address, own.writer, name): content for name, content in files.items()}
        try:
            for key, content in payload.items():
                self._objects.put(key, content)
        except BaseException:
            self._objects.tidy(payload)
            raise
        # From here on an error leaves the payload alone: the record may have arrived all the same.
        won = self._objects.put_new(_record_key(address), own.to_json())
        # A record in the way may be our own, written by a call whose reply was lost.
        won = won or self._writer(address) == own.writer
        if not won:
            self._objects.tidy(payload)
        return won

    def delete(self, address: str) -> None:
        """Remove the record, which ends the artifact, then the payload it names."""
        payload: list[str] = []
        # Payload that no readable record names is left to the sweep: it may be of a writing in progress.
        with contextlib.suppress(NotCommitted, DamagedArtifact):
            record = self.record(address)
            payload = [_payload_key(address, record.writer, file) for file in record.files]
        self._objects.delete([_record_key(address), *payload])

    def sweep(self, older_than_seconds: float = 86_400.0) -> int:
        """Remove payload no record names, scratch and unfinished uploads; younger ones may be in use."""
        limit, committed = time.time() - older_than_seconds, set()
        writings: dict[str, dict[str, list[Listed]]] = {}
        orphans: list[str] = []
        for item in self._objects.listing(""):
            if record := _RECORD.fullmatch(item.key):
                committed.add(record["address"])
            elif payload := _PAYLOAD.fullmatch(item.key):
                by_writer = writings.setdefault(payload["address"], {})
                by_writer.setdefault(payload["writer"], []).append(item)
            elif item.key.startswith(f"{SCRATCH}/") and item.modified < limit:
                orphans.append(item.key)
        for address, by_writer in writings.items():
            if address not in committed or len(by_writer) > 1:
                named = self._writer(address) if address in committed else ""
                others = (items for writer, items in by_writer.items() if named not in (writer, None))
                orphans += (item.key for items in others for item in items if item.modified < limit)
        self._objects.delete(orphans)
        return len(orphans) + self._objects.abort_uploads(older_than_seconds)

    def _records(self, prefix: str) -> list[tuple[str, Listed]]:
        found = self._objects.listing(f"{prefix}/" if prefix else "")
        matches = ((_RECORD.fullmatch(item.key), item) for item in found)
        listed = {match["address"]: item for match, item in matches if match}
        return sorted(listed.items(), key=lambda pair: pair[0])

    def _writer(self, address: str) -> str | None:
        """Whose writing is committed; empty if nothing is, None if the record cannot tell."""
        try:
            return self.record(address).writer
        except NotCommitted:
            return ""
        except DamagedArtifact:
            return None


def _record_key(address: str) -> str:
    return f"{address}/{RECORD_FILE}"


def _payload_key(address: str, writer: str, file: str) -> str:
    # A record without a writer was copied from a folder, where payload lies beside it.
    return "/".join(part for part in (address, writer, file) if part)
