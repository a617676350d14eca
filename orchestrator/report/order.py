"""The order of a heatmap: as the study lists its models, or keys that fall to each other side by side."""

from dataclasses import replace

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from orchestrator.report.grid import Grid

FEWEST = 3
"""Two keys have one order."""


def clustered(grid: Grid) -> Grid:
    """The same panel with its keys seriated: average linkage, leaves in their optimal order.

    Two keys are near where the images of either fool the other: their distance is 1 less the mean of
    the two fooling rates. Plain, controls and ensembles stay where they are.
    """
    if len(grid.keys) < FEWEST:
        return grid
    places = [grid.names.index(key) for key in grid.keys]
    rates = grid.fooling()[np.ix_(places, places)]
    rates = np.where(np.isnan(rates), 0.0, rates)
    distances = 1 - (rates + rates.T) / 2
    np.fill_diagonal(distances, 0.0)
    leaves = leaves_list(linkage(squareform(distances, checks=False), "average", optimal_ordering=True))
    keys = iter([grid.keys[leaf] for leaf in leaves])
    own = set(grid.keys)
    return replace(grid, names=[next(keys) if name in own else name for name in grid.names])
