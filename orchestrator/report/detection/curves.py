"""ROC curves of detectors: what they stop of images that fool, over what they stop of clean ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.detection.guard.findings import DetectionFindings, Roc, SortLine
from orchestrator.detection.origin import Origin
from orchestrator.report.detection.scope import MADE_ON, rate_words, rates_of
from orchestrator.report.figures.gallery import Plate
from orchestrator.report.figures.sheet import PAGE, Sheet, bare, new_figure
from orchestrator.report.wording import file_stem, picture_stem, share, threat_words

_MARKS = ("o", "s", "^", "D", "v", "P", "X")
# By the square root, and for the eye alone: up to 5 % there is a quarter of the width.
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_STEPS = np.linspace(0, 1, 161)
_LEGEND = 20  # characters of a line's name, of which two stand side by side


@dataclass(frozen=True)
class RocChart:
    """All attacks of one method under one threat, on images made on one sort of source."""

    lines: Sequence[SortLine]

    @property
    def origin(self) -> Origin:
        """Whose images they are."""
        return self.lines[0].origin

    @property
    def title(self) -> str:
        """What the curves are of."""
        panel = self.lines[0].panel
        return f"{panel.method} · {threat_words(panel)} · made on {MADE_ON[self.origin]}"

    @property
    def stem(self) -> str:
        """What the files of its figure are called."""
        panel = self.lines[0].panel
        radius = picture_stem(panel).rsplit("-", 1)[1]
        return file_stem("roc", panel.method, panel.norm, radius, self.origin.replace(" ", "_"))


def roc_charts(findings: DetectionFindings) -> list[RocChart]:
    """Charts at the largest radius of every method and norm, one for each sort of source."""
    found: dict[tuple[str, str], dict[float, list[SortLine]]] = {}
    for line in findings.sorts:
        if line.images and len(line.roc.false_positives):
            radii = found.setdefault((line.panel.method, line.panel.norm), {})
            radii.setdefault(line.panel.epsilon, []).append(line)
    return [
        RocChart(lines)
        for radii in found.values()
        for origin in MADE_ON
        if (lines := [line for line in radii[max(radii)] if line.origin == origin])
    ]


def roc_plates(findings: DetectionFindings) -> list[Plate]:
    """The charts, drawn."""
    rates = rates_of(findings)
    return [
        Plate.of(each.title, _told(each, rates), each.stem, partial(draw_rocs, each, rates))
        for each in roc_charts(findings)
    ]


def stopped_at(
    roc: Roc, false_positives: float | Float[np.ndarray, " points"]
) -> Float[np.ndarray, " points"]:
    """The height of a curve; where it rises straight up, its upper end."""
    last = np.append(np.diff(roc.false_positives) > 0, True)
    heights: np.ndarray = np.interp(
        np.atleast_1d(false_positives), roc.false_positives[last], roc.true_positives[last]
    )
    return heights


def draw_rocs(chart: RocChart, rates: Sequence[float], sheet: Sheet) -> Figure:
    """One line an attack, solid where detectors were fitted on it, dashed where not."""
    labels = [_label(line) for line in chart.lines]
    columns = 2 if max(map(len, labels)) <= _LEGEND + 2 else 1
    below = 0.5 + 0.022 * sheet.points * math.ceil(len(labels) / columns)
    width, plot = (3.33, 2.0) if sheet is not PAGE else (4.4, 2.7)
    height = plot + below + 0.1
    figure = new_figure(sheet, width, height)
    axes = figure.add_axes((0.15, below / height, 0.82, plot / height))
    bare(axes, sheet)
    _ground(axes, rates, sheet)
    for number, line in enumerate(chart.lines):
        _draw(axes, line, number, rates, sheet)
    handles, drawn = axes.get_legend_handles_labels()
    figure.legend(
        handles, drawn, loc="lower left", bbox_to_anchor=(0.01, 0.0), ncols=columns, frameon=False,
        columnspacing=1.0, handlelength=2.6, labelcolor=sheet.ink,
        prop={"family": sheet.font, "size": sheet.points - 1},
    )  # fmt: skip
    return figure


def _ground(axes: Axes, rates: Sequence[float], sheet: Sheet) -> None:
    """Axes, the rates that were asked for, and what guessing would stop."""
    ticks = sorted({*_TICKS, *rates})
    axes.set_xlim(0, 1)
    axes.set_ylim(-2, 102)
    axes.set_xticks([math.sqrt(tick) for tick in ticks], [f"{100 * tick:g}" for tick in ticks])
    for rate in rates:
        axes.axvline(math.sqrt(rate), color=sheet.quiet, alpha=0.6, linewidth=0.8)
    axes.grid(visible=True, axis="y", color=sheet.quiet, alpha=0.25, linewidth=0.5)
    axes.plot(_STEPS, 100 * _STEPS**2, color=sheet.quiet, linewidth=0.8, linestyle=":")
    axes.set_xlabel("clean images stopped (%, square-root scale)", **sheet.text)
    axes.set_ylabel("fooling images stopped (%)", **sheet.text)


def _draw(axes: Axes, line: SortLine, number: int, rates: Sequence[float], sheet: Sheet) -> None:
    style: dict[str, Any] = {
        "color": sheet.series[number % len(sheet.series)],
        "marker": _MARKS[number % len(_MARKS)],
        "linestyle": "-" if line.seen else "--",
        "markersize": 3.5,
        "linewidth": 1.3,
    }
    places = np.sort(np.append(_STEPS, np.sqrt(rates)))
    marked = np.searchsorted(places, np.sqrt(rates)).tolist()
    heights = 100 * stopped_at(line.roc, places**2)
    axes.plot(places, heights, label=_label(line), markevery=marked, **style)


def _label(line: SortLine) -> str:
    return f"{line.panel.attack}, {'seen' if line.seen else 'unseen'}"


def _told(chart: RocChart, rates: Sequence[float]) -> str:
    ends = [
        f"{_label(line)} {' / '.join(share(float(stopped_at(line.roc, rate)[0])) for rate in rates)}"
        for line in chart.lines
    ]
    return (
        f"ROC curves, {chart.title}. Where {' / '.join(map(rate_words, rates))} of clean images are "
        f"stopped, so many that fool are: {'; '.join(ends)}."
    )
