"""Dot plots: attacks compared, and rates with their intervals, one line each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.report.attackers import attackers
from orchestrator.report.figures.sheet import PAGE, Sheet, bare, new_figure
from orchestrator.report.grid import Grid
from orchestrator.report.wording import file_stem, threat_words

_ROW = 0.23  # inches


@dataclass(frozen=True)
class Rate:
    """A rate in [0, 1] with the ends of its interval, and what it is of."""

    label: str
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """All attacks of one method under one threat."""

    grids: Sequence[Grid]

    @property
    def title(self) -> str:
        """What is compared."""
        return f"{self.grids[0].panel.method} · {threat_words(self.grids[0].panel)}"

    @property
    def stem(self) -> str:
        """What the files of its figure are called."""
        panel = self.grids[0].panel
        radius = threat_words(panel).rsplit(" ", 1)[1].replace("/", "of")
        return file_stem("attacks", panel.method, panel.norm, radius)


def comparisons(grids: Sequence[Grid]) -> list[Comparison]:
    """Attacks to be compared: at the largest radius of every method and norm."""
    found: dict[tuple[str, str], dict[float, list[Grid]]] = {}
    for grid in grids:
        radii = found.setdefault((grid.panel.method, grid.panel.norm), {})
        radii.setdefault(grid.panel.epsilon, []).append(grid)
    return [Comparison(radii[max(radii)]) for radii in found.values()]


def draw_attacks(comparison: Comparison, sheet: Sheet) -> Figure:
    """Own keys, other keys on average, and the other key that falls most: three marks a line."""
    rows = [
        (f"{grid.panel.attack}, {line.kind}", line) for grid in comparison.grids for line in attackers(grid)
    ]
    figure, axes = _lines([label for label, _ in rows], sheet, below=0.62)
    marks: Mapping[str, dict[str, Any]] = {
        "other keys, mean": {"marker": "o", "color": sheet.series[1]},
        "other keys, most": {"marker": ">", "color": sheet.series[2]},
        "own keys": {"marker": "D", "color": sheet.series[0], "markerfacecolor": "none"},
    }
    for place, (_, line) in enumerate(rows):
        span = [100 * line.others, 100 * line.most]
        axes.plot(span, [place, place], color=sheet.series[1], linewidth=1, alpha=0.6)
    for (words, style), name in zip(marks.items(), ("others", "most", "own"), strict=True):
        rates = [100 * getattr(line, name) for _, line in rows]
        axes.plot(
            rates, range(len(rows)), linestyle="none", markersize=4.5, label=words, clip_on=False, **style
        )
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower center", ncols=3, frameon=False, columnspacing=1, handletextpad=0.2,
        labelcolor=sheet.ink, prop={"family": sheet.font, "size": sheet.points - 1},
    )  # fmt: skip
    return figure


def draw_rates(rates: Sequence[Rate], sheet: Sheet) -> Figure:
    """One dot a rate, with its interval as a line."""
    figure, axes = _lines([rate.label for rate in rates], sheet, below=0.4)
    for place, rate in enumerate(rates):
        colour = sheet.series[1]
        axes.plot([100 * rate.low, 100 * rate.high], [place, place], color=colour, linewidth=2, alpha=0.55)
        axes.plot([100 * rate.rate], [place], color=colour, marker="o", markersize=4.5, clip_on=False)
    return figure


def _lines(labels: Sequence[str], sheet: Sheet, below: float) -> tuple[Figure, Axes]:
    """An empty plot of percentages with a line for each label, the first on top."""
    points = sheet.points - 0.5
    left = min(0.56 * sheet.width, max(map(len, labels), default=0) * points * 0.6 / 72 + 0.1)
    width = 3.33 if sheet is not PAGE else left + 3.2
    height = below + _ROW * sheet.points / 8 * len(labels) + 0.1
    figure = new_figure(sheet, width, height)
    box = (left / width, below / height, 1 - (left + 0.14) / width, 1 - (below + 0.08) / height)
    axes = figure.add_axes(box)
    bare(axes, sheet)
    axes.set_xlim(-1.5, 101.5)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), labels, **{**sheet.text, "fontsize": points})
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=True, axis="both", color=sheet.quiet, alpha=0.2, linewidth=0.5)
    axes.set_xlabel("fooling rate (%)", **{**sheet.text, "labelpad": 2})
    return figure, axes
