"""Components: how much of the spread between pairs comes from sources, targets, pairs, and images drawn.

The model is that of round robins (Warner, Kenny & Stoto 1979): a rate is a mean, what its source brings,
what its target brings, and a rest; a key may be both, and what it brings as either may go together.
Half the mean squared difference of two rates estimates the sum of what they do not share: two pairs
without a key in common tell all three, two of one source leave the source out. So all estimates are
unbiased, with any pairs missing, after Owen & Gao (2017, arXiv 1510.04923).
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse, stats

from orchestrator.statistics.estimate import FEWEST
from orchestrator.statistics.pairs import Pairs
from orchestrator.statistics.proportion import Interval

_GROUPS = 64  # keys are left out in at most so many groups: a component takes a pass over all pairs
Models = Int[np.ndarray, " pairs"]
Rates = Float[np.ndarray, "pairs draws"]


@dataclass(frozen=True)
class Component:
    """A variance of rates, as it was estimated; what is below 0 is none."""

    value: float
    variance: float
    """Of the estimate, over keys: a jackknife's; nan with fewer than five."""
    models: int

    @property
    def deviation(self) -> Interval:
        """As a standard deviation of rates in [0, 1], with its 95 % interval over keys.

        Chi-squared with Satterthwaite's degrees of freedom; where there is less than one, the variance
        is hardly told from none, and the interval is Student's.
        """
        if self.models < FEWEST or not self.variance > 0:  # nan, or pairs that are all alike
            return Interval(math.sqrt(max(0.0, self.value)), math.nan, math.nan)
        freedom = 2 * self.value**2 / self.variance
        half = float(stats.t.ppf(0.975, self.models - 1)) * math.sqrt(self.variance)
        low, high = self.value - half, self.value + half
        if self.value > 0 and freedom >= 1:
            low, high = (freedom * self.value / float(stats.chi2.ppf(q, freedom)) for q in (0.975, 0.025))
        return Interval(*(math.sqrt(max(0.0, end)) for end in (self.value, low, high)))


@dataclass(frozen=True)
class Components:
    """Where the spread of rates between pairs comes from."""

    source: Component
    target: Component
    pair: Component
    """What is particular to a pair beyond its source and its target, images drawn not counted."""
    images: float
    """Variance that the draw of images alone puts between pairs; nan where none were redrawn."""
    sources: int
    targets: int


def components(pairs: Pairs) -> Components:
    """The components of the rates of pairs of different models; nan with fewer than four models."""
    rates = pairs.rates
    there = np.isfinite(rates[:, 0]) if len(pairs) else np.zeros(0, dtype=bool)
    source, target, rates = pairs.source[there], pairs.target[there], rates[there]
    size = len(pairs.names)
    whole = _moments(source, target, rates[:, :1], size)[:, 0]
    noise = np.zeros(3)
    images = math.nan
    if rates.shape[1] > 1:
        moved = np.where(np.isfinite(rates[:, 1:]), rates[:, 1:] - rates[:, :1], 0.0)
        noise = _moments(source, target, moved, size).mean(axis=1)
        images = float(noise.sum())
    left_out = _left_out(source, target, rates[:, :1], size)
    spread = ((left_out - whole) ** 2).sum(axis=0) * max(len(left_out) - 1, 0) / max(len(left_out), 1)
    sides = [len(np.unique(side)) for side in (source, target)]
    made = [
        Component(float(value - lost), float(chance), min(sides))
        for value, lost, chance in zip(whole, noise, spread, strict=True)
    ]
    return Components(made[0], made[1], made[2], images, sources=sides[0], targets=sides[1])


def standard_error(found: Components, image_variance: float, sources: int, targets: int) -> float:
    """Of the mean rate from so many sources to so many targets, drawn from all keys there could be.

    Args:
        found: how rates spread.
        image_variance: of the mean, from the draw of images that all pairs share.
        sources: how many are attacked.
        targets: how many the images are tried on.
    """
    parts = ((found.source, sources), (found.target, targets), (found.pair, sources * targets))
    # A nan stays one: max(0.0, nan) would be 0.
    return math.sqrt(image_variance + sum(float(np.maximum(0.0, part.value)) / of for part, of in parts))


