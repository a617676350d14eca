"""Grid: one panel in reading order, plain first, with the readings that pages and figures share."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from orchestrator.models.control import control_of
from orchestrator.models.ensemble import member_names
from orchestrator.models.ref import PLAIN
from orchestrator.report.summary import StudySummary
from orchestrator.statistics.pairs import Pairs
from orchestrator.statistics.proportion import Interval
from orchestrator.transfer.matrix import MATRIX_SCHEMA, Cell, Measure, Panel, TransferMatrix

# What a missing cell reads as: nothing was counted, so every rate of it is nan.
_NOTHING = Cell(n=0, clean_correct=0, adv_correct=0, eligible=0, fooled=0)


@dataclass(frozen=True)
class Grid:
    """One panel with a reading order: ``names`` label columns (targets) and the first rows (sources)."""

    panel: Panel
    names: Sequence[str]
    cells: Mapping[tuple[str, str], Cell]
    ensembles: Sequence[str] = ()
    """Sources that are no targets, mostly of several models: the last rows."""
    twins: Mapping[str, str] = field(default_factory=dict)
    """Of each control that has the key of a slot, or its weights, that slot's key id."""
    matrix: TransferMatrix | None = None
    """All panels, with their draws where they were counted."""

    def cell(self, source: str, target: str) -> Cell:
        """The counts of one pair; all zero where the pair was never tried."""
        return self.cells.get((source, target), _NOTHING)

    @property
    def rows(self) -> list[str]:
        """All sources, from top to bottom."""
        return [*self.names, *self.ensembles]

    @property
    def keys(self) -> list[str]:
        """The keyed models, in reading order; controls are apart."""
        return [name for name in self.names if name != PLAIN and not is_control(name)]

    @property
    def controls(self) -> list[str]:
        """The controls, in reading order."""
        return [name for name in self.names if is_control(name)]

    @property
    def clusters(self) -> dict[str, str]:
        """What every model is left out with, to see how much depends on a key; plain always stays."""
        models = [*(name for name in self.names if name != PLAIN), *self.ensembles]
        return {name: self.twins.get(name, name) for name in models}

    @property
    def seams(self) -> list[int]:
        """Where one kind of row ends and another begins, as numbers of rows above."""
        ends = np.cumsum([PLAIN in self.names, len(self.keys), len(self.controls), len(self.ensembles)])
        return sorted({int(end) for end in ends} - {0, len(self.rows)})

    def others(self, target: str) -> list[str]:
        """The keyed sources a target is compared with: every key but its own."""
        return [source for source in self.keys if source not in (target, self.twins.get(target))]

    def pairs(self, measure: Measure = "fooling") -> Pairs:
        """The counts of all pairs with their draws, for means and their intervals."""
        matrix = self.matrix or TransferMatrix(MATRIX_SCHEMA.empty_table())
        return matrix.pairs(self.panel, measure)

    def rate(self, source: str, target: str) -> Interval:
        """What stands in a cell of the heatmap: the fooling rate, or what is shown in its place."""
        return self.cell(source, target).fooling

    def fooling(self) -> np.ndarray:
        """Fooling rates in [0, 1], all sources by all targets; nan where nothing was eligible."""
        return np.array([[self.rate(s, t).rate for t in self.names] for s in self.rows])

    def clean(self, target: str) -> Interval:
        """Clean accuracy of a target, from whichever of its cells saw the most images."""
        cells = [cell for (_, name), cell in self.cells.items() if name == target]
        return max(cells, key=lambda cell: cell.n, default=_NOTHING).clean

    def worst(self, target: str) -> tuple[str, Interval]:
        """The other key whose images fool a target most often; an empty name where none counts."""
        tried = [(name, self.cell(name, target).fooling) for name in self.others(target)]
        counted = [pair for pair in tried if not math.isnan(pair[1].rate)]
        return max(counted, key=lambda pair: pair[1].rate, default=("", _NOTHING.fooling))


def is_control(name: str) -> bool:
    """Whether a model is no key of the fleet, but shows what a key is to be compared with."""
    return control_of(name) is not None


def lay_out(summary: StudySummary) -> list[Grid]:
    """Every panel of a study as a grid, keys in the order in which the models are listed, then controls."""
    listed = dict.fromkeys([PLAIN, *(model.name for model in summary.models)])
    twins = {model.name: model.twin for model in summary.models if model.twin}
    grids = []
    for panel in summary.matrix.panels():
        cells = summary.matrix.cells(panel)
        ensembles = dict.fromkeys(source for source, _ in cells if len(member_names(source)) > 1)
        present = dict.fromkeys(name for pair in cells for name in pair if name not in ensembles)
        unlisted = [name for name in present if name not in listed]
        names = sorted([*(name for name in listed if name in present), *unlisted], key=is_control)
        grids.append(Grid(panel, names, cells, list(ensembles), twins, summary.matrix))
    return grids


def mean(values: Iterable[float]) -> float:
    """The mean of the numbers among values, nan where there are none."""
    numbers = [value for value in values if not math.isnan(value)]
    return fmean(numbers) if numbers else math.nan
