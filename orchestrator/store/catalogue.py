"""The catalogue: many records by one listing and one object, however many artifacts a study has.

It is a copy, never the truth: the listing says what exists, and a record is taken from the catalogue
only where its stamp is the listing's. One that is damaged, missing or lost in a race costs reading.
"""

import contextlib
import functools
import hashlib
import io
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.aws import CONNECTIONS
from orchestrator.errors import DamagedArtifact, NotCommitted, StoreError
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.bulk import in_order
from orchestrator.store.parquet import read_exactly, told_as
from orchestrator.store.record import ArtifactRecord, FileEntry
from orchestrator.store.sharing import Shared
from orchestrator.store.uri import is_folder

CATALOGUE = "catalogue"
_FILE = "records.parquet"
# So few records are read one by one as fast.
_FEW = 64
# A catalogue is written again when this share of its records is new.
_NEW_SHARE = 0.05
_SCHEMA = pa.schema(
    [
        pa.field("address", pa.string(), nullable=False),
        pa.field("stamp", pa.string(), nullable=False),
        pa.field("record", pa.binary(), nullable=False),
    ]
)


def read_records(store: ArtifactStore, prefix: str) -> dict[str, ArtifactRecord]:
    """The records of all artifacts at and below ``prefix``, by address, sorted.

    Raises:
        DamagedArtifact: a record is not one.
        StoreError: the store cannot be read. One that cannot be written only stays without a catalogue.
    """
    shared = Shared()
    if is_folder(store.uri):
        # A folder's records are read as fast as a catalogue of them: 10,000 in 1.3 seconds.
        found = ((address, _record_or_none(store, address)) for address in store.addresses(prefix))
        return {address: shared.record(record) for address, record in found if record is not None}
    stamps = store.stamps(prefix)
    known = _known(store, prefix, stamps, shared) if len(stamps) > _FEW else {}
    fresh = [address for address in stamps if address not in known]
    look = functools.partial(_record_or_none, store)
    for address, record in zip(fresh, in_order(look, fresh, CONNECTIONS), strict=True):
        if record is not None:
            known[address] = shared.record(record)
    records = {address: known[address] for address in stamps if address in known}
    if len(fresh) > max(_FEW, int(_NEW_SHARE * len(stamps))):
        with contextlib.suppress(StoreError):
            _write(store, prefix, stamps, records)
    return records


def _known(
    store: ArtifactStore, prefix: str, stamps: Mapping[str, str], shared: Shared
) -> dict[str, ArtifactRecord]:
    """Records the catalogue has as they now are."""
    address = f"{CATALOGUE}/{prefix}"
    # Whatever is wrong with it, the records themselves are there to be read.
    with contextlib.suppress(NotCommitted, DamagedArtifact):
        content = store.read(address, _FILE)
        with told_as(DamagedArtifact, f"{address} is not a catalogue", "It is made again."):
            rows = read_exactly(content, _SCHEMA).to_pylist()
        return {
            row["address"]: shared.record(ArtifactRecord.from_json(row["record"], row["address"]))
            for row in rows
            if stamps.get(row["address"]) == row["stamp"]
        }
    return {}


def _record_or_none(store: ArtifactStore, address: str) -> ArtifactRecord | None:
    """The record, None if it was deleted since it was listed."""
    with contextlib.suppress(NotCommitted):
        return store.record(address)
    return None


def _write(
    store: ArtifactStore, prefix: str, stamps: Mapping[str, str], records: Mapping[str, ArtifactRecord]
) -> None:
    address_of_copy = f"{CATALOGUE}/{prefix}"
    # First, so that where nothing may be written no work is lost.
    store.delete(address_of_copy)
    rows = [
        {"address": address, "stamp": stamps[address], "record": record.to_json()}
        for address, record in records.items()
    ]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), sink, compression="zstd")
    content = sink.getvalue()
    recipe = {"prefix": prefix, "sha256": hashlib.sha256(content).hexdigest()}
    record = ArtifactRecord(recipe=recipe, files={_FILE: FileEntry.of(content)})
    store.commit(address_of_copy, record, {_FILE: content})
