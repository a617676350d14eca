"""Sections: what the page shows of each panel, as much of it as the page may weigh."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from orchestrator.report.cells import panel_cells
from orchestrator.report.figures.heatmap import draw_heatmap, is_drawn
from orchestrator.report.figures.prints import Prints
from orchestrator.report.figures.sheet import PAGE, inline_svg
from orchestrator.report.fleet import fleet_table
from orchestrator.report.grid import Grid
from orchestrator.report.order import clustered
from orchestrator.report.tables import Table, matrix_table, source_table
from orchestrator.report.verdict import Headline, sentence
from orchestrator.report.wording import panel_words, percent, picture_stem, share

# Up to here a page lists every pair; beyond, every model, and matrix.csv holds the pairs.
_MOST_LISTED = 40
# Heatmaps of a page and the counts behind them, in bytes; a panel of 128 keys takes 0.4 MB.
_MOST_BYTES = 3_000_000
# Inches of a figure to pixels of the page.
_CSS_DOTS_PER_INCH = 96


@dataclass(frozen=True)
class Picture:
    """A panel's heatmap in the page, in one order or two, and the counts behind it."""

    orders: Sequence[Markup]
    """SVG elements: as the study lists its models, and clustered where that is another order."""
    width: int
    """In pixels of the page, where there is room."""
    least: int
    """Below this width the page scrolls, rather than to make cells smaller than the eye."""
    box: str
    """Where the cells are in it, as CSS."""
    caption: str
    cells: dict[str, Any]

    @property
    def weight(self) -> int:
        """Bytes of the page, nearly."""
        return sum(map(len, self.orders)) + sum(5 * len(count) for count in self.cells["counts"])


@dataclass(frozen=True)
class Section:
    """What the page shows of one panel."""

    title: str
    sentence: str
    stem: str
    """Of the panel's files beside the page."""
    alt: str
    fleet: Table
    table: Table
    smaller: bool
    """Whether the same attack was run at a larger radius, too: this one is folded."""
    drawn: bool
    """Whether there are files of its heatmap beside the page."""
    picture: Picture | None = field(default=None, repr=False)
    """None where the page is full."""


def make_sections(
    headlines: Sequence[Headline], prints: Prints | None, room: int = _MOST_BYTES
) -> list[Section]:
    """A section a panel; pictures go to the largest radii first, as far as there is room."""
    largest = _largest([line.grid for line in headlines])
    smaller = [line.grid.panel.epsilon < largest[_climb(line.grid)] for line in headlines]
    drawn = [place for place, line in enumerate(headlines) if is_drawn(line.grid)]
    pictures: dict[int, Picture] = {}
    for place in sorted(drawn, key=lambda place: smaller[place]):
        picture = _picture(headlines[place].grid, prints)
        if picture.weight <= room:
            pictures[place] = picture
            room -= picture.weight
    return [
        Section(
            title=panel_words(line.grid.panel),
            sentence=sentence(line),
            stem=picture_stem(line.grid.panel),
            alt=_alt(line),
            fleet=fleet_table(line.grid),
            table=_table(line.grid),
            smaller=smaller[place],
            drawn=place in drawn,
            picture=pictures.get(place),
        )
        for place, line in enumerate(headlines)
    ]


def panel_counts(sections: Sequence[Section]) -> dict[str, dict[str, Any]]:
    """The counts behind the pictures, by their files' stem."""
    return {each.stem: each.picture.cells for each in sections if each.picture}


def tiles(headlines: Sequence[Headline]) -> Iterator[tuple[str, str, str]]:
    """Label, value and small print of the numbers to see first: of the panel whose images travel most."""
    counted = [line for line in headlines if line.between == line.between]
    if not counted:
        return
    line = max(counted, key=lambda line: line.between)
    source, target, worst = line.worst
    yield (
        "Key to another key",
        share(line.between),
        f"fooled, mean over pairs ({panel_words(line.grid.panel)})",
    )
    ends = f"95 % in [{percent(worst.low)}, {percent(worst.high)}]"
    yield "Worst pair of keys", share(worst.rate), f"{source} → {target}, {ends}"
    yield "Key to itself", share(line.own), "fooled, mean over keys"
    yield "Plain to a key", share(line.from_plain), "fooled, mean over keys"


def _climb(grid: Grid) -> tuple[str, str, str]:
    return grid.panel.method, grid.panel.attack, grid.panel.norm


def _largest(grids: Sequence[Grid]) -> dict[tuple[str, str, str], float]:
    largest: dict[tuple[str, str, str], float] = {}
    for grid in grids:
        largest[_climb(grid)] = max(largest.get(_climb(grid), 0.0), grid.panel.epsilon)
    return largest


def _picture(grid: Grid, prints: Prints | None) -> Picture:
    again = clustered(grid)
    orders = [grid] if again.names == grid.names else [grid, again]
    name = picture_stem(grid.panel)
    drawn = [draw_heatmap(order, PAGE) for order in orders]
    left, top, width, height = (f"{100 * part:.3f}%" for part in drawn[0].box)
    pixels = round(drawn[0].figure.get_figwidth() * _CSS_DOTS_PER_INCH)
    return Picture(
        orders=[
            Markup(inline_svg(each.figure, f"{name}-{place}"))  # noqa: S704 - matplotlib escapes names
            for place, each in enumerate(drawn)
        ],
        width=pixels,
        least=min(pixels, round(6 * len(grid.names) / drawn[0].box[2])),
        box=f"left:{left};top:{top};width:{width};height:{height}",
        caption=_caption(grid, drawn[0].bounded, prints),
        cells=panel_cells(grid, orders) | ({"examples": prints.of(grid)} if prints else {}),
    )


def _caption(grid: Grid, bounded: bool, prints: Prints | None) -> str:
    interval = ", below it its 95 % interval" if bounded else ""
    told = f" {prints.told(grid)}" if prints else ""
    return (
        f"Fooling rate in %{interval}; colours by its square root. Framed: source and target are the same "
        f"model.{told}"
    )


def _table(grid: Grid) -> Table:
    return matrix_table(grid) if len(grid.names) <= _MOST_LISTED else source_table(grid)


def _alt(line: Headline) -> str:
    grid = line.grid
    source, target, worst = line.worst
    most = f", at most {share(worst.rate)} from {source} to {target}" if source else ""
    return (
        f"Heatmap of fooling rates, {panel_words(grid.panel)}: {len(grid.rows)} sources in rows, "
        f"{len(grid.names)} targets in columns. Key to itself {share(line.own)} on average (the "
        f"diagonal); key to another key {share(line.between)} on average{most}; plain to a key "
        f"{share(line.from_plain)} on average. The table after the picture has the numbers."
    )
