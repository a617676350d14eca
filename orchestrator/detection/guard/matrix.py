"""GuardMatrix: the transfer matrix of models that have detectors, beside that of the same models without.

Both are of test images alone, on which no detector was fitted and no threshold set. With its detector a
model is safe from an image if it reads it right or stops it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.detection.rates import highest
from orchestrator.statistics.pairs import Pairs
from orchestrator.transfer.counting import COLUMNS, build_matrix
from orchestrator.transfer.matrix import CELL, COUNTS, Panel, TransferMatrix


@dataclass(frozen=True)
class GuardMatrix:
    """Who is fooled by whose images, without detectors and with them at every false-positive rate."""

    bare: TransferMatrix
    guarded: Mapping[float, TransferMatrix]
    """By the share of clean images that a detector may stop. What is stopped counts as read right."""

    def stopped(self, panel: Panel, rate: float) -> Pairs:
        """Of the images that fool a target, those that its own detector stops."""
        fooled, passed = self.bare.pairs(panel), self.guarded[rate].pairs(panel)
        return replace(fooled, hits=fooled.hits - passed.hits, trials=fooled.hits)

    @property
    def table(self) -> pa.Table:
        """Every cell: its counts, and of the images that fool and of all images those stopped or safe."""
        table = self.bare.table.select(CELL + COUNTS)
        for rate, matrix in self.guarded.items():
            ending = f"at_{rate:g}"
            stopped = pc.subtract(table["fooled"], matrix.table["fooled"])
            table = table.append_column(f"stopped_{ending}", stopped)
            table = table.append_column(f"safe_{ending}", matrix.table["adv_correct"])
        return table


def build_guard_matrix(judged: Iterable[pa.Table], rates: Sequence[float], draws: int = 0) -> GuardMatrix:
    """Counts of every cell from judged rows in any order; clean images and noise must not be among them.

    Args:
        judged: in ``JUDGED_SCHEMA``.
        rates: false-positive rates.
        draws: under how many redrawn sets of images everything is counted as well.
    """
    tables = list(judged)
    bare = build_matrix((table.select(COLUMNS) for table in tables), draws)
    guarded = {
        rate: build_matrix((_stopped(table, rate).select(COLUMNS) for table in tables), draws)
        for rate in rates
    }
    return GuardMatrix(bare, guarded)


def stops(p_values: pa.ChunkedArray, rate: float) -> pa.ChunkedArray:
    """Whether images are stopped at a false-positive rate."""
    return pc.less_equal(p_values, highest(rate))


def _stopped(table: pa.Table, rate: float) -> pa.Table:
    """Rows in which what is stopped does no harm: as if read right."""
    seen_as = pc.if_else(stops(table["p_value"], rate), table["label"], table["adversarial_prediction"])
    place = table.schema.get_field_index("adversarial_prediction")
    return table.set_column(place, table.schema.field(place), seen_as)
