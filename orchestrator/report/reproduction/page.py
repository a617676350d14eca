"""The reproduction: our tables and curves beside the paper's, as one page, Markdown, CSV and LaTeX."""

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from io import StringIO
from typing import Any

from orchestrator.report.figures.curves import Climb, climbs, curve_table, curves, draw_curves
from orchestrator.report.figures.gallery import Plate
from orchestrator.report.grid import mean
from orchestrator.report.latex import tables_tex
from orchestrator.report.page import inlined_style, render
from orchestrator.report.reproduction.beside import budget_table, cost_table, parameter_table, seed_table
from orchestrator.report.reproduction.protocol import outcome, protocol_table
from orchestrator.report.reproduction.published import counterpart
from orchestrator.report.reproduction.reproduced import Line, Reproduced, lines
from orchestrator.report.tables import Table, settings_table
from orchestrator.report.wording import NONE, file_stem, share, threat_words


def write_reproduction(found: Reproduced) -> dict[str, bytes]:
    """All files of a reproduction by name; the same studies give the same bytes."""
    budgets = found.budgets
    groups, numbers = _figure_four(found)
    tables = [budget_table(found, budget) for budget in budgets]
    ends = [parameter_table(found), cost_table(found)]
    protocol = protocol_table(found)
    settings = [
        replace(settings_table(strand.summary), title=f"Settings of {strand.summary.study}")
        for strand in found.strands
    ]
    content: dict[str, Any] = {
        "name": found.name,
        "notes": found.notes,
        "lead": outcome(found),
        "tables": tables,
        "seeds": [seed_table(found, budget) for budget in budgets] if len(found.seeds) > 1 else [],
        "parameters": ends[0],
        "costs": ends[1],
        "groups": groups,
        "numbers": numbers,
        "protocol": protocol,
        "settings": settings,
        "studies": [strand.summary.study for strand in found.strands],
    }
    files = {
        "index.html": render("reproduction.html.j2", content | inlined_style()),
        "reproduction.md": render("reproduction.md.j2", content),
        "tables.tex": tables_tex([*tables, *ends, protocol]),
        "cells.csv": _cells(found),
    }
    for plate in (plate for _, plates in groups for plate in plates):
        files |= plate.files
    return files


def _figure_four(found: Reproduced) -> tuple[list[tuple[str, list[Plate]]], list[Table]]:
    """Curves of the first seed by what is attacked how, block sizes side by side; and their numbers."""
    groups: dict[str, list[Plate]] = {}
    numbers = []
    for strand in found.strands:
        if strand.seed != found.seeds[0]:
            continue
        block = counterpart(strand.block_size, found.patch_size)
        blocks = f"M = {strand.block_size} (paper’s {block or NONE})"
        # ℓ∞ first: the paper's own figure is of it.
        ours = sorted(climbs(strand.grids.values()), key=lambda climb: climb.panel.norm != "linf")
        for climb in ours:
            stem = file_stem("fig4", climb.stem, f"m{strand.block_size}")
            plate = Plate.of(
                blocks, _told(f"{climb.title}, {blocks}", climb), stem, partial(draw_curves, climb)
            )
            groups.setdefault(climb.title, []).append(plate)
        if ours:
            numbers.append(replace(curve_table(ours), title=f"Robust accuracy by radius, {blocks}"))
    return list(groups.items()), numbers


def _told(title: str, climb: Climb) -> str:
    ends = "; ".join(f"{line.words} {share(mean(line.rates[-1]))}" for line in curves(climb))
    return f"Curves of robust accuracy over the radius, {title}. At the largest radius: {ends}."


_HEADER = (
    *("attack", "threat", "method", "block_size", "paper_block_size", "seed", "quantity"),
    *("ours", "low", "high", "paper"),
)


def _cells(found: Reproduced) -> bytes:
    """Every cell of Table I in [0, 1], all seeds together and each by itself; blank for nan."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    views: list[tuple[str, Sequence[int]]] = [("all", found.seeds), *((str(s), [s]) for s in found.seeds)]
    for budget in found.budgets:
        for seed, chosen in views:
            for line in lines(found, budget, chosen):
                writer.writerows(_written(line, seed))
    return text.getvalue().encode()


def _written(line: Line, seed: str) -> list[list[str]]:
    place = [line.budget.attack, threat_words(line.budget), line.method, str(line.block_size or "")]
    place += [str(line.paper_block or ""), seed]
    robust = line.paper_robust
    clean = line.paper.clean if line.paper else math.nan
    quantities = {
        "clean": (line.clean, clean),
        "non-adaptive": (line.non_adaptive, robust[0]),
        "adaptive": (line.adaptive, robust[1]),
        "adaptive - non-adaptive": (line.gap, robust[1] - robust[0]),
    }
    return [
        [*place, name, *(_number(value) for value in (*ours.interval(), paper / 100))]
        for name, (ours, paper) in quantities.items()
    ]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"
