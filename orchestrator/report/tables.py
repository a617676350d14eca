"""Tables of the report as plain strings: per model, per pair, per stage, and the settings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.models.ref import PLAIN
from orchestrator.report.grid import Grid, lay_out, mean
from orchestrator.report.summary import ModelLine, StudySummary
from orchestrator.report.wording import NONE, duration, interval, percent, threat_words


@dataclass(frozen=True)
class Table:
    """A table ready to be set: every cell is text, in reading order."""

    title: str
    note: str
    """What a reader must know to read it; may be empty."""
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    """How many leading columns hold words rather than numbers; they are set flush left."""
    groups: Sequence[tuple[str, int]] = field(default=())
    """A second header line above the first: a heading and how many columns it spans."""

    @property
    def flat_header(self) -> list[str]:
        """The header on one line, each column under its group's name, for media without spans."""
        spans = [name for name, columns in self.groups for _ in range(columns)]
        above = spans or [""] * len(self.header)
        pairs = zip(above, self.header, strict=True)
        return [f"{name}: {column}" if name else column for name, column in pairs]


_RATES = "Rates in %, with 95 % Wilson intervals over images."


def key_table(summary: StudySummary) -> Table:
    """Every model under every attack and threat: clean, at home, worst other key, from plain."""
    grids = lay_out(summary)
    lines = {(model.method, model.name): model for model in summary.models}
    rows = []
    for attack, threat in dict.fromkeys((g.panel.attack, threat_words(g.panel)) for g in grids):
        chosen = {
            grid.panel.method: grid
            for grid in grids
            if (grid.panel.attack, threat_words(grid.panel)) == (attack, threat)
        }
        for method, name in _models(summary, chosen):
            readings = _model_cells(chosen, method, name)
            trained = _trained(lines.get((method, name)))
            rows.append([name, method, f"{attack}, {threat}", *readings, trained])
    return Table(
        title="Models",
        note=f"{_RATES} Own key: images made on the model itself. Worst other key: the key whose "
        "images fool this model most often. Robust is accuracy over all attacked images, fooled is "
        "the share of eligible images.",
        header=[
            "Model", "Method", "Attack, threat", "Clean", "Own key: robust",
            "Worst other key: fooled", "Which", "From plain: fooled", "Training",
        ],
        rows=rows,
        words=3,
    )  # fmt: skip


def _models(summary: StudySummary, chosen: Mapping[str, Grid]) -> list[tuple[str, str]]:
    listed = [(model.method, model.name) for model in summary.models]
    met = [(method, name) for method, grid in chosen.items() for name in grid.keys]
    plain = [(PLAIN, PLAIN)] if any(PLAIN in grid.names for grid in chosen.values()) else []
    return list(dict.fromkeys(plain + listed + met))


def _model_cells(chosen: Mapping[str, Grid], method: str, name: str) -> list[str]:
    # The undefended model stands in the panel of every method; a key only in its own.
    grids = [grid for of, grid in chosen.items() if name == PLAIN or of == method]
    if not grids:
        return [NONE] * 5
    worst = [(*grid.worst(name), grid.panel.method) for grid in grids]
    counted = [entry for entry in worst if entry[0]]
    source, fooled, of_method = max(counted, key=lambda e: e[1].rate, default=worst[0])
    which = f"{source} ({of_method})" if source and len(grids) > 1 else source
    first = next((grid for grid in grids if (name, name) in grid.cells), grids[0])
    return [
        interval(first.clean(name)),
        interval(first.cell(name, name).robust),
        interval(fooled),
        which or NONE,
        NONE if name == PLAIN else interval(first.cell(PLAIN, name).fooling),
    ]


def _trained(line: ModelLine | None) -> str:
    return duration(line.seconds) if line is not None else NONE


def matrix_table(grid: Grid) -> Table:
    """Every source and target of a panel with its counts; one row per pair that was tried."""
    rows = []
    for source in grid.rows:
        for target in grid.names:
            if (source, target) not in grid.cells:
                continue
            cell = grid.cells[source, target]
            counts = f"{cell.fooled} / {cell.eligible}"
            rows.append([source, target, interval(cell.fooling), counts, interval(cell.robust)])
    return Table(
        title="Every pair",
        note=_RATES,
        header=["Source", "Target", "Fooling rate", "Fooled / eligible", "Robust accuracy"],
        rows=rows,
        words=2,
    )


def source_table(grid: Grid) -> Table:
    """One row per model of a panel, for panels with too many pairs to list each of them."""
    rows = []
    for name in grid.names:
        away = {target: grid.cell(name, target).fooling.rate for target in grid.others(name)}
        counted = {target: rate for target, rate in away.items() if not math.isnan(rate)}
        farthest = max(counted, key=lambda target: counted[target], default="")
        onto = mean(grid.cell(source, name).fooling.rate for source in grid.others(name))
        rows.append(
            [
                name,
                percent(grid.cell(name, name).fooling.rate),
                percent(mean(away.values())),
                f"{percent(counted[farthest])} ({farthest})" if farthest else NONE,
                percent(onto),
                NONE if name == PLAIN else percent(grid.cell(PLAIN, name).fooling.rate),
            ]
        )
    return Table(
        title="Every model",
        note="Fooling rates in %, means over the other keys. Every pair is in matrix.csv.",
        header=[
            "Model", "Fools itself", "Fools other keys, mean", "Fools other keys, most",
            "Fooled by other keys, mean", "Fooled by plain",
        ],
        rows=rows,
    )  # fmt: skip


def stage_table(summary: StudySummary) -> Table:
    """What each stage made and how long it took."""
    rows = [[stage.name, f"{stage.artifacts}", duration(stage.seconds)] for stage in summary.stages]
    return Table(
        title="Stages",
        note="Time is summed over machines.",
        header=["Stage", "Artifacts", "Time"],
        rows=rows,
    )


def settings_table(summary: StudySummary) -> Table:
    """The study's settings, in the order they were given."""
    rows = [[name, value] for name, value in summary.settings.items()]
    return Table(title="Settings", note="", header=["Setting", "Value"], rows=rows, words=2)
