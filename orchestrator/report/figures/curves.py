"""Curves of robust accuracy over ε: the paper's Fig. 4, with the adaptive attackers beside plain's."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.models.ensemble import member_names
from orchestrator.models.ref import PLAIN
from orchestrator.report.figures.sheet import PAGE, Sheet, bare, new_figure
from orchestrator.report.grid import Grid, mean
from orchestrator.report.tables import Table
from orchestrator.report.wording import NONE, file_stem, percent, radius_words, threat_words
from orchestrator.transfer.matrix import Panel

Band = Callable[[Sequence[float]], tuple[float, float]]
"""From the robust accuracies of keys to the ends of the band around their mean."""
_PLAIN = "plain, attacked itself"
_MARKS = ("o", "s", "^", "D", "v")
_STROKES = ("-", "--", "-", "-.", ":")


@dataclass(frozen=True)
class Climb:
    """One attack of one method at several radii of one kind of threat, the smallest first."""

    grids: Sequence[Grid]

    @property
    def panel(self) -> Panel:
        """That of the largest radius."""
        return self.grids[-1].panel

    @property
    def title(self) -> str:
        """What the curves are of."""
        return f"{self.panel.method} · {self.panel.attack} · {threat_words(self.panel).split()[0]}"

    @property
    def stem(self) -> str:
        """What the files of its figure are called."""
        return file_stem("curves", self.panel.method, self.panel.attack, self.panel.norm)


@dataclass(frozen=True)
class Curve:
    """One attacker: at every radius, the robust accuracy of every key that it can be tried on."""

    words: str
    radii: Sequence[float]
    rates: Sequence[Sequence[float]]


def extremes(rates: Sequence[float]) -> tuple[float, float]:
    """From the least robust key to the most robust one."""
    return min(rates), max(rates)


def climbs(grids: Iterable[Grid]) -> list[Climb]:
    """What was attacked at two radii or more."""
    found: dict[tuple[str, str, str], list[Grid]] = {}
    for grid in grids:
        found.setdefault((grid.panel.method, grid.panel.attack, grid.panel.norm), []).append(grid)
    return [
        Climb(sorted(steps, key=lambda grid: grid.panel.epsilon))
        for steps in found.values()
        if len(steps) > 1
    ]


def curves(climb: Climb) -> list[Curve]:
    """A curve for every attacker that was tried; radius 0 is the clean accuracy."""
    first = climb.grids[0]
    clean = [first.clean(key).rate for key in first.keys]
    steps = [_attackers(grid) for grid in climb.grids]
    start = dict.fromkeys(steps[0], clean) | {_PLAIN: [first.clean(PLAIN).rate]}
    lines = []
    for words in steps[0]:
        rates = [[rate for rate in step[words] if not math.isnan(rate)] for step in (start, *steps)]
        known = [(radius, some) for radius, some in zip(_radii(climb), rates, strict=True) if some]
        if any(rates[1:]):
            lines.append(Curve(words, *zip(*known, strict=True)))
    return lines


def _radii(climb: Climb) -> list[float]:
    return [0.0, *(grid.panel.epsilon for grid in climb.grids)]


def _attackers(grid: Grid) -> Mapping[str, list[float]]:
    def robust(source: str, target: str) -> float:
        return grid.cell(source, target).robust.rate

    outside = {
        key: [robust(source, key) for source in grid.ensembles if key not in member_names(source)]
        for key in grid.keys
    }
    return {
        _PLAIN: [robust(PLAIN, PLAIN)],
        "non-adaptive, plain": [robust(PLAIN, key) for key in grid.keys],
        "adaptive, other keys": [mean(robust(o, key) for o in grid.others(key)) for key in grid.keys],
        "adaptive, ensembles": [mean(rates) for rates in outside.values()],
        "own key": [robust(key, key) for key in grid.keys],
    }


def draw_curves(climb: Climb, sheet: Sheet, band: Band = extremes) -> Figure:
    """The mean over keys, one line an attacker, with a band around it."""
    width, height = (3.33, 2.75) if sheet is not PAGE else (4.4, 3.5)
    figure = new_figure(sheet, width, height)
    axes = figure.add_axes((0.15, 0.37, 0.825, 0.6))
    bare(axes, sheet)
    scale = 255 if climb.panel.norm in ("linf", "colour") else 1
    lines = curves(climb)
    for number, line in enumerate(lines):
        _draw(axes, line, number, scale, sheet, band)
    axes.set_ylim(-3, 103)
    axes.set_xlim(0, None)
    axes.grid(visible=True, color=sheet.quiet, alpha=0.25, linewidth=0.5)
    axes.set_ylabel("robust accuracy (%)", **sheet.text)
    axes.set_xlabel(radius_words(climb.panel.norm), **sheet.text)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0.01, 0.0), ncols=2, frameon=False,
        columnspacing=1.0, handlelength=2.2, labelcolor=sheet.ink,
        prop={"family": sheet.font, "size": sheet.points - 1},
    )  # fmt: skip
    return figure


def _draw(axes: Axes, line: Curve, number: int, scale: int, sheet: Sheet, band: Band) -> None:
    radii = [scale * radius for radius in line.radii]
    colour = sheet.series[number]
    ends = [band(rates) for rates in line.rates]
    if any(low < high for low, high in ends):
        low, high = ([100 * end for end in side] for side in zip(*ends, strict=True))
        axes.fill_between(radii, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(
        radii, [100 * mean(rates) for rates in line.rates], color=colour, label=line.words,
        marker=_MARKS[number], linestyle=_STROKES[number], markersize=3.5, linewidth=1.3,
    )  # fmt: skip


def curve_table(found: Sequence[Climb]) -> Table:
    """The numbers of the curves: means over keys."""
    rows, header = [], list(dict.fromkeys(line.words for climb in found for line in curves(climb)))
    for climb in found:
        lines = {line.words: dict(zip(line.radii, line.rates, strict=True)) for line in curves(climb)}
        for radius in _radii(climb):
            panel = climb.panel
            threat = (
                threat_words(Panel(panel.method, panel.attack, panel.norm, radius)) if radius else "clean"
            )
            cells = [mean(lines.get(words, {}).get(radius, ())) for words in header]
            rows.append([climb.title, threat, *map(percent, cells)])
    return Table(
        title="Robust accuracy by radius",
        note=f"In %, means over keys; {NONE} where nothing was tried.",
        header=["Method, attack, norm", "Threat", *(words.capitalize() for words in header)],
        rows=rows,
        words=2,
    )
