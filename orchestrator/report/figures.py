"""The transfer heatmap as PNG: the same grid gives the same bytes.

Matplotlib's objects are used directly: pyplot keeps a global list of figures, and a report may be
written by any thread of any worker.
"""

import math
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from orchestrator.models.ref import PLAIN
from orchestrator.report.grid import Grid
from orchestrator.report.wording import NONE, panel_words

DOTS_PER_INCH = 144
MOST_NUMBERED = 17  # 16 keys and plain: beyond that a number no longer fits in its cell
_MOST_RULED = 40  # beyond that the rules between cells would hide the cells
_FONT = "DejaVu Sans"  # comes with matplotlib, so labels look the same everywhere
_COLOURS = matplotlib.colormaps["cividis"]  # even steps of lightness, for colour-blind readers too


@dataclass(frozen=True)
class _Sheet:
    """Colours of the ground and of what is written on it, and sizes in inches and points."""

    paper: str
    ink: str
    missing: str
    side: float
    label_points: float
    label_room: float


def heatmap_png(grid: Grid, *, dark: bool = False) -> bytes:
    """Fooling rates of a grid, source by target, as a PNG on light or dark ground."""
    sheet = _plan(grid, dark=dark)
    left, bottom, top, right = sheet.label_room + 0.45, sheet.label_room + 0.45, 0.5, 1.25
    width, height = left + sheet.side + right, bottom + sheet.side + top
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor=sheet.paper)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes(
        (left / width, bottom / height, sheet.side / width, sheet.side / height),
        facecolor=sheet.missing,
    )
    bar = figure.add_axes(
        ((left + sheet.side + 0.25) / width, bottom / height, 0.16 / width, sheet.side / height)
    )
    rates = grid.fooling()
    image = axes.imshow(rates, cmap=_COLOURS, vmin=0.0, vmax=1.0, interpolation="nearest")
    _label(axes, grid, sheet)
    _rule(axes, grid, sheet)
    _mark(axes, rates, sheet)
    _scale(figure.colorbar(image, cax=bar), sheet)
    figure.text(
        left / width, 1 - 0.32 / height, panel_words(grid.panel),
        color=sheet.ink, fontsize=11, family=_FONT, weight="bold", parse_math=False,
    )  # fmt: skip
    picture = BytesIO()
    canvas.print_png(picture, metadata={"Software": None})
    return picture.getvalue()


def _plan(grid: Grid, *, dark: bool) -> _Sheet:
    cell = min(max(10 / len(grid.names), 0.085), 0.85)
    points = min(9.5, cell * 72 * 0.8)
    longest = max(len(name) for name in grid.names)
    return _Sheet(
        paper="#14171c" if dark else "#ffffff",
        ink="#d9dde3" if dark else "#20262e",
        missing="#3a3f47" if dark else "#d5d8dc",
        side=cell * len(grid.names),
        label_points=points,
        # A character of this font is about 0.58 of its height wide.
        label_room=longest * points * 0.58 / 72 + 0.1,
    )


def _label(axes: Axes, grid: Grid, sheet: _Sheet) -> None:
    places = range(len(grid.names))
    written: dict[str, Any] = {"fontsize": sheet.label_points, "family": _FONT, "parse_math": False}
    axes.set_yticks(places, grid.names, **written)
    axes.set_xticks(places, grid.names, **written, rotation=90)
    axes.tick_params(length=0, colors=sheet.ink, pad=4)
    titled: dict[str, Any] = {"color": sheet.ink, "fontsize": 10.5, "family": _FONT}
    axes.set_ylabel("source (attacked)", **titled)
    axes.set_xlabel("target (tried on)", **titled)
    axes.spines[:].set_visible(False)


def _rule(axes: Axes, grid: Grid, sheet: _Sheet) -> None:
    edges = np.arange(1, len(grid.names)) - 0.5
    if len(grid.names) <= _MOST_RULED:
        axes.vlines(edges, -0.5, len(grid.names) - 0.5, colors=sheet.paper, linewidth=0.8)
        axes.hlines(edges, -0.5, len(grid.names) - 0.5, colors=sheet.paper, linewidth=0.8)
    if grid.names[0] == PLAIN and len(grid.names) > 1:
        # The undefended model is another kind of row and column: set it apart.
        gap = min(3.0, sheet.side / len(grid.names) * 72 * 0.25)
        axes.axvline(0.5, color=sheet.paper, linewidth=gap)
        axes.axhline(0.5, color=sheet.paper, linewidth=gap)


def _mark(axes: Axes, rates: np.ndarray, sheet: _Sheet) -> None:
    count = len(rates)
    size = min(13.0, sheet.side / count * 72 * 0.27)
    for row, column in np.ndindex(rates.shape):
        rate = float(rates[row, column])
        ink = _ink_on(rate, sheet)
        if row == column:
            # A frame inside the cell, in whichever ink shows on it: a model read by itself.
            axes.add_patch(
                Rectangle(
                    (column - 0.4, row - 0.4), 0.8, 0.8, fill=False, edgecolor=ink,
                    linewidth=min(1.6, 20 / count + 0.3),
                )
            )  # fmt: skip
        if count <= MOST_NUMBERED:
            axes.text(
                column, row, _number(rate),
                color=ink, fontsize=size, family=_FONT, ha="center", va="center",
            )  # fmt: skip


def _number(rate: float) -> str:
    return NONE if math.isnan(rate) else f"{100 * rate:.0f}%"


def _ink_on(rate: float, sheet: _Sheet) -> str:
    if math.isnan(rate):
        return sheet.ink
    red, green, blue, _ = _COLOURS(rate)
    # Relative luminance (ITU-R BT.709 weights), without the gamma: close enough to choose an ink.
    return "#101418" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.5 else "#ffffff"


def _scale(bar: matplotlib.colorbar.Colorbar, sheet: _Sheet) -> None:
    bar.outline.set_visible(False)
    bar.set_ticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:.0f}"))
    bar.ax.tick_params(length=0, colors=sheet.ink, labelsize=9, labelfontfamily=_FONT)
    bar.set_label("fooling rate (%)", color=sheet.ink, fontsize=10.5, family=_FONT)
