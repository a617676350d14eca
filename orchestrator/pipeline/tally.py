"""From recorded outcomes to the committed matrix; the same outcomes give the same bytes."""

import contextlib
import functools
import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.errors import DamagedArtifact, NotCommitted, StoreError
from orchestrator.models.ref import PLAIN
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.bulk import in_order
from orchestrator.store.parquet import read_exactly, told_as
from orchestrator.store.record import ArtifactRecord, FileEntry, recipe_digest
from orchestrator.transfer.matrix import MATRIX_SCHEMA, TransferMatrix, build_matrix
from orchestrator.transfer.outcomes import OUTCOME_SCHEMA
from orchestrator.transfer.work import Scored
from orchestrator.transfer.worker import OUTCOMES_FILE

MATRIX, MATRIX_FILE = "matrix", "matrix.parquet"
# Outcome files read at once: small ones, so that waiting for a remote store is most of the time.
_READERS = 16
_REPLACE_TRIES = 5
# Of an outcome file, unpacked: two million rows, twenty times a large unit, for each reader.
_MOST_BYTES = 2**28


def tally(store: ArtifactStore, scored: Sequence[Scored]) -> TransferMatrix:
    """Count recorded outcomes, each verified against its record, and commit the matrix.

    Where the committed matrix counts these very outcomes already, it is read and nothing is counted.

    Raises:
        DamagedArtifact: outcomes differ from their record, or are not outcome rows.
    """
    recipe = {"outcomes": {part.address: _counted(part) for part in scored}}
    if is_committed(store, MATRIX, recipe):
        with contextlib.suppress(DamagedArtifact):  # then it is counted again
            return read_matrix(store)
    matrix = count(store, scored)
    sink = io.BytesIO()
    pq.write_table(matrix.table, sink, compression="zstd")
    seconds = sum(part.record.told("seconds", float, part.address) for part in scored)
    told = {"attack_seconds": seconds, "units": len(scored)}
    replace_artifact(store, MATRIX, recipe, {MATRIX_FILE: sink.getvalue()}, told)
    return matrix


def count(store: ArtifactStore, scored: Sequence[Scored]) -> TransferMatrix:
    """Count recorded outcomes, each verified against its record; nothing is committed.

    Raises:
        DamagedArtifact: outcomes differ from their record, or are not outcome rows.
    """
    return build_matrix(in_order(functools.partial(_rows, store), scored, _READERS))


def is_committed(store: ArtifactStore, address: str, recipe: Mapping[str, Any]) -> bool:
    """Whether a derived artifact is there, made of this very recipe."""
    try:
        return store.record(address).digest == recipe_digest(recipe)
    except NotCommitted:
        return False


def replace_artifact(
    store: ArtifactStore,
    address: str,
    recipe: dict[str, Any],
    files: dict[str, bytes],
    provenance: dict[str, Any],
) -> None:
    """Commit a derived artifact, in place of what other inputs gave or what is damaged.

    Of two drivers that replace at once the last one's stays: both derive it from what is recorded.

    Raises:
        StoreError: other drivers replaced it again and again.
    """
    entries = {name: FileEntry.of(content) for name, content in files.items()}
    record = ArtifactRecord(recipe=recipe, files=entries, provenance=provenance)
    for _ in range(_REPLACE_TRIES):
        store.delete(address)
        if store.commit(address, record, files):
            return
    raise StoreError(f"{address} is replaced by other drivers all the time. End them, then rerun.")


def _counted(part: Scored) -> list[str]:
    targets = recipe_digest({"targets": sorted(part.targets)})
    return [part.record.files[OUTCOMES_FILE].sha256, targets]


def read_matrix(store: ArtifactStore) -> TransferMatrix:
    """The committed matrix.

    Raises:
        NotCommitted: there is none.
        DamagedArtifact: it is not one.
    """
    content = store.read(MATRIX, MATRIX_FILE)
    with told_as(DamagedArtifact, f"{MATRIX} is not a matrix", "Delete it and rerun."):
        return TransferMatrix(read_exactly(content, MATRIX_SCHEMA))


def _rows(store: ArtifactStore, part: Scored) -> pa.Table:
    content, recipe = store.read(part.address, OUTCOMES_FILE, part.record), part.record.recipe
    with told_as(DamagedArtifact, f"{part.address} is not outcomes", "Delete it and rerun."):
        table = read_exactly(content, OUTCOME_SCHEMA, _MOST_BYTES)
        keyed = pc.binary_join_element_wise(table["target"], table["method"], ".")
        labels = pc.if_else(pc.equal(table["target"], PLAIN), PLAIN, keyed)
        source = part.address.rsplit("/", 3)[1].partition(".")[0]
        expected = {name: [recipe[name]] for name in ("attack", "norm")}
        expected |= {"epsilon": list(recipe["epsilons"]), "source": [source]}
        found = {name: table[name] for name in expected} | {"target": labels}
        for name, known in (expected | {"target": list(recipe["targets"])}).items():
            strange = [value for value in found[name].unique().to_pylist() if value not in known]
            if strange:
                raise ValueError(f"its rows have {name} {strange[0]}, its record has not")
    return table if part.whole else table.filter(pc.is_in(labels, pa.array(sorted(part.targets))))
