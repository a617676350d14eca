"""Counting: outcome rows into the counts of every cell, as they are and under redrawn images; streamed.

Every count is a whole number, so the order of rows does not matter: the same outcomes give the same bytes.
Memory grows with cells times draws, and with images times targets (one byte each), not with rows.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Int, Shaped

from orchestrator.statistics.replicates import poisson_weights
from orchestrator.transfer.matrix import CELL, COUNTS, MATRIX_SCHEMA, TransferMatrix
from orchestrator.transfer.numbering import Numbering
from orchestrator.transfer.union import Union

COLUMNS = [*CELL, "image", "label", "clean_prediction", "adversarial_prediction", "moved"]
"""What is read of an outcome row."""
# How many values a column of CELL may have in one study: together they fit into 62 bits.
_MOST_NAMES = (8, 1024, 8, 1024, 2**18, 2**18)
# Cells by images, of which one product is made at a time: 64 MiB.
_DENSE = 2**24


class Count:
    """Counts in progress: ``add`` rows, then ask for the ``matrix``."""

    def __init__(self, draws: int = 0, cells: int = 16) -> None:
        self.draws = draws
        self._cells: dict[int, int] = {}
        self._columns = [Numbering() for _ in CELL]
        self._images = Numbering()
        # By number of image; the first column counts every image once.
        self._weights: Float32[np.ndarray, "images draws"] = np.ones((0, 1 + draws), np.float32)
        # By number of cell; zeros take no memory before they are written to.
        self._counts: Int[np.ndarray, "cells counts draws"] = np.zeros(
            (cells, len(COUNTS), 1 + draws), np.int32
        )
        self._union = Union(self._columns)

    def add(self, rows: pa.RecordBatch) -> None:
        """Count some rows, which have ``COLUMNS``."""
        if not rows.num_rows:
            return
        codes, of_code = self._encoded(rows)
        slots = np.array([self._cells.setdefault(code, len(self._cells)) for code in codes.tolist()])
        image = self._images.of(rows["image"])
        self._weigh(len(self._images))
        self._make_room(len(self._cells))
        facts = _facts(rows)
        for first, dense, seen in _blocks(of_code, image, facts, len(codes)):
            counted = dense.reshape(-1, len(seen)) @ self._weights[seen]
            block = slots[first : first + dense.shape[0]]
            self._counts[block] += counted.reshape(dense.shape[0], len(COUNTS), -1).astype(np.int32)
        self._union.add(_split(codes), of_code, image, facts)

    def matrix(self) -> TransferMatrix:
        """What was counted so far, with what any other key's images do together beside it."""
        codes = np.fromiter(self._cells, np.int64, len(self._cells))
        whole = _table(self._columns, _split(codes), self._counts[: len(codes)])
        rows, counts = self._union.counts(self._weights)
        beside = _table(self._columns, rows, counts)
        return TransferMatrix(*whole, union=TransferMatrix(*beside) if len(counts) else None)

    def _encoded(self, rows: pa.RecordBatch) -> tuple[Int[np.ndarray, " cells"], Int[np.ndarray, " rows"]]:
        """One code a cell, and of every row the place of its cell's code."""
        code = np.zeros(rows.num_rows, np.int64)
        for name, known, most in zip(CELL, self._columns, _MOST_NAMES, strict=True):
            code = code * most + known.of(rows[name])
            if len(known) > most:
                raise ValueError(f"it has more than {most} values of {name}")
        # Rows of a cell mostly stand together: sort the runs, not the rows.
        starts = np.flatnonzero(np.append(True, code[1:] != code[:-1]))
        codes, of_run = np.unique(code[starts], return_inverse=True)
        return codes, np.repeat(of_run, np.diff(np.append(starts, len(code))))

    def _weigh(self, images: int) -> None:
        known = len(self._weights)
        if images > known:
            fresh = self._images.since(known)
            added = np.ones((len(fresh), 1 + self.draws), np.float32)
            added[:, 1:] = poisson_weights(fresh, self.draws)
            self._weights = np.concatenate([self._weights, added])

    def _make_room(self, cells: int) -> None:
        if cells > len(self._counts):
            grown = np.zeros((2 * cells, *self._counts.shape[1:]), np.int32)
            grown[: len(self._counts)] = self._counts
            self._counts = grown


def build_matrix(outcomes: Iterable[pa.Table | pa.RecordBatch], draws: int = 0) -> TransferMatrix:
    """Counts of every cell, from outcome rows in any order; see ``Count``."""
    count = Count(draws)
    for rows in outcomes:
        for batch in rows.to_batches() if isinstance(rows, pa.Table) else [rows]:
            count.add(batch)
    return count.matrix()


def _facts(rows: pa.RecordBatch) -> Bool[np.ndarray, "counts rows"]:
    """Of every row, whether it counts for each of ``COUNTS``."""
    label, clean, adversarial = (
        rows[name].to_numpy() for name in ("label", "clean_prediction", "adversarial_prediction")
    )
    before, after = clean == label, adversarial == label
    eligible = before & rows["moved"].to_numpy(zero_copy_only=False)
    return np.stack([np.ones_like(before), before, after, eligible, eligible & ~after])


def _blocks(
    of_cell: Int[np.ndarray, " rows"],
    image: Int[np.ndarray, " rows"],
    facts: Bool[np.ndarray, "counts rows"],
    cells: int,
) -> Iterator[tuple[int, Float32[np.ndarray, "cells counts images"], Int[np.ndarray, " images"]]]:
    """Facts by cell and image, some cells at a time: the first cell, the facts, and which images."""
    seen, column = np.unique(image, return_inverse=True)
    size = max(1, _DENSE // (len(seen) * len(COUNTS)))
    for first in range(0, cells, size):
        chosen = slice(None) if cells <= size else (of_cell >= first) & (of_cell < first + size)
        number = min(size, cells - first)
        place = (of_cell[chosen] - first) * len(seen) + column[chosen]
        dense = np.empty((number, len(COUNTS), len(seen)), np.float32)
        for fact in range(len(COUNTS)):
            found = np.bincount(place, facts[fact][chosen], number * len(seen))
            dense[:, fact] = found.reshape(number, len(seen))
        yield first, dense, seen


def _split(codes: Int[np.ndarray, " cells"]) -> Int[np.ndarray, "columns cells"]:
    """Codes of cells back into the numbers of their names, by columns of CELL."""
    columns = []
    for most in reversed(_MOST_NAMES):
        codes, number = np.divmod(codes, most)
        columns.append(number)
    return np.stack(columns[::-1])


def _table(
    known: list[Numbering],
    cells: Int[np.ndarray, "columns cells"],
    counts: Shaped[np.ndarray, "cells counts draws"],
) -> tuple[pa.Table, Shaped[np.ndarray, "cells counts draws-1"]]:
    """Counts as a sorted table, and what was drawn in the same order."""
    fields = zip(MATRIX_SCHEMA, known, cells, strict=False)
    columns = [pa.array(names.since(0), f.type).take(pa.array(at)) for f, names, at in fields]
    columns += [pa.array(counts[:, place, 0], pa.int64()) for place in range(len(COUNTS))]
    table = pa.table(columns, schema=MATRIX_SCHEMA)
    order = pc.sort_indices(table, [(name, "ascending") for name in CELL])
    return table.take(order), counts[order.to_numpy(), :, 1:]