def _left_out(source: Models, target: Models, rates: Rates, size: int) -> Float[np.ndarray, "groups 3"]:
    """The components with each group of models left out."""
    models = np.union1d(source, target)
    groups = min(len(models), _GROUPS)
    number = np.zeros(size, dtype=int)
    number[models] = np.arange(len(models)) * groups // max(len(models), 1)
    found = []
    for group in range(groups):
        kept = (number[source] != group) & (number[target] != group)
        found.append(_moments(source[kept], target[kept], rates[kept], size)[:, 0])
    return np.array(found).reshape(-1, 3)


@dataclass(frozen=True)
class _Squares:
    """Squared differences summed over some unordered pairs of rates, and how many these are."""

    pairs: float
    total: Float[np.ndarray, " draws"]

    def plus(self, other: "_Squares", times: int) -> "_Squares":
        return _Squares(self.pairs + times * other.pairs, self.total + times * other.total)

    def half_mean(self) -> Float[np.ndarray, " draws"]:
        return self.total / (2 * self.pairs) if self.pairs > 0 else np.full_like(self.total, math.nan)


@dataclass(frozen=True)
class _Sums:
    """Of the rates of each model's row or column: how many, their sums, and those of their squares."""

    size: Float[np.ndarray, " models"]
    total: Float[np.ndarray, "models draws"]
    squares: Float[np.ndarray, "models draws"]

    @classmethod
    def of(cls, side: Models, rates: Rates, models: int) -> "_Sums":
        count = len(side)
        member = sparse.csr_array((np.ones(count), (side, np.arange(count))), shape=(models, count))
        return cls(np.bincount(side, minlength=models).astype(float), member @ rates, member @ rates**2)

    def within(self) -> _Squares:
        """Differences inside each row or column."""
        total = (self.size[:, None] * self.squares - self.total**2).sum(axis=0)
        return _Squares(float((self.size * (self.size - 1)).sum() / 2), total)

    def across(self, other: "_Sums") -> _Squares:
        """Differences of each model's row from the same model's column."""
        squares = self.size[:, None] * other.squares + other.size[:, None] * self.squares
        total = (squares - 2 * self.total * other.total).sum(axis=0)
        return _Squares(float(self.size @ other.size), total)


def _moments(source: Models, target: Models, rates: Rates, size: int) -> Float[np.ndarray, "3 draws"]:
    """Unbiased variances of source, target and rest, for every draw."""
    rates = rates - rates.mean(axis=0) if len(rates) else rates  # so that squares lose no digits
    rows, columns = _Sums.of(source, rates, size), _Sums.of(target, rates, size)
    whole = _Sums.of(np.zeros_like(source), rates, 1).within()
    row, column, crossing = rows.within(), columns.within(), rows.across(columns)
    mutual = _mutual(source, target, rates, size)
    # A pair and its reverse cross twice.
    apart = whole.plus(row, -1).plus(column, -1).plus(crossing, -1).plus(mutual, 1)
    total, in_row, in_column = (each.half_mean() for each in (apart, row, column))
    return np.stack([total - in_row, total - in_column, in_row + in_column - total])


def _mutual(source: Models, target: Models, rates: Rates, size: int) -> _Squares:
    """Differences of each pair from its reverse."""
    forth, back = source * size + target, target * size + source
    order = np.argsort(forth)
    place = np.searchsorted(forth[order], back).clip(max=max(len(forth) - 1, 0))
    found = np.flatnonzero((forth[order][place] == back) & (source < target)) if len(forth) else order
    apart = rates[found] - rates[order[place[found]]]
    return _Squares(float(len(found)), (apart**2).sum(axis=0))
