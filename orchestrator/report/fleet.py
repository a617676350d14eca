"""The fleet in a few numbers: how far images travel between keys, with intervals over keys and images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.report.certainty import cost_of_sources
from orchestrator.report.grid import Grid
from orchestrator.report.tables import Table
from orchestrator.report.verdict import read_headline
from orchestrator.report.wording import NONE, interval, percent
from orchestrator.statistics.estimate import Estimate
from orchestrator.statistics.pairs import Pairs, mean_rate
from orchestrator.statistics.proportion import Interval
from orchestrator.transfer.matrix import Measure

# A key has fallen to a source that fools it with at least so many of its eligible images.
FALLEN = 0.5


@dataclass(frozen=True)
class Fleet:
    """One panel's keyed models as a whole; rates in [0, 1], nan where nothing was counted."""

    between: Estimate
    """From one key to another: fooled of eligible."""
    misread: Estimate
    """From one key to another: misread afterwards of all images, whether read right before or not."""
    worst: tuple[str, str, Interval]
    """The pair fooled most: source, target, rate with Wilson's interval."""
    source: tuple[str, Estimate]
    """The key whose images fool the others most, on average over targets."""
    fallen: tuple[int, int]
    """Keys that one other key's images fool at least half the time, and of how many."""
    together: Estimate
    """Robust accuracy of a key against one who tries every other key's image; mean over keys."""


def read_fleet(grid: Grid) -> Fleet:
    """The numbers of a panel's fleet."""
    pairs = grid.pairs().among(grid.keys, grid.keys)
    return Fleet(
        between=mean_rate(pairs, grid.clusters),
        misread=between_keys(grid, "misread"),
        worst=read_headline(grid).worst,
        source=_worst_source(grid, pairs),
        fallen=_fallen(pairs),
        together=_together(grid),
    )


def between_keys(grid: Grid, measure: Measure = "fooling") -> Estimate:
    """The mean from one key to another, every pair alike."""
    return mean_rate(grid.pairs(measure).among(grid.keys, grid.keys), grid.clusters)


def fleet_table(grid: Grid) -> Table:
    """The panel's fleet, one number a row, each with its 95 % interval and what it is of."""
    fleet = read_fleet(grid)
    source, target, worst = fleet.worst
    fallen, of = fleet.fallen
    rows = [
        ["Key to another key, fooled", "eligible images, mean over pairs", estimated(fleet.between)],
        ["Key to another key, misread", "all images, mean over pairs", estimated(fleet.misread)],
        ["Worst pair, fooled", f"{source} → {target}" if source else NONE, interval(worst)],
        ["Most dangerous source, fooled", fleet.source[0] or NONE, estimated(fleet.source[1])],
        [
            "Keys that fall to one source",
            "half or more of eligible images fooled by the worst other key's",
            f"{percent(fallen / of)} ({fallen} of {of})" if of else NONE,
        ],
        [
            "Against all other keys' images, robust",
            "all images, mean over keys; read right whichever other key's is shown",
            estimated(fleet.together),
        ],
    ]
    return Table(
        title="Fleet",
        note=_note(grid, [fleet.between, fleet.misread, fleet.together]),
        header=["Measure", "Of", "%"],
        rows=rows,
        words=2,
    )


def estimated(estimate: Estimate) -> str:
    """An estimate with its interval in percent; without one where no images were redrawn."""
    found = estimate.interval()
    return percent(found.rate) if math.isnan(found.low) else interval(found)


def reach(estimates: Sequence[Estimate]) -> str:
    """What the intervals of some estimates are over, in words."""
    told = [each for each in estimates if math.isfinite(each.value)]
    if any(math.isnan(each.image_variance) for each in told):
        return "Images were not redrawn, so means have no intervals."
    if all(each.over_keys for each in told):
        return "95 % intervals of means are over keys and images."
    return (
        "95 % intervals of means are over images alone where fewer than three models stand behind them: "
        "how other keys would differ cannot be told from so few."
    )


def _note(grid: Grid, estimates: Sequence[Estimate]) -> str:
    cost = cost_of_sources(grid)
    told = (
        f"{reach(estimates)} A worst pair or source is the highest of many: some of its height is chance."
    )
    return f"{told} {cost.sentence}" if cost else told


def _worst_source(grid: Grid, pairs: Pairs) -> tuple[str, Estimate]:
    found = []
    for name in grid.keys:
        clusters = {key: of for key, of in grid.clusters.items() if key != name}
        found.append((name, mean_rate(pairs.among([name], grid.keys), clusters)))
    counted = [entry for entry in found if math.isfinite(entry[1].value)]
    return max(counted, key=lambda entry: entry[1].value, default=("", mean_rate(pairs.among([], []), {})))


def _fallen(pairs: Pairs) -> tuple[int, int]:
    rates = pairs.rates[:, 0]
    tried = np.isfinite(rates)
    return (
        len(np.unique(pairs.target[tried & (rates >= FALLEN)])),
        len(np.unique(pairs.target[tried])),
    )


def _together(grid: Grid) -> Estimate:
    union = grid.matrix.union if grid.matrix is not None else None
    if union is None:
        return mean_rate(grid.pairs("robust").among([], []), {})
    return mean_rate(union.pairs(grid.panel, "robust"), grid.clusters)
