"""From recorded outcomes to the committed matrix; the same outcomes give the same bytes."""

import contextlib
import functools
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from orchestrator.errors import DamagedArtifact, NotCommitted, StoreError
from orchestrator.models.ref import PLAIN
from orchestrator.pipeline.draws import draw_files, draws_for, table_bytes, with_draws
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.bulk import in_order
from orchestrator.store.parquet import read_exactly, stream_exactly, told_as
from orchestrator.store.record import ArtifactRecord, FileEntry, recipe_digest
from orchestrator.transfer.counting import COLUMNS, Count
from orchestrator.transfer.matrix import MATRIX_SCHEMA, TransferMatrix
from orchestrator.transfer.outcomes import OUTCOME_SCHEMA, outcome_schema
from orchestrator.transfer.work import Scored
from orchestrator.transfer.worker import OUTCOMES_FILE

MATRIX, MATRIX_FILE = "matrix", "matrix.parquet"
# Outcome files read at once: small ones, so that waiting for a remote store is most of the time.
_READERS = 16
# What outcome files that were read ahead may take: of large ones few are.
_AHEAD_BYTES = 2**28
_REPLACE_TRIES = 5


def tally(store: ArtifactStore, scored: Sequence[Scored]) -> TransferMatrix:
    """Count recorded outcomes, each verified against its record, and commit the matrix.

    Where the committed matrix counts these very outcomes already, it is read and nothing is counted.

    Raises:
        DamagedArtifact: outcomes differ from their record, or are not outcome rows.
    """
    draws = draws_for(count_cells(scored))
    recipe = {"outcomes": {part.address: _counted(part) for part in scored}, "draws": draws}
    if is_committed(store, MATRIX, recipe):
        with contextlib.suppress(DamagedArtifact):  # then it is counted again
            return read_matrix(store, draws)
    matrix = count(store, scored, draws)
    seconds = sum(part.record.told("seconds", float, part.address) for part in scored)
    told = {"attack_seconds": seconds, "units": len(scored)}
    files = {MATRIX_FILE: table_bytes(matrix.table), **draw_files(matrix)}
    replace_artifact(store, MATRIX, recipe, files, told)
    return matrix


def count(store: ArtifactStore, scored: Sequence[Scored], draws: int = 0) -> TransferMatrix:
    """Count recorded outcomes, each verified against its record; nothing is committed.

    Args:
        store: the study's.
        scored: what is recorded.
        draws: under how many redrawn sets of images they are counted as well.

    Raises:
        DamagedArtifact: outcomes differ from their record, or are not outcome rows.
    """
    counted = Count(draws, count_cells(scored))
    largest = max((part.record.files[OUTCOMES_FILE].size_bytes for part in scored), default=0)
    readers = max(1, min(_READERS, _AHEAD_BYTES // max(1, 2 * largest)))
    read = functools.partial(_content, store)
    for part, content in zip(scored, in_order(read, scored, readers), strict=True):
        for rows in _rows(part, content):
            counted.add(rows)
    return counted.matrix()


def outcome_rows(store: ArtifactStore, part: Scored) -> pa.Table:
    """Recorded outcomes of the targets that count, the columns that are counted; in their own order.

    Raises:
        DamagedArtifact: they differ from their record, or are not outcome rows.
    """
    schema = pa.schema([OUTCOME_SCHEMA.field(name) for name in COLUMNS])
    tables = [pa.Table.from_batches([rows]).cast(schema) for rows in _rows(part, _content(store, part))]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def count_cells(scored: Sequence[Scored]) -> int:
    """How many cells the matrix has at most."""
    targets: dict[tuple[str, int], frozenset[str]] = {}
    for part in scored:
        row = (part.address.rsplit("/", 2)[0], len(part.record.recipe["epsilons"]))
        before = targets.get(row, frozenset())
        targets[row] = before if part.targets <= before else before | part.targets
    return sum(radii * len(labels) for (_, radii), labels in targets.items())


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


def read_matrix(store: ArtifactStore, draws: int = 0) -> TransferMatrix:
    """The committed matrix, with so many of its draws: all it was counted with, or none.

    Raises:
        NotCommitted: there is none.
        DamagedArtifact: it is not one.
    """
    content = store.read(MATRIX, MATRIX_FILE)
    with told_as(DamagedArtifact, f"{MATRIX} is not a matrix", "Delete it and rerun."):
        return with_draws(
            read_exactly(content, MATRIX_SCHEMA), functools.partial(store.read, MATRIX), draws
        )


def _content(store: ArtifactStore, part: Scored) -> bytes:
    return store.read(part.address, OUTCOMES_FILE, part.record)


def _rows(part: Scored, content: bytes) -> Iterator[pa.RecordBatch]:
    """The rows that count, checked against what their record says they are of."""
    with told_as(DamagedArtifact, f"{part.address} is not outcomes", "Delete it and rerun."):
        yield from _checked(part, content)


def _checked(part: Scored, content: bytes) -> Iterator[pa.RecordBatch]:
    recipe = part.record.recipe
    known = {name: {recipe[name]} for name in ("attack", "norm")}
    known |= {"epsilon": set(recipe["epsilons"])}
    known |= {"source": {part.address.rsplit("/", 3)[1].partition(".")[0]}}
    for batch in stream_exactly(content, outcome_schema(recipe["norm"]), COLUMNS):
        for name, values in known.items():
            _check_known(name, batch[name].unique().to_pylist(), values)
        labels, of_row = _labels(batch)
        _check_known("target", labels, recipe["targets"])
        counts = np.array([label in part.targets for label in labels], dtype=bool)
        yield batch if counts.all() else batch.filter(pa.array(counts[of_row]))


def _check_known(name: str, found: Iterable[Any], known: Container[Any]) -> None:
    strange = next((value for value in found if value not in known), None)
    if strange is not None:
        raise ValueError(f"its rows have {name} {strange}, its record has not")


def _labels(batch: pa.RecordBatch) -> tuple[list[str], Int[np.ndarray, " rows"]]:
    """The labels of the rows' targets, a name alone for plain, else with the method; and which is whose."""
    target, method = batch["target"], batch["method"]
    methods = method.dictionary.to_pylist()
    pair = target.indices.to_numpy().astype(np.int64) * len(methods) + method.indices.to_numpy()
    found, of_row = np.unique(pair, return_inverse=True)
    names = target.dictionary.take(pa.array(found // len(methods))).to_pylist()
    ends = zip(names, (found % len(methods)).tolist(), strict=True)
    return [name if name == PLAIN else f"{name}.{methods[of]}" for name, of in ends], of_row
