"""The heatmap of a panel: rates, sources by targets, on the page or in a paper's column."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from orchestrator.models.ensemble import member_names
from orchestrator.models.ref import PLAIN
from orchestrator.report.figures.sheet import PAGE, Sheet, new_figure
from orchestrator.report.grid import Grid
from orchestrator.report.wording import NONE

_MOST_NUMBERED = 17  # 16 keys and plain: beyond that a number no longer fits in its cell
_MOST_BOUNDED = 8  # up to here there is room for the interval below the number
_MOST_RULED = 40  # beyond that the rules between cells would hide the cells
_MOST_DRAWN = 512
_LONGEST = 20  # characters of a row's name; the names of ensembles list their members
_COLOURS = matplotlib.colormaps["cividis"]  # even steps of lightness, for colour-blind readers too
# A character of the font is about this part of its height wide.
_WIDE = 0.6


@dataclass(frozen=True)
class Scale:
    """What the colours of a heatmap mean."""

    words: str
    power: float
    """Of the rate, which colours follow."""
    marks: Sequence[float]
    sides: tuple[str, str] = ("source (attacked)", "target (tried on)")
    """Of rows and columns."""

    @property
    def stretched(self) -> PowerNorm:
        """From a rate to its place among the colours."""
        return PowerNorm(self.power, vmin=0, vmax=1)


# By the square root: most pairs lie below 20 %, where a matrix of many keys has all its structure.
FOOLED = Scale("fooled (%)", 0.5, (0.0, 0.05, 0.2, 0.5, 1.0))
STOPPED = Scale("stopped (%)", 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))
ALIGNED = Scale("cosine × 100", 0.5, (0.0, 0.05, 0.2, 0.5, 1.0), ("model", "model"))


@dataclass(frozen=True)
class Heatmap:
    """A drawn heatmap, and where in it the cells are."""

    figure: Figure
    box: tuple[float, float, float, float]
    """Left, top, width and height of the cells as parts of the figure's."""
    bounded: bool
    """Whether an interval is written below each number."""


@dataclass(frozen=True)
class _Layout:
    """Sizes in inches, and of names in points."""

    cell: float
    points: float
    left: float
    below: float
    above: float = 0.12
    right: float = 0.7


def is_drawn(grid: Grid) -> bool:
    """Whether a panel is small enough for a picture in which a cell can be seen."""
    return len(grid.rows) <= _MOST_DRAWN


def draw_heatmap(grid: Grid, sheet: Sheet, scale: Scale = FOOLED) -> Heatmap:
    """Fooling rates of a grid, or what stands in their place; sources in rows, targets in columns."""
    layout, rows, columns = _plan(grid, sheet), len(grid.rows), len(grid.names)
    wide, high = layout.cell * columns, layout.cell * rows
    width, height = layout.left + wide + layout.right, layout.above + high + layout.below
    figure = new_figure(sheet, width, height)
    box = (layout.left / width, layout.below / height, wide / width, high / height)
    axes = figure.add_axes(box)
    axes.patch.set_facecolor(sheet.missing)
    # In SVG a cell is one pixel, and the reader's screen enlarges it; paper gets pixels of its own.
    how = "none" if sheet.on_page else "nearest"
    axes.imshow(grid.fooling(), cmap=_COLOURS, norm=scale.stretched, interpolation=how, aspect="auto")
    _label(axes, grid, sheet, layout, scale)
    _rule(axes, grid, sheet, layout)
    _mark(axes, grid, sheet, layout, scale)
    tall = min(high, 2.4)
    left, bottom = (width - layout.right + 0.1) / width, 1 - (layout.above + tall) / height
    _scale(figure.add_axes((left, bottom, 0.1 / width, tall / height)), sheet, scale)
    return Heatmap(figure, (box[0], layout.above / height, box[2], box[3]), _bounded(grid, sheet))


def _plan(grid: Grid, sheet: Sheet) -> _Layout:
    longest = max(len(_short(grid, name)) for name in grid.rows)
    titled = 2.4 * sheet.points / 72

    def room(points: float) -> float:
        return longest * points * _WIDE / 72 + titled if _named(points) else titled * 1.7

    # Names are as large as their row is high; where that leaves too little of the width, both shrink.
    points, cell = sheet.points, sheet.cell
    for _ in range(20):
        cell = min(sheet.cell, (sheet.width - room(points) - _Layout.right) / len(grid.names))
        points = min(sheet.points, cell * 72 * 0.85)
    return _Layout(cell=cell, points=points, left=room(points), below=room(points))


def _named(points: float) -> bool:
    return points >= 4.5


def _short(grid: Grid, name: str) -> str:
    if name not in grid.ensembles or len(name) <= _LONGEST:
        return name
    return f"ensemble {grid.ensembles.index(name) + 1}"


