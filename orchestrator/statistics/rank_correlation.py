"""Rank correlation of two measures of the same pairs of models, with what images and keys do to it.

Pairs of one key are no independent points, so neither the textbook interval nor a draw of pairs will do.
Each key is left out in turn, with all its pairs, and images are redrawn in both measures at once.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from scipy import stats

from orchestrator.statistics.estimate import Estimate
from orchestrator.statistics.pairs import Pairs

Rates = Float[np.ndarray, "pairs draws"]


def rank_correlation(first: Pairs, second: Pairs, cluster: Mapping[str, str]) -> Estimate:
    """Spearman's correlation of two rates, over the pairs that have both; nan where one does not vary.

    With fewer than four keys it has no interval over keys: of three, one left out leaves a single pair.

    Args:
        first: one measure of pairs of different models.
        second: the other; the draws of both are of the same images.
        cluster: what a model is left out with, as of ``mean_rate``.
    """
    places = {ends: place for place, ends in enumerate(_ends(second))}
    shared = [(place, places[ends]) for place, ends in enumerate(_ends(first)) if ends in places]
    of_first, of_second = np.array(shared, dtype=np.int64).reshape(-1, 2).T
    draws = min(first.hits.shape[1], second.hits.shape[1])
    one, other = first.rates[of_first][:, :draws], second.rates[of_second][:, :draws]
    there = np.isfinite(one[:, 0]) & np.isfinite(other[:, 0])
    one, other = one[there], other[there]
    groups = [[cluster.get(name) for name in pair] for pair in np.array(_ends(first))[of_first][there]]
    keys = sorted({group for pair in groups for group in pair if group is not None})
    without = {}
    for key in keys:
        kept = np.array([key not in pair for pair in groups])
        without[key] = float(_spearman(one[kept, :1], other[kept, :1])[0])
    values = _spearman(one, other)
    return Estimate(
        value=float(values[0]),
        replicates=values[1:],
        without=without,
        models=len(keys),
        trials=len(one),
        bounds=(-1.0, 1.0),
    )


def _ends(pairs: Pairs) -> list[tuple[str, str]]:
    names = pairs.names
    return [(names[a], names[b]) for a, b in zip(pairs.source, pairs.target, strict=True)]


def _spearman(one: Rates, other: Rates) -> Float[np.ndarray, " draws"]:
    """Pearson's correlation of ranks, draw by draw."""
    if len(one) < 2:
        return np.full(one.shape[1], np.nan)
    # What is nan in a draw makes that draw nan.
    ranks = [stats.rankdata(rates, axis=0, nan_policy="propagate") for rates in (one, other)]
    apart = [of - of.mean(axis=0) for of in ranks]
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Float[np.ndarray, " draws"] = (apart[0] * apart[1]).sum(axis=0) / np.sqrt(
            (apart[0] ** 2).sum(axis=0) * (apart[1] ** 2).sum(axis=0)
        )
    return found
