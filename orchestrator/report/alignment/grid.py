"""AlignedGrid: mean cosines of input gradients in a panel's reading order, and what they say of keys."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from orchestrator.models.ref import PLAIN
from orchestrator.report.grid import Grid
from orchestrator.report.key_effect import of_kind, twin_pairs
from orchestrator.statistics.estimate import Estimate
from orchestrator.statistics.pairs import Pairs, mean_rate
from orchestrator.statistics.proportion import Interval
from orchestrator.statistics.rank_correlation import rank_correlation
from orchestrator.transfer.alignment.measured import Alignment
from orchestrator.transfer.matrix import Measure


@dataclass(frozen=True)
class AlignedGrid(Grid):
    """The models of a panel that were compared, with cosines in the place of fooling rates."""

    alignment: Alignment | None = None

    @classmethod
    def beside(cls, fooled: Grid, alignment: Alignment) -> "AlignedGrid":
        """The same models in the same order; ensembles have no gradient of their own."""
        there = frozenset(alignment.pairs.names)
        names = [name for name in fooled.names if name in there]
        return cls(fooled.panel, names, {}, (), fooled.twins, None, alignment)

    def rate(self, source: str, target: str) -> Interval:
        """The mean cosine of two models, with its interval over images."""
        assert self.alignment is not None  # noqa: S101 - made by ``beside`` alone
        return self.alignment.cosine(source, target)

    def pairs(self, measure: Measure = "fooling") -> Pairs:
        """Cosines as sums and images, whatever the measure."""
        del measure
        assert self.alignment is not None  # noqa: S101 - made by ``beside`` alone
        return self.alignment.pairs


@dataclass(frozen=True)
class Likeness:
    """The mean cosine over pairs of models of one kind."""

    words: str
    pairs: int
    """Unordered ones."""
    cosine: Estimate


def likenesses(grid: AlignedGrid) -> Iterator[Likeness]:
    """Every kind of pairs that there is, two keys first."""
    pairs, keys, seeds = grid.pairs(), grid.keys, of_kind(grid, "seed")
    kinds = {
        "two keys": pairs.among(keys, keys),
        "a key and plain": pairs.among(keys, [PLAIN]),
        "same function, re-keyed": twin_pairs(grid, pairs, "rekeyed"),
        "same key, trained anew": twin_pairs(grid, pairs, "same-key"),
        "no key, two trainings": pairs.among(seeds, seeds),
        "a key and a training without one": pairs.among(keys, seeds),
    }
    for words, some in kinds.items():
        if len(some):
            both_ways = len({*some.source.tolist()} & {*some.target.tolist()}) > 0
            # No counts, of which a trial more could show something: where nothing differs, nothing does.
            mean = replace(mean_rate(some, grid.clusters), bounds=(-1.0, 1.0), trials=0)
            yield Likeness(words, len(some) // (2 if both_ways else 1), mean)


def correlation(fooled: Grid, aligned: AlignedGrid) -> Estimate:
    """Over ordered pairs of keys: how their cosine and their fooling rate go together, by ranks."""
    keys = aligned.keys
    of_both = (aligned.pairs().among(keys, keys), fooled.pairs().among(keys, keys))
    return rank_correlation(*of_both, fooled.clusters)
