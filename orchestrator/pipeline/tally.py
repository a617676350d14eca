"""From recorded outcomes to the committed matrix; the same outcomes give the same bytes."""

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.errors import DamagedArtifact, first_line
from orchestrator.models.ref import PLAIN
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.record import ArtifactRecord, FileEntry
from orchestrator.transfer.matrix import TransferMatrix, build_matrix
from orchestrator.transfer.outcomes import OUTCOME_SCHEMA
from orchestrator.transfer.work import Scored
from orchestrator.transfer.worker import OUTCOMES_FILE

MATRIX, MATRIX_FILE = "matrix", "matrix.parquet"


def tally(store: ArtifactStore, scored: Sequence[Scored]) -> TransferMatrix:
    """Count recorded outcomes, each verified against its record, and commit the matrix.

    Raises:
        DamagedArtifact: outcomes differ from their record, or are not outcome rows.
    """
    matrix = build_matrix(_rows(store, part) for part in scored)
    sink = io.BytesIO()
    pq.write_table(matrix.table, sink, compression="zstd")
    counted = {
        part.address: [part.record.files[OUTCOMES_FILE].sha256, *sorted(part.targets)] for part in scored
    }
    seconds = sum(float(part.record.provenance["seconds"]) for part in scored)
    told = {"attack_seconds": seconds, "units": len(scored)}
    replace_artifact(store, MATRIX, {"outcomes": counted}, {MATRIX_FILE: sink.getvalue()}, told)
    return matrix


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


def _rows(store: ArtifactStore, part: Scored) -> pa.Table:
    content = store.read(part.address, OUTCOMES_FILE)
    try:
        table = pq.read_table(pa.BufferReader(content))
    except pa.ArrowInvalid as error:
        raise DamagedArtifact(
            f"{part.address} is not parquet ({first_line(error)}). Delete it and rerun."
        ) from None
    if not table.schema.equals(OUTCOME_SCHEMA):
        raise DamagedArtifact(f"{part.address} has other columns than outcomes. Delete it and rerun.")
    if part.whole:
        return table
    keyed = pc.binary_join_element_wise(table["target"], table["method"], ".")
    labels = pc.if_else(pc.equal(table["target"], PLAIN), PLAIN, keyed)
    return table.filter(pc.is_in(labels, pa.array(sorted(part.targets))))
