"""Precision: shards are added until every interval asked for is narrow; who needs more, and how many.

Asked for are the fooling rate and the robust accuracy of every cell but a keyed model's images on plain:
key to another key, plain to key, each on itself, ensembles and controls. One does not imply the other:
where few images are eligible the first is wider, where half are misread the second. The intervals are
confidence sequences, valid whenever one stops; a study that asks for a precision draws the images of its
shards at random (``plan_shards``).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from orchestrator.models.ref import PLAIN
from orchestrator.statistics.sequence import confidence_sequence
from orchestrator.transfer.matrix import TransferMatrix
from orchestrator.transfer.work import WorkUnit


@dataclass(frozen=True)
class Front:
    """What shards are added to: one source under one attack and norm, on all its targets."""

    attack: str
    norm: str
    source: str
    """The source's label."""

    @classmethod
    def of(cls, unit: WorkUnit) -> "Front":
        """The front a unit belongs to."""
        return cls(unit.attack, unit.ladder.norm, unit.source.label)


@dataclass(frozen=True)
class Round:
    """What is to be attacked next."""

    shards: Mapping[Front, int]
    """How many shards, from the first, each front is to have; fronts that are done are left out."""
    widest: float
    """The largest half-width among the intervals asked for, in [0, 0.5]."""
    wide: int
    """How many of the intervals are not narrow yet."""
    asked: int

    @property
    def over(self) -> bool:
        """Whether nothing is left to do: all is narrow, or no image is left."""
        return not self.shards

    @property
    def sentence(self) -> str:
        """How far it got, for readers of the report."""
        narrow = f"{self.asked - self.wide} of {self.asked} rates are known as precisely as asked"
        if not self.wide:
            return (
                f"All {self.asked} rates are known as precisely as asked, by intervals valid at any stop."
            )
        return f"{narrow}; the widest, with all its images, to ± {100 * self.widest:.1f} points."


def next_round(
    matrix: TransferMatrix, precision: float, done: Mapping[Front, int], available: int
) -> Round:
    """What to attack after what was counted; ask again with what that gave, until it is ``over``.

    A front gets at most twice the shards it has, and no more than its widest interval seems to need.

    Args:
        matrix: the counts so far.
        precision: half-width, in (0, 0.5), at which an interval is narrow enough.
        done: shards that every front has by now, 0 where it has none; all fronts of the study.
        available: shards there are.
    """
    table = _asked(matrix.table)
    halves = half_widths(table, precision)
    widest: dict[Front, float] = {}
    for front, half in zip(_fronts(table), halves.max(axis=0).tolist(), strict=True):
        widest[front] = max(widest.get(front, 0.0), half)
    shards = {}
    for front, have in done.items():
        half = widest.get(front, 0.5 if not have else 0.0)
        if half > precision and have < available:
            # An interval narrows with the root of its images.
            needed = math.ceil(have * (half / precision) ** 2)
            shards[front] = min(available, max(have + 1, min(2 * have, needed)))
    wide = int((halves > precision).sum())
    return Round(shards, float(halves.max(initial=0.0)), wide, halves.size)


def fewest_images(precision: float) -> int:
    """How many images every rate takes at least: where none is misread the interval is narrowest."""
    trials = np.unique(np.geomspace(1, 1e7, 2000).astype(int))
    low, high = confidence_sequence(np.zeros_like(trials), trials, best_at=_best_at(precision))
    return int(trials[(high - low) / 2 <= precision][0])


def half_widths(table: pa.Table, precision: float) -> Float[np.ndarray, "2 cells"]:
    """Half the width of the intervals of every cell's fooling rate and robust accuracy; 0.5 of nothing."""
    halves = []
    for hits, trials in (("fooled", "eligible"), ("adv_correct", "n")):
        low, high = confidence_sequence(
            table[hits].to_numpy(), table[trials].to_numpy(), best_at=_best_at(precision)
        )
        halves.append((high - low) / 2)
    return np.stack(halves)


def _best_at(precision: float) -> float:
    # Tuned to a rate of a quarter; other rates are known so precisely sooner, or a little later.
    return 9.2 * 0.25 * 0.75 / precision**2


def _asked(table: pa.Table) -> pa.Table:
    to_key, own = pc.not_equal(table["target"], PLAIN), pc.equal(table["source"], table["target"])
    return table.filter(pc.or_(to_key, own))


def _fronts(table: pa.Table) -> list[Front]:
    rows = zip(*(table[name].to_pylist() for name in ("attack", "norm", "source", "method")), strict=True)
    return [
        Front(attack, norm, PLAIN if source == PLAIN else f"{source}.{method}")
        for attack, norm, source, method in rows
    ]
