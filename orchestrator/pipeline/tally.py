"""From recorded outcomes to the committed matrix; the same outcomes give the same bytes."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import DamagedArtifact
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.record import ArtifactRecord, FileEntry
from orchestrator.transfer.matrix import TransferMatrix, build_matrix
from orchestrator.transfer.outcomes import OUTCOME_SCHEMA
from orchestrator.transfer.work import WorkUnit
from orchestrator.transfer.worker import OUTCOMES_FILE

MATRIX, MATRIX_FILE = "matrix", "matrix.parquet"


def tally(store: ArtifactStore, units: Sequence[WorkUnit]) -> TransferMatrix:
    """Count all units' outcomes, each verified against its record, and commit the matrix.

    Raises:
        StaleArtifact: outcomes were made by other models or settings than the study's.
        DamagedArtifact: outcomes differ from their record, or are not outcome rows.
    """
    seconds: list[float] = []
    matrix = build_matrix(_tables(store, units, seconds))
    sink = io.BytesIO()
    pq.write_table(matrix.table, sink, compression="zstd")
    recipe = {"outcomes": {unit.address: unit_digest(store, unit) for unit in units}}
    told = {"attack_seconds": sum(seconds), "units": len(units)}
    replace_artifact(store, MATRIX, recipe, {MATRIX_FILE: sink.getvalue()}, told)
    return matrix


def unit_digest(store: ArtifactStore, unit: WorkUnit) -> str:
    """SHA-256 of a unit's recorded outcomes."""
    return store.record(unit.address).files[OUTCOMES_FILE].sha256


def replace_artifact(
    store: ArtifactStore,
    address: str,
    recipe: dict[str, Any],
    files: dict[str, bytes],
    provenance: dict[str, Any],
) -> None:
    """Commit a derived artifact, in place of one that other inputs gave."""
    entries = {name: FileEntry.of(content) for name, content in files.items()}
    record = ArtifactRecord(recipe=recipe, files=entries, provenance=provenance)
    if store.has(address):
        if store.record(address).digest == record.digest:
            return
        store.delete(address)
    store.commit(address, record, files)


def _tables(
    store: ArtifactStore, units: Sequence[WorkUnit], seconds: list[float]
) -> Iterator[pa.Table]:
    for unit in units:
        record = store.record(unit.address, unit.recipe)
        seconds.append(float(record.provenance["seconds"]))
        content = store.read(unit.address, OUTCOMES_FILE)
        try:
            table = pq.read_table(pa.BufferReader(content))
        except pa.ArrowInvalid as error:
            raise DamagedArtifact(f"{unit.address} is not parquet ({error}). Delete it and rerun.") from None
        if table.schema.names != OUTCOME_SCHEMA.names:
            raise DamagedArtifact(f"{unit.address} has other columns than outcomes. Delete it and rerun.")
        yield table
