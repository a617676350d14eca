"""TransferMatrix: counts of who is fooled by whose images, and the rates and intervals they give."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.statistics.proportion import Interval, wilson

CELL = ["method", "attack", "norm", "epsilon", "source", "target"]
COUNTS = ["n", "clean_correct", "adv_correct", "eligible", "fooled"]
MATRIX_SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("attack", pa.string()),
        ("norm", pa.string()),
        ("epsilon", pa.float64()),
        ("source", pa.string()),
        ("target", pa.string()),
        *((count, pa.int64()) for count in COUNTS),
    ]
)


@dataclass(frozen=True)
class Cell:
    """Counts of one source x target cell.

    ``n`` images; ``clean_correct`` read correctly by the target before the attack, ``adv_correct``
    after it; ``eligible`` = read correctly before *and* moved by the attack; ``fooled`` = eligible
    and misread after it.
    """

    n: int
    clean_correct: int
    adv_correct: int
    eligible: int
    fooled: int

    @property
    def fooling(self) -> Interval:
        """Share of eligible images that fool the target."""
        return wilson(self.fooled, self.eligible)

    @property
    def robust(self) -> Interval:
        """Robust accuracy over all images, the paper's measure."""
        return wilson(self.adv_correct, self.n)

    @property
    def clean(self) -> Interval:
        """Clean accuracy over all images."""
        return wilson(self.clean_correct, self.n)


@dataclass(frozen=True)
class Panel:
    """One matrix: a method, an attack and a threat."""

    method: str
    attack: str
    norm: str
    epsilon: float


@dataclass(frozen=True)
class TransferMatrix:
    """All panels of a study, as one table in ``MATRIX_SCHEMA`` sorted by cell."""

    table: pa.Table

    def panels(self) -> list[Panel]:
        """The panels in the order of the table; plain on plain belongs to all of them."""
        columns = [self.table[name].to_pylist() for name in CELL[:4]]
        keys = dict.fromkeys(zip(*columns, strict=True))
        return [Panel(*key) for key in keys if key[0] != "plain"]

    def cells(self, panel: Panel) -> dict[tuple[str, str], Cell]:
        """The cells of one panel by (source, target), in the order of the table.

        The undefended model on itself has method ``plain`` in the table and stands in every panel.
        """
        chosen = pc.field("method").isin([panel.method, "plain"])
        for name in ("attack", "norm", "epsilon"):
            chosen &= pc.field(name) == getattr(panel, name)
        rows = self.table.filter(chosen).to_pylist()
        return {
            (row["source"], row["target"]): Cell(**{count: row[count] for count in COUNTS}) for row in rows
        }


def build_matrix(outcomes: Iterable[pa.Table]) -> TransferMatrix:
    """Counts of every cell from outcome tables, streamed: memory grows with cells, not with images.

    The result depends on the set of rows alone, not on their order: the same outcomes give the same
    bytes.
    """
    totals: dict[tuple[object, ...], np.ndarray] = {}
    for table in outcomes:
        counted = _count(table)
        keys = zip(*(counted[name].to_pylist() for name in CELL), strict=True)
        counts = np.stack([counted[count].to_numpy() for count in COUNTS], axis=1)
        for key, row in zip(keys, counts, strict=True):
            totals[key] = totals.get(key, 0) + row
    ordered = sorted(totals)
    columns = {name: [key[place] for key in ordered] for place, name in enumerate(CELL)}
    for place, count in enumerate(COUNTS):
        columns[count] = [int(totals[key][place]) for key in ordered]
    return TransferMatrix(pa.table(columns, schema=MATRIX_SCHEMA))


def _count(table: pa.Table) -> pa.Table:
    clean = pc.equal(table["clean_prediction"], table["label"])
    adversarial = pc.equal(table["adversarial_prediction"], table["label"])
    eligible = pc.and_(clean, table["moved"])
    facts = {
        "clean_correct": clean,
        "adv_correct": adversarial,
        "eligible": eligible,
        "fooled": pc.and_(eligible, pc.invert(adversarial)),
    }
    for name, mask in facts.items():
        table = table.append_column(name, pc.cast(mask, pa.int64()))
    grouped = table.group_by(CELL).aggregate([(name, "sum") for name in facts] + [([], "count_all")])
    return grouped.rename_columns({f"{name}_sum": name for name in facts} | {"count_all": "n"})
