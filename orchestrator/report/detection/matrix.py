"""The detection matrix: of images that fool a target, how many its own detector stops, source by source."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from markupsafe import Markup

from orchestrator.detection.guard.findings import DetectionFindings
from orchestrator.report.detection.scope import at_largest, rate_words, rates_of, told_rate
from orchestrator.report.figures.heatmap import FOOLED, STOPPED, Scale, draw_heatmap, is_drawn
from orchestrator.report.figures.sheet import COLUMN, HALF_PAGE, inline_svg, paper_files
from orchestrator.report.grid import Grid, lay_out
from orchestrator.report.summary import StudySummary
from orchestrator.report.tables import Table
from orchestrator.report.wording import interval, panel_words, picture_stem, share
from orchestrator.statistics.proportion import wilson
from orchestrator.transfer.matrix import Cell, Panel

# Up to here every pair is listed; beyond, every target, and detection.csv has the pairs.
_MOST_LISTED = 40
# Heatmaps of this part of the page, in bytes.
_MOST_BYTES = 1_000_000
# Inches of a figure to pixels of the page.
_CSS_DOTS_PER_INCH = 96


@dataclass(frozen=True)
class Half:
    """One of two heatmaps that stand side by side."""

    title: str
    alt: str
    svg: Markup
    width: int
    """In pixels of the page, where there is room."""


@dataclass(frozen=True)
class StoppedSection:
    """What the page shows of one panel: who is fooled, and how much of that is stopped."""

    title: str
    stem: str
    table: Table
    drawn: bool
    """Whether there are files of its heatmap beside the page."""
    alt: str
    halves: Sequence[Half] = field(repr=False)
    """Empty where the page is full."""
    files: dict[str, bytes] = field(repr=False)


def stopped_sections(
    summary: StudySummary, findings: DetectionFindings, room: int = _MOST_BYTES
) -> list[StoppedSection]:
    """A section for the largest radius of each method, attack and norm; pictures as there is room."""
    bare = lay_out(replace(summary, matrix=findings.matrix.bare))
    rate, sections = told_rate(findings), []
    for fooled in map(_by_target, at_largest(bare)):
        stopped = stopped_grid(fooled, findings, rate)
        stem, alt = _stem(fooled, "stopped"), _alt(stopped, rate)
        drawn = is_drawn(fooled)
        halves = _halves(fooled, stopped, rate, alt) if drawn else []
        weight = sum(len(half.svg) for half in halves)
        if weight > room:
            halves, weight = [], 0
        room -= weight
        files = paper_files(draw_heatmap(stopped, COLUMN, STOPPED).figure, stem) if drawn else {}
        title, table = panel_words(fooled.panel), stopped_table(fooled, findings)
        sections.append(StoppedSection(title, stem, table, drawn, alt, halves, files))
    return sections


def stopped_grid(fooled: Grid, findings: DetectionFindings, rate: float) -> Grid:
    """The same panel, with fooling images in the place of eligible ones, and stopped of fooled ones."""
    cells = {
        pair: Cell(n=of, clean_correct=of, adv_correct=of - stopped, eligible=of, fooled=stopped)
        for pair, (stopped, of) in _counts(findings, fooled.panel, rate).items()
    }
    return replace(fooled, cells=cells, matrix=None)


def stopped_table(fooled: Grid, findings: DetectionFindings) -> Table:
    """Counts of what is stopped at every rate: pair by pair, or of very many models target by target."""
    rates, told = rates_of(findings), told_rate(findings)
    at = {rate: _counts(findings, fooled.panel, rate) for rate in rates}
    listed = len(fooled.names) <= _MOST_LISTED
    rows = []
    for words, pairs in (_pairs(fooled) if listed else _targets(fooled)).items():
        found = {
            rate: [sum(at[rate].get(pair, (0, 0))[i] for pair in pairs) for i in (0, 1)] for rate in rates
        }
        hits, of = found[told]
        stopped = [str(found[rate][0]) for rate in rates]
        rows.append([*words, str(of), *stopped, interval(wilson(hits, of))])
    header = ["Source", "Target"] if listed else ["Target"]
    return Table(
        title="Stopped, pair by pair" if listed else "Stopped, by target",
        note="Images that fool the target, how many of them its detector stops by the share of clean "
        f"images that it may stop, and at {rate_words(told)} what that is in %, with 95 % Wilson "
        "intervals over images.",
        header=[*header, "Fooled", *map(rate_words, rates), "Stopped, %"],
        rows=rows,
        words=len(header),
        groups=[("", len(header) + 1), ("Stopped at", len(rates)), ("", 1)],
    )


def _by_target(grid: Grid) -> Grid:
    """The panel with models that have no detector below those that have one: they have no columns."""
    targets = {target for _, target in grid.cells}
    others = [name for name in grid.names if name not in targets]
    return replace(
        grid,
        names=[name for name in grid.names if name in targets],
        ensembles=[*others, *grid.ensembles],
    )


def _halves(fooled: Grid, stopped: Grid, rate: float, alt: str) -> list[Half]:
    words = "Heatmap of fooling rates without detectors, test images alone. The table has the counts."
    return [
        draw_half("Fooled without detectors", words, fooled, FOOLED, _stem(fooled, "unguarded")),
        draw_half(
            f"Of these, stopped at {rate_words(rate)}", alt, stopped, STOPPED, _stem(stopped, "stopped")
        ),
    ]


def _stem(grid: Grid, prefix: str) -> str:
    return picture_stem(grid.panel).replace("matrix", prefix, 1)


def draw_half(title: str, alt: str, grid: Grid, scale: Scale, stem: str) -> Half:
    """A heatmap in half of the page's width; ``stem`` sets its ids apart from others'."""
    figure = draw_heatmap(grid, HALF_PAGE, scale).figure
    svg = inline_svg(figure, stem)
    width = round(figure.get_figwidth() * _CSS_DOTS_PER_INCH)
    return Half(title, alt, Markup(svg), width)  # noqa: S704 - matplotlib escapes names


def _alt(stopped: Grid, rate: float) -> str:
    hits, of = (
        sum(getattr(cell, name) for cell in stopped.cells.values()) for name in ("fooled", "eligible")
    )
    return (
        f"Heatmap of stopped images, {panel_words(stopped.panel)}: of images that fool a target, how many "
        f"its detector stops at {rate_words(rate)}; {share(wilson(hits, of).rate)} of all {of:,}. The "
        "table has the counts."
    )


def _counts(
    findings: DetectionFindings, panel: Panel, rate: float
) -> dict[tuple[str, str], tuple[int, int]]:
    pairs = findings.matrix.stopped(panel, rate)
    return {
        (pairs.names[source], pairs.names[target]): (int(hits), int(of))
        for source, target, hits, of in zip(
            pairs.source, pairs.target, pairs.hits[:, 0], pairs.trials[:, 0], strict=True
        )
    }


def _pairs(grid: Grid) -> dict[tuple[str, ...], list[tuple[str, str]]]:
    pairs = [(source, target) for source in grid.rows for target in grid.names]
    return {pair: [pair] for pair in pairs if pair in grid.cells}


def _targets(grid: Grid) -> dict[tuple[str, ...], list[tuple[str, str]]]:
    return {(target,): [(source, target) for source in grid.rows] for target in grid.names}