def _label(axes: Axes, grid: Grid, sheet: Sheet, layout: _Layout, scale: Scale) -> None:
    axes.spines[:].set_visible(False)
    titled: dict[str, Any] = {**sheet.text, "labelpad": 4}
    axes.set_ylabel(scale.sides[0], **titled)
    axes.set_xlabel(scale.sides[1], **titled)
    written = {**sheet.text, "fontsize": layout.points}
    if _named(layout.points):
        axes.set_yticks(range(len(grid.rows)), [_short(grid, name) for name in grid.rows], **written)
        axes.set_xticks(
            range(len(grid.names)), grid.names, **written,
            rotation=90, ha="right", va="center", rotation_mode="anchor",
        )  # fmt: skip
    else:  # names would be specks: say what kind of rows these are
        kinds = _kinds(grid)
        axes.set_yticks(list(kinds), list(kinds.values()), **written | {"fontsize": sheet.points - 1})
        first = {place: words for place, words in kinds.items() if place < len(grid.names)}
        axes.set_xticks(list(first), list(first.values()), **written | {"fontsize": sheet.points - 1})
        axes.tick_params(axis="y", labelrotation=90)
        for label in axes.get_yticklabels():
            label.set_verticalalignment("center")
    axes.tick_params(length=0, pad=5)


def _kinds(grid: Grid) -> dict[float, str]:
    """The middle of every kind of rows, where there are enough of them to be named."""
    last = "ensembles" if all(len(member_names(name)) > 1 for name in grid.ensembles) else "other sources"
    counts = {"keys": grid.keys, "controls": grid.controls, last: grid.ensembles}
    above, kinds = float(PLAIN in grid.names), {}
    for words, names in counts.items():
        if len(names) > len(grid.rows) / 12:
            kinds[above + len(names) / 2 - 0.5] = f"{len(names)} {words}"
        above += len(names)
    return kinds


def _rule(axes: Axes, grid: Grid, sheet: Sheet, layout: _Layout) -> None:
    wide, high = len(grid.names) - 0.5, len(grid.rows) - 0.5
    if len(grid.rows) <= _MOST_RULED:
        drawn: dict[str, Any] = {"colors": sheet.paper, "linewidth": min(0.8, layout.cell * 4)}
        axes.vlines(np.arange(1, len(grid.names)) - 0.5, -0.5, high, **drawn)
        axes.hlines(np.arange(1, len(grid.rows)) - 0.5, -0.5, wide, **drawn)
    # Plain, controls and ensembles are other kinds of rows: set them apart.
    gap: dict[str, Any] = {"colors": sheet.paper, "linewidth": min(4.0, max(1.0, layout.cell * 72 * 0.3))}
    axes.vlines([seam - 0.5 for seam in grid.seams if seam < len(grid.names)], -0.5, high, **gap)
    axes.hlines([seam - 0.5 for seam in grid.seams], -0.5, wide, **gap)


def _mark(axes: Axes, grid: Grid, sheet: Sheet, layout: _Layout, scale: Scale) -> None:
    numbered = len(grid.names) <= _MOST_NUMBERED
    bounded = _bounded(grid, sheet)
    for row, source in enumerate(grid.rows):
        for column, target in enumerate(grid.names):
            if not numbered and source != target:
                continue
            fooling = grid.rate(source, target)
            ink = _ink_on(fooling.rate, sheet, scale)
            if source == target:
                _frame(axes, row, ink, layout)
            if numbered:
                size = min(sheet.points * 1.3, layout.cell * 72 * 0.33)
                written = {**sheet.text, "color": ink, "ha": "center", "va": "center"}
                lift = 0.09 if bounded else 0
                axes.text(column, row - lift, _number(fooling.rate), **written | {"fontsize": size})
                if bounded and not math.isnan(fooling.rate):
                    ends = f"{100 * fooling.low:.0f}–{100 * fooling.high:.0f}"
                    axes.text(column, row + 0.22, ends, **written | {"fontsize": size * 0.62})


def _bounded(grid: Grid, sheet: Sheet) -> bool:
    return len(grid.names) <= _MOST_BOUNDED and sheet is PAGE


def _frame(axes: Axes, place: int, ink: str, layout: _Layout) -> None:
    """A frame inside the cell, in whichever ink shows on it: a model read by itself."""
    width = min(1.4, layout.cell * 72 * 0.08)
    side = 0.82
    corner = (place - side / 2, place - side / 2)
    axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=ink, linewidth=width))


def _number(rate: float) -> str:
    return NONE if math.isnan(rate) else f"{100 * rate:.0f}"


def _ink_on(rate: float, sheet: Sheet, scale: Scale) -> str:
    if math.isnan(rate):
        return sheet.ink
    red, green, blue, _ = _COLOURS(float(scale.stretched(rate)))
    # Relative luminance (ITU-R BT.709 weights), without the gamma: close enough to choose an ink.
    return "#101418" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.5 else "#ffffff"


def _scale(bar: Axes, sheet: Sheet, scale: Scale) -> None:
    ramp = np.linspace(0, 1, 256)[:, None]
    drawn: dict[str, Any] = {"cmap": _COLOURS, "aspect": "auto", "origin": "lower", "interpolation": "none"}
    bar.imshow(ramp, **drawn, extent=(0, 1, 0, 100))
    bar.spines[:].set_visible(False)
    bar.yaxis.tick_right()
    bar.yaxis.set_label_position("right")
    written = {**sheet.text, "fontsize": sheet.points - 1}
    bar.set_xticks([])
    bar.set_yticks(
        [100 * float(scale.stretched(mark)) for mark in scale.marks],
        [f"{100 * mark:.0f}" for mark in scale.marks],
        **written,
    )
    bar.set_ylabel(scale.words, **written, labelpad=1)
    bar.tick_params(length=0, pad=2)
