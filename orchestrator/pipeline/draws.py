"""Draws in the store: the counts under redrawn images, and those of all sources together, by the matrix."""

import io
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Shaped

from orchestrator.store.parquet import read_exactly
from orchestrator.transfer.matrix import COUNTS, MATRIX_SCHEMA, TransferMatrix

DRAWS_FILE, UNION_FILE = "draws.parquet", "union.parquet"
# So many redrawn sets of images tell a standard error to 5 %; the fewest tell it to 16 %.
_MOST, _FEWEST = 200, 20
# What the draws of all cells may take, in memory and unpacked.
_MOST_BYTES = 2**28
_ROWS = 2**12


def draws_for(cells: int) -> int:
    """How often images are redrawn where so many cells are counted; 0 where that would take too much."""
    draws = min(_MOST, _MOST_BYTES // (4 * len(COUNTS) * max(1, cells)))
    return draws if draws >= _FEWEST else 0


def table_bytes(table: pa.Table) -> bytes:
    """A table as parquet; the same table gives the same bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def draw_files(matrix: TransferMatrix) -> dict[str, bytes]:
    """The files that stand beside a matrix's own: none where nothing was redrawn."""
    if matrix.draws is None or not matrix.draws.shape[2]:
        return {}
    union = matrix.union or TransferMatrix(MATRIX_SCHEMA.empty_table(), matrix.draws[:0])
    sink = io.BytesIO()
    schema = _schema(matrix.draws.shape[2])
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for draws in [each.draws for each in (matrix, union) if each.draws is not None]:
            for first in range(0, len(draws), _ROWS):
                writer.write_table(_as_table(draws[first : first + _ROWS], schema))
    return {DRAWS_FILE: sink.getvalue(), UNION_FILE: table_bytes(union.table)}


def with_draws(table: pa.Table, read: Callable[[str], bytes], draws: int) -> TransferMatrix:
    """The matrix of this table, with what its files say of so many draws.

    Args:
        table: the matrix's own.
        read: a file of the matrix by name.
        draws: how many there are.

    Raises:
        ValueError, OSError: a file is not what ``draw_files`` makes of such a matrix.
    """
    if not draws:
        return TransferMatrix(table)
    union = read_exactly(read(UNION_FILE), MATRIX_SCHEMA)
    told = read_exactly(read(DRAWS_FILE), _schema(draws), 2 * _MOST_BYTES)
    if told.num_rows != table.num_rows + union.num_rows:
        raise ValueError("its draws are of other cells")
    counts = np.empty((told.num_rows, len(COUNTS), draws), np.int32)
    for place, name in enumerate(COUNTS):
        values = told[name].combine_chunks().flatten()
        if values.null_count or len(values) != told.num_rows * draws:
            raise ValueError("its draws have empty places")
        counts[:, place] = values.to_numpy().reshape(told.num_rows, draws)
    cells = table.num_rows
    beside = TransferMatrix(union, counts[cells:]) if union.num_rows else None
    return TransferMatrix(table, counts[:cells], beside)


def _schema(draws: int) -> pa.Schema:
    return pa.schema([(name, pa.list_(pa.int32(), draws)) for name in COUNTS])


def _as_table(draws: Shaped[np.ndarray, "cells counts draws"], schema: pa.Schema) -> pa.Table:
    columns = [pa.array(np.ascontiguousarray(draws[:, place]).reshape(-1)) for place in range(len(COUNTS))]
    return pa.table(
        [pa.FixedSizeListArray.from_arrays(column, draws.shape[2]) for column in columns], schema=schema
    )
