"""The report: one HTML page that needs no network, its Markdown twin, and the files beside them."""

import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from orchestrator.report.alignment.part import AlignmentPart, alignment_part
from orchestrator.report.attackers import attacker_table
from orchestrator.report.cells import page_data
from orchestrator.report.committee.part import CommitteePart, committee_part
from orchestrator.report.compared import method_table, study_table
from orchestrator.report.costs import cost_table
from orchestrator.report.detection.part import DetectionPart, detection_part
from orchestrator.report.detection.scope import at_largest
from orchestrator.report.export import matrix_csv, matrix_parquet, paper_heatmaps
from orchestrator.report.figures.curves import climbs, curve_table
from orchestrator.report.figures.gallery import attack_plates, curve_plates, key_plate
from orchestrator.report.figures.prints import develop
from orchestrator.report.grid import Grid, lay_out
from orchestrator.report.guide import CAVEATS, TERMS
from orchestrator.report.key_verdict import judge_key
from orchestrator.report.latex import tables_tex
from orchestrator.report.paper import table_one, table_two
from orchestrator.report.section import make_sections, panel_counts, tiles
from orchestrator.report.summary import StudySummary
from orchestrator.report.tables import Table, key_table, settings_table, stage_table
from orchestrator.report.verdict import lead, read_headline

_ROOM = Path(__file__).parent / "templates"


def write_report(summary: StudySummary) -> dict[str, bytes]:
    """All files of a study's report by name; the same summary gives the same bytes."""
    grids = lay_out(summary)
    headlines = [read_headline(grid) for grid in grids]
    prints = develop(summary.album) if summary.album else None
    sections = make_sections(headlines, prints)
    climbed = climbs(grids)
    curves, attacks = curve_plates(climbed), attack_plates(grids)
    largest = at_largest(grids)
    verdicts = [judge_key(grid) for grid in largest if grid.keys]
    plates = {each.title: key_plate(each) for each in verdicts if each.effect.controlled}
    papers, parts = [table_one(summary), table_two(summary)], _parts(summary)
    there = [part for part in parts.values() if part]
    more = [table for part in there for table in part.papers]
    content: dict[str, Any] = {
        "study": summary.study,
        "notes": summary.notes,
        "lead": lead(headlines),
        "tiles": list(tiles(headlines)),
        "sections": sections,
        "curves": curves,
        "curve_table": curve_table(climbed),
        "attacks": attacks,
        "compared": [table for table in _compared(summary) if table.rows],
        "verdicts": [(verdict, plates.get(verdict.title)) for verdict in verdicts],
        "controlled": bool(plates),
        **parts,
        "papers": papers,
        "costs": cost_table(summary),
        "models": key_table(summary),
        "ends": [stage_table(summary), settings_table(summary)],
        "terms": [*TERMS, *(term for part in there for term in part.terms)],
        "caveats": CAVEATS,
        "data": page_data(panel_counts(sections), album=prints and prints.json),
    }
    files = {
        "index.html": render("page.html.j2", content | _inlined()),
        "report.md": render("page.md.j2", content),
        "tables.tex": tables_tex([*_narrow(summary, largest), papers[1], *more]),
        "matrix.csv": matrix_csv(summary.matrix),
        "matrix.parquet": matrix_parquet(summary.matrix),
    }
    for each in (*curves, *attacks, *plates.values(), *there):
        files |= each.files
    return files | paper_heatmaps(grids)


def _parts(summary: StudySummary) -> dict[str, AlignmentPart | DetectionPart | CommitteePart | None]:
    """What some studies alone have, by the name that the page's template calls it."""
    return {
        "gradients": alignment_part(summary),
        "detection": detection_part(summary),
        "committees": committee_part(summary),
    }


def _narrow(summary: StudySummary, largest: Sequence[Grid]) -> list[Table]:
    """Table I once for every attack, at the largest radius of each norm: as wide as the paper's."""
    attacks = dict.fromkeys(grid.panel.attack for grid in largest)
    return [table_one(summary, [grid for grid in largest if grid.panel.attack == a]) for a in attacks]


def _compared(summary: StudySummary) -> list[Table]:
    tables = [attacker_table(summary), method_table(summary)]
    return [*tables, study_table(summary, summary.against)] if summary.against else tables


def _inlined() -> dict[str, Any]:
    """Style and script of the page, and the digest by which the browser knows the script."""
    script = (_ROOM / "page.js").read_text()
    digest = b64encode(sha256(script.encode()).digest()).decode()
    return {**inlined_style(), "script": Markup(script), "script_digest": digest}  # noqa: S704 - ours


def inlined_style() -> dict[str, Any]:
    """The style of every page."""
    return {"style": Markup((_ROOM / "page.css").read_text())}  # noqa: S704 - ours


def render(template: str, content: dict[str, Any]) -> bytes:
    """A page of this room's templates, every value escaped for what the template is."""
    environment = Environment(
        loader=FileSystemLoader(_ROOM),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_as_markdown if template.endswith(".md.j2") else None,
    )
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
