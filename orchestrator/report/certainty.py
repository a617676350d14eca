"""Certainty: what attacking from some keys only costs, against attacking from all of them."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from orchestrator.report.grid import Grid
from orchestrator.report.wording import percent
from orchestrator.statistics.components import components, standard_error
from orchestrator.statistics.pairs import mean_rate


@dataclass(frozen=True)
class Certainty:
    """How well the mean rate from one key to another is known, and would be with every key as a source."""

    sources: int
    keys: int
    half_width: float
    """Of the 95 % interval over keys and images, in [0, 1], from so many sources."""
    with_all: float
    """What is expected of it with as many sources as keys, on the same images."""
    spread: float
    """By how much sources differ: the standard deviation of what a source brings."""

    @property
    def sentence(self) -> str:
        """The cost in words."""
        return (
            f"Attacked from {self.sources:,} of {self.keys:,} keys, the mean from key to key is known to "
            f"± {percent(self.half_width)} points; attacked from all, ± {percent(self.with_all)} would be "
            f"expected (sources differ by a standard deviation of {percent(self.spread)} points). The "
            "worst pair, the most dangerous source and all others' images together are of the sources that "
            "were attacked: among all keys they are worse or the same."
        )


def cost_of_sources(grid: Grid) -> Certainty | None:
    """What a panel gave up by attacking from some of its keys; None if it did not, or cannot tell."""
    pairs = grid.pairs().among(grid.keys, grid.keys)
    sources, keys = len(np.unique(pairs.source)), len(grid.keys)
    if not 0 < sources < keys:
        return None
    found, mean = components(pairs), mean_rate(pairs, grid.clusters)
    halves = [
        float(stats.t.ppf(0.975, count - 1)) * standard_error(found, mean.image_variance, count, keys)
        if count > 1
        else math.nan
        for count in (sources, keys)
    ]
    if any(math.isnan(half) for half in halves):
        return None
    return Certainty(sources, keys, halves[0], halves[1], found.source.deviation.rate)
