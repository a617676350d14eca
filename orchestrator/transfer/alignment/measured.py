"""Alignment: mean cosines between models of one method, as measured and under redrawn images."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from orchestrator.models.ref import Method
from orchestrator.statistics.pairs import Pairs
from orchestrator.statistics.proportion import Interval
from orchestrator.statistics.replicates import poisson_weights
from orchestrator.statistics.student import mean_interval
from orchestrator.transfer.alignment.unit import AlignmentUnit

# What rounding may add to a cosine in float32.
_SLACK = 1e-5


@dataclass(frozen=True)
class Alignment:
    """What was measured of the plain model, all keyed models of one method and their controls."""

    method: Method
    pairs: Pairs
    """Sums of cosines as hits, images as trials, so that rates are mean cosines in [-1, 1]; both ways."""
    squares: Float[np.ndarray, " pairs"]
    """Sums of squared cosines."""
    images: int

    def cosine(self, first: str, second: str) -> Interval:
        """The mean cosine of two models, with its 95 % interval over images; of a model with itself 1."""
        if first == second and first in self.pairs.names:
            return Interval(1.0, 1.0, 1.0)
        place = self._places.get((first, second))
        if place is None:
            return Interval(math.nan, math.nan, math.nan)
        total, images = self.pairs.hits[place, 0], self.pairs.trials[place, 0]
        return mean_interval(float(total), float(self.squares[place]), int(images), bounds=(-1.0, 1.0))

    def counted(self, first: str, second: str) -> int:
        """On how many images both models have a gradient."""
        place = self._places.get((first, second))
        return 0 if place is None else int(self.pairs.trials[place, 0])

    @cached_property
    def _places(self) -> dict[tuple[str, str], int]:
        names, ends = self.pairs.names, zip(self.pairs.source, self.pairs.target, strict=True)
        return {(names[a], names[b]): place for place, (a, b) in enumerate(ends)}


def add_up(unit: AlignmentUnit, batches: Iterable[pa.RecordBatch], draws: int) -> Alignment:
    """The alignment that rows of any number of shards give.

    Args:
        unit: one of those the rows are of: all have its models.
        batches: the rows, in ``unit.schema``.
        draws: under how many redrawn sets of images they are summed as well.

    Raises:
        ValueError: a value is no cosine.
    """
    sums = _Sums(unit, draws)
    for rows in batches:
        sums.add(rows)
    return sums.alignment()


@dataclass
class _Sums:
    """Sums over images in progress, of one method's models."""

    unit: AlignmentUnit
    draws: int

    def __post_init__(self) -> None:
        size = (len(self.unit.pairs), 1 + self.draws)
        self.total, self.told = np.zeros(size), np.zeros(size)
        self.squares, self.images = np.zeros(size[0]), 0

    def add(self, rows: pa.RecordBatch) -> None:
        """Add some images.

        Raises:
            ValueError: a value is no cosine.
        """
        names = rows["image"].to_pylist()
        values = rows["cosines"].flatten().to_numpy(zero_copy_only=False).astype(np.float64)
        found = values.reshape(len(names), len(self.unit.pairs))
        there = ~np.isnan(found)
        if (np.abs(found[there]) > 1 + _SLACK).any():
            raise ValueError("it has values that are no cosines")
        found = np.where(there, found, 0.0)
        # The first column counts every image once.
        weights = np.ones((len(names), 1 + self.draws))
        weights[:, 1:] = poisson_weights(names, self.draws)
        self.total += found.T @ weights
        self.told += there.T.astype(float) @ weights
        self.squares += (found**2).sum(axis=0)
        self.images += len(names)

    def alignment(self) -> Alignment:
        """What was added, each pair both ways."""
        first, second = np.array(self.unit.pairs, dtype=np.int64).reshape(-1, 2).T
        pairs = Pairs(
            [model.name for model in self.unit.models],
            np.concatenate([first, second]),
            np.concatenate([second, first]),
            np.concatenate([self.total, self.total]),
            np.concatenate([self.told, self.told]),
        )
        return Alignment(self.unit.method, pairs, np.concatenate([self.squares, self.squares]), self.images)
