"""The part of the report on input gradients: cosines beside the transfer matrix, in words, and as files."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from itertools import combinations

from orchestrator.report.alignment.grid import AlignedGrid, correlation, likenesses
from orchestrator.report.alignment.words import (
    TERMS,
    correlation_table,
    cosine_words,
    kind_table,
    pair_tables,
    paragraphs,
)
from orchestrator.report.detection.matrix import Half, draw_half
from orchestrator.report.detection.scope import at_largest
from orchestrator.report.figures.heatmap import ALIGNED, FOOLED, draw_heatmap, is_drawn
from orchestrator.report.figures.sheet import COLUMN, paper_files
from orchestrator.report.grid import Grid, lay_out
from orchestrator.report.summary import StudySummary
from orchestrator.report.tables import Table
from orchestrator.report.wording import file_stem, panel_words

# Heatmaps of this part of the page, in bytes.
_MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class AlignedSection:
    """What the page shows of one method."""

    title: str
    paragraphs: Sequence[str]
    stem: str
    alt: str
    drawn: bool
    """Whether there are files of its heatmap beside the page."""
    halves: Sequence[Half] = field(repr=False)
    """Cosines, and who is fooled; empty where the page is full."""
    tables: Sequence[Table] = field(repr=False)
    files: dict[str, bytes] = field(repr=False)


@dataclass(frozen=True)
class AlignmentPart:
    """What the report says of a study's input gradients."""

    sections: Sequence[AlignedSection]
    files: Mapping[str, bytes] = field(repr=False)
    terms: Sequence[tuple[str, str]] = TERMS
    papers: Sequence[Table] = ()


def alignment_part(summary: StudySummary) -> AlignmentPart | None:
    """The part on input gradients; None of a study that did not measure them."""
    grids, sections, room = lay_out(summary), [], _MOST_BYTES
    for alignment in summary.alignments:
        fooled = [grid for grid in at_largest(grids) if grid.panel.method == alignment.method]
        if fooled:
            section = _section(fooled, AlignedGrid.beside(fooled[0], alignment), room)
            room -= sum(len(half.svg) for half in section.halves)
            sections.append(section)
    if not sections:
        return None
    files = {"cosines.csv": cosines_csv(summary)}
    for each in sections:
        files |= each.files
    return AlignmentPart(sections, files)


def cosines_csv(summary: StudySummary) -> bytes:
    """Every pair of models, once: on how many images, their mean cosine, and its interval over images."""
    text = StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["method", "first", "second", "images", "cosine", "low", "high"])
    for alignment in summary.alignments:
        for pair in combinations(alignment.pairs.names, 2):
            ends = ["" if end != end else f"{end:.6f}" for end in alignment.cosine(*pair)]
            lines.writerow([alignment.method, *pair, alignment.counted(*pair), *ends])
    return text.getvalue().encode()


def _section(fooled: Sequence[Grid], aligned: AlignedGrid, room: int) -> AlignedSection:
    method, first = aligned.panel.method, replace(fooled[0], names=aligned.names, ensembles=())
    likes = list(likenesses(aligned))
    found = [(panel_words(grid.panel), correlation(grid, aligned)) for grid in fooled]
    stem, drawn = file_stem("cosines", method), is_drawn(aligned)
    told = "; ".join(f"{like.words} {cosine_words(like.cosine.interval())}" for like in likes)
    alt = f"Heatmap of mean cosines of input gradients, {method}: {told}. {len(aligned.names)} models."
    halves = []
    if drawn:
        words = "The fooling rates of the same models, in the same order."
        halves = [
            draw_half("Cosine of input gradients", alt, aligned, ALIGNED, stem),
            draw_half(f"Fooled: {panel_words(first.panel)}", words, first, FOOLED, f"{stem}-fooled"),
        ]
    return AlignedSection(
        title=f"{method} fine-tuning",
        paragraphs=list(paragraphs(aligned, likes, found)),
        stem=stem,
        alt=alt,
        drawn=drawn,
        halves=halves if sum(len(half.svg) for half in halves) <= room else [],
        tables=[kind_table(likes), correlation_table(found, aligned), *pair_tables(aligned)],
        files=paper_files(draw_heatmap(aligned, COLUMN, ALIGNED).figure, stem) if drawn else {},
    )
