"""The part of the report on detectors: words, matrices, curves and tables, in the page and beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.report.detection.curves import roc_plates
from orchestrator.report.detection.matrix import StoppedSection, stopped_sections
from orchestrator.report.detection.scope import at_largest
from orchestrator.report.detection.tables import (
    class_table,
    clean_table,
    harmless_table,
    note_table,
    safe_table,
    sort_table,
)
from orchestrator.report.detection.words import CAVEAT, TERMS, detection_paragraphs
from orchestrator.report.export import detection_csv
from orchestrator.report.figures.gallery import Plate
from orchestrator.report.summary import StudySummary
from orchestrator.report.tables import Table


@dataclass(frozen=True)
class DetectionPart:
    """What the report says of a study's detectors."""

    paragraphs: Sequence[str]
    caveat: str
    sections: Sequence[StoppedSection]
    curves: Sequence[Plate]
    tables: Sequence[Table]
    folded: Sequence[Table]
    """Tables for those who look something up."""
    papers: Sequence[Table]
    """Tables for a paper."""
    files: Mapping[str, bytes] = field(repr=False)
    """Beside the page."""
    terms: Sequence[tuple[str, str]] = TERMS


def detection_part(summary: StudySummary) -> DetectionPart | None:
    """The part on detectors; None of a study that has none."""
    findings = summary.detection
    if findings is None:
        return None
    sections, curves = stopped_sections(summary, findings), roc_plates(findings)
    largest = at_largest(findings.sorts)
    panels = {line.panel for line in largest}
    smaller = [line for line in findings.sorts if line.panel not in panels]
    sorts = sort_table(findings, largest, "Images that fool, by sort, at the largest radius")
    safe = safe_table(findings)
    folded = [
        sort_table(findings, smaller, "Images that fool, by sort, at smaller radii"),
        class_table(findings),
        note_table(findings),
    ]
    tables = [sorts, safe, clean_table(findings), harmless_table(findings)]
    files = {"detection.csv": detection_csv(findings.matrix)}
    for beside in (*(each.files for each in sections), *(each.files for each in curves)):
        files |= beside
    return DetectionPart(
        paragraphs=detection_paragraphs(findings),
        caveat=CAVEAT,
        sections=sections,
        curves=curves,
        tables=[table for table in tables if table.rows],
        folded=[table for table in folded if table.rows],
        papers=[table for table in (sorts, safe) if table.rows],
        files=files,
    )
