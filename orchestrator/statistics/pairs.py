"""Pairs: counts of hits and trials between models, as counted and redrawn, and their mean rate."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from orchestrator.statistics.estimate import Estimate


@dataclass(frozen=True)
class Pairs:
    """What was counted from sources to targets. The first column is as counted, the others redrawn."""

    names: Sequence[str]
    """Models by number."""
    source: Int[np.ndarray, " pairs"]
    target: Int[np.ndarray, " pairs"]
    hits: Shaped[np.ndarray, "pairs draws"]
    trials: Shaped[np.ndarray, "pairs draws"]

    def __len__(self) -> int:
        return len(self.source)

    @property
    def rates(self) -> Float[np.ndarray, "pairs draws"]:
        """Hits by trials in [0, 1]; nan where nothing was tried."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.hits / np.where(self.trials > 0, self.trials, np.nan)

    def where(self, chosen: Bool[np.ndarray, " pairs"]) -> "Pairs":
        """Some of the pairs."""
        return replace(
            self,
            source=self.source[chosen],
            target=self.target[chosen],
            hits=self.hits[chosen],
            trials=self.trials[chosen],
        )

    def among(self, sources: Collection[str], targets: Collection[str]) -> "Pairs":
        """The pairs from some models to others, a model to itself left out."""
        from_, to = self._marked(sources), self._marked(targets)
        return self.where(from_[self.source] & to[self.target] & (self.source != self.target))

    def own(self, models: Collection[str]) -> "Pairs":
        """The pairs of some models with themselves."""
        return self.where(self._marked(models)[self.source] & (self.source == self.target))

    def _marked(self, names: Collection[str]) -> Bool[np.ndarray, " models"]:
        wanted = frozenset(names)
        return np.array([name in wanted for name in self.names], dtype=bool)


def mean_rate(pairs: Pairs, cluster: Mapping[str, str]) -> Estimate:
    """The mean of the pairs' rates, every pair alike; pairs without a trial are left out.

    Args:
        pairs: all that are to be in the mean.
        cluster: what a model is left out with: a key for its model and for twins of it; a model that is
            in no cluster, such as plain, is always there.
    """
    rates = pairs.rates
    there = np.isfinite(rates)
    filled = np.where(there, rates, 0.0)
    sums, counts = filled.sum(axis=0), there.sum(axis=0)
    with np.errstate(invalid="ignore"):
        values = sums / np.where(counts > 0, counts, np.nan)
    groups, number = _grouped(pairs.names, cluster)
    kept = there[:, 0] if len(pairs) else np.zeros(0, dtype=bool)
    source, target, first = number[pairs.source][kept], number[pairs.target][kept], filled[:, 0][kept]
    touched = _touching(source, target, np.ones_like(first), len(groups))
    lost = _touching(source, target, first, len(groups))
    with np.errstate(invalid="ignore", divide="ignore"):
        without = (first.sum() - lost) / np.where(touched < len(first), len(first) - touched, np.nan)
    names = list(groups)
    return Estimate(
        value=float(values[0]),
        replicates=values[1:],
        without={names[g]: float(without[g]) for g in np.flatnonzero(touched)},
        models=_fewest(source, target, len(groups)),
        trials=int(pairs.trials[:, 0].max(initial=0)),
    )


def pooled_rate(pairs: Pairs, cluster: Mapping[str, str]) -> Estimate:
    """All hits by all trials, every trial alike: for pairs of which many have few or none.

    Args:
        pairs: all that are to be in it.
        cluster: as of ``mean_rate``.
    """
    hits, trials = pairs.hits.sum(axis=0), pairs.trials.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = hits / np.where(trials > 0, trials, np.nan)
    groups, number = _grouped(pairs.names, cluster)
    kept = pairs.trials[:, 0] > 0 if len(pairs) else np.zeros(0, dtype=bool)
    source, target = number[pairs.source][kept], number[pairs.target][kept]
    lost = [
        _touching(source, target, counts[:, 0][kept].astype(float), len(groups))
        for counts in (pairs.hits, pairs.trials)
    ]
    left = trials[:1] - lost[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        without = (hits[:1] - lost[0]) / np.where(left > 0, left, np.nan)
    return Estimate(
        value=float(values[0]),
        replicates=values[1:],
        without={name: float(without[place]) for name, place in groups.items() if lost[1][place]},
        models=_fewest(source, target, len(groups)),
        trials=int(trials[0]),
    )


def _grouped(
    models: Sequence[str], cluster: Mapping[str, str]
) -> tuple[dict[str, int], Int[np.ndarray, " models"]]:
    """Clusters by number, and the cluster of every model; one past the last for those in none."""
    groups = {name: number for number, name in enumerate(sorted(set(cluster.values())))}
    numbers = [groups[cluster[name]] if name in cluster else len(groups) for name in models]
    return groups, np.array(numbers, dtype=int)


def _touching(
    source: Int[np.ndarray, " pairs"],
    target: Int[np.ndarray, " pairs"],
    weight: Float[np.ndarray, " pairs"],
    groups: int,
) -> Float[np.ndarray, " groups"]:
    """Sums over the pairs that a group is the source or the target of, each pair once."""
    inside = source == target
    sides = ((source, weight), (target, weight), (source[inside], -weight[inside]))
    sums = [np.bincount(side, of, groups + 1).astype(float) for side, of in sides]  # of none are int
    total: Float[np.ndarray, " groups"] = sums[0] + sums[1] + sums[2]
    return total[:groups]


def _fewest(source: Int[np.ndarray, " pairs"], target: Int[np.ndarray, " pairs"], groups: int) -> int:
    sizes = [len(np.unique(side[side < groups])) for side in (source, target)]
    return min((size for size in sizes if size), default=0)
