"""TransferMatrix: counts of who is fooled by whose images, and the rates and intervals they give."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Shaped

from orchestrator.statistics.pairs import Pairs
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


Measure = Literal["fooling", "misread", "robust", "clean"]
"""Fooled of eligible; of all images: misread after the attack, right after it, right before it."""


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
    draws: Shaped[np.ndarray, "cells counts draws"] | None = field(default=None, compare=False)
    """The same counts under redrawn images (``statistics/replicates.py``), where they were counted."""
    union: "TransferMatrix | None" = field(default=None, compare=False)
    """What all other keys' images do together to each target, in the place of a source."""

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

    def pairs(self, panel: Panel, measure: Measure = "fooling") -> Pairs:
        """The cells of one panel as hits and trials, as counted and under redrawn images."""
        chosen = pc.is_in(self.table["method"], pa.array([panel.method, "plain"]))
        for name in ("attack", "norm", "epsilon"):
            chosen = pc.and_(chosen, pc.equal(self.table[name], getattr(panel, name)))
        keep = np.flatnonzero(chosen)
        table = self.table.take(keep)
        counts = np.stack([table[name].to_numpy() for name in COUNTS], axis=1)[:, :, None]
        if self.draws is not None:
            counts = np.concatenate([counts, self.draws[keep]], axis=2)
        n, clean, right, eligible, fooled = counts.transpose(1, 0, 2)
        hits, trials = {
            "fooling": (fooled, eligible),
            "misread": (n - right, n),
            "robust": (right, n),
            "clean": (clean, n),
        }[measure]
        sides = [table[name].to_pylist() for name in ("source", "target")]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(sides[0] + sides[1]))}
        source, target = (np.array([numbers[name] for name in side], dtype=np.int64) for side in sides)
        return Pairs(list(numbers), source, target, hits, trials)
