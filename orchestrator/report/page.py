"""The report: one HTML page that needs no network, its Markdown twin, the pictures and a CSV."""

import csv
import math
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from orchestrator.report.attackers import attacker_table
from orchestrator.report.compared import method_table
from orchestrator.report.figures import DOTS_PER_INCH, heatmap_png
from orchestrator.report.fleet import fleet_table
from orchestrator.report.grid import Grid, lay_out
from orchestrator.report.guide import CAVEATS, TERMS
from orchestrator.report.key_verdict import judge_key
from orchestrator.report.paper import table_one, table_two
from orchestrator.report.summary import StudySummary
from orchestrator.report.tables import (
    Table,
    key_table,
    matrix_table,
    settings_table,
    source_table,
    stage_table,
)
from orchestrator.report.verdict import Headline, lead, read_headline, sentence
from orchestrator.report.wording import panel_words, percent, picture_name, share
from orchestrator.statistics.proportion import wilson
from orchestrator.transfer.matrix import CELL, COUNTS, TransferMatrix

# Up to here a page lists every pair; beyond, every model, and matrix.csv holds the pairs.
_MOST_LISTED = 40
_CSS_DOTS_PER_INCH = 96


@dataclass(frozen=True)
class Section:
    """What the page shows of one panel."""

    title: str
    sentence: str
    tiles: Sequence[tuple[str, str, str]]
    """Label, value and small print of the numbers to see first."""
    picture: str
    """File name of the light picture."""
    light: bytes
    dark: bytes
    alt: str
    fleet: Table
    table: Table

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture in CSS pixels, from its PNG header."""
        width, height = (int.from_bytes(self.light[at : at + 4], "big") for at in (16, 20))
        scale = _CSS_DOTS_PER_INCH / DOTS_PER_INCH
        return round(width * scale), round(height * scale)


def write_report(summary: StudySummary) -> dict[str, bytes]:
    """All files of a study's report by name; the same summary gives the same bytes."""
    grids = lay_out(summary)
    headlines = [read_headline(grid) for grid in grids]
    sections = [_section(line) for line in headlines]
    content: dict[str, Any] = {
        "study": summary.study,
        "notes": summary.notes,
        "lead": lead(headlines),
        "sections": sections,
        "key_verdicts": [judge_key(grid) for grid in grids if grid.keys],
        "papers": [
            attacker_table(summary),
            *_told(method_table(summary)),
            table_one(summary),
            table_two(summary),
        ],
        "models": key_table(summary),
        "ends": [stage_table(summary), settings_table(summary)],
        "terms": TERMS,
        "caveats": CAVEATS,
    }
    files = {
        "index.html": _render("page.html.j2", content),
        "report.md": _render("page.md.j2", content),
        "matrix.csv": matrix_csv(summary.matrix),
    }
    return files | {section.picture: section.light for section in sections}


def matrix_csv(matrix: TransferMatrix) -> bytes:
    """Every cell of every panel: its counts, and the rates they give in [0, 1]; blank for nan."""
    text = StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([*CELL, *COUNTS, "fooling_rate", "fooling_low", "fooling_high", "robust_accuracy"])
    for row in matrix.table.to_pylist():
        rates = [*wilson(row["fooled"], row["eligible"]), wilson(row["adv_correct"], row["n"]).rate]
        written = ["" if math.isnan(rate) else f"{rate:.6f}" for rate in rates]
        lines.writerow([*(row[name] for name in CELL + COUNTS), *written])
    return text.getvalue().encode()


def _section(line: Headline) -> Section:
    grid = line.grid
    return Section(
        title=panel_words(grid.panel),
        sentence=sentence(line),
        tiles=_tiles(line),
        picture=picture_name(grid.panel),
        light=heatmap_png(grid),
        dark=heatmap_png(grid, dark=True),
        alt=_alt(line),
        fleet=fleet_table(grid),
        table=matrix_table(grid) if _lists_pairs(grid) else source_table(grid),
    )


def _told(table: Table) -> list[Table]:
    return [table] if table.rows else []


def _lists_pairs(grid: Grid) -> bool:
    return len(grid.names) <= _MOST_LISTED


def _tiles(line: Headline) -> list[tuple[str, str, str]]:
    source, target, worst = line.worst
    pair = f"{source} → {target}, 95 % in [{percent(worst.low)}, {percent(worst.high)}]"
    return [
        ("Key to another key", share(line.between), "fooled, mean over pairs"),
        ("Worst pair of keys", share(worst.rate), pair if source else "no pair was tried"),
        ("Key to itself", share(line.own), "fooled, mean over keys"),
        ("Plain to a key", share(line.from_plain), "fooled, mean over keys"),
    ]


def _alt(line: Headline) -> str:
    grid = line.grid
    source, target, worst = line.worst
    most = f", at most {share(worst.rate)} from {source} to {target}" if source else ""
    return (
        f"Heatmap of fooling rates, {panel_words(grid.panel)}: {len(grid.names)} sources in rows, "
        f"{len(grid.names)} targets in columns. Key to itself {share(line.own)} on average (the "
        f"diagonal); key to another key {share(line.between)} on average{most}; plain to a key "
        f"{share(line.from_plain)} on average. The table after the picture has the numbers."
    )


def _render(template: str, content: dict[str, Any]) -> bytes:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_as_markdown if template.endswith(".md.j2") else None,
    )
    environment.filters["base64"] = lambda picture: b64encode(picture).decode()
    environment.filters["unbroken"] = _unbroken
    return environment.get_template(template).render(content).encode()


def _unbroken(text: str) -> Markup:
    """Text whose hyphened names stay on one line, and stay what they are when copied."""
    return Markup(  # noqa: S704 - escaped before anything is added
        re.sub(r"(k-[0-9a-f]+|Non-adaptive)", r'<span class="whole">\1</span>', str(escape(text)))
    )


def _as_markdown(value: object) -> object:
    """Text that Markdown shows as it is: nothing of it becomes a tag, a table bar or emphasis."""
    if isinstance(value, Markup):  # what a macro returned: its parts were escaped one by one
        return value
    text = " ".join(str(value).replace("&", "&amp;").replace("<", "&lt;").split())
    return Markup(re.sub(r"([\\`*_\[\]|>~$])", r"\\\1", text))  # noqa: S704 - escaped just above
