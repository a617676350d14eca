"""Compared: methods, and two studies, by how far images travel between keys; differences are paired."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from orchestrator.report.fleet import between_keys, estimated, reach
from orchestrator.report.grid import Grid, lay_out
from orchestrator.report.summary import StudySummary
from orchestrator.report.tables import Table
from orchestrator.report.wording import NONE, method_words, threat_words
from orchestrator.statistics.estimate import Estimate, difference

_PAIRED = "Images are paired by name, keys by id"


def method_table(summary: StudySummary) -> Table:
    """Mean fooling between keys by method, and each method's difference from the first; may be empty."""
    by_threat: dict[tuple[str, str], list[Grid]] = {}
    for grid in lay_out(summary):
        by_threat.setdefault((grid.panel.attack, threat_words(grid.panel)), []).append(grid)
    compared = [
        (
            [*words, f"{method_words(other.panel.method)} − {method_words(grids[0].panel.method)}"],
            other,
            grids[0],
        )
        for words, grids in by_threat.items()
        for other in grids[1:]
    ]
    return _table("Methods compared", ["Attack", "Threat", "Fine-tune"], compared, ("First", "Second"))


def study_table(first: StudySummary, second: StudySummary) -> Table:
    """What two studies have in common, panel by panel, and how they differ, such as in block size."""
    others = {grid.panel: grid for grid in lay_out(second)}
    compared = [
        (
            [grid.panel.attack, threat_words(grid.panel), method_words(grid.panel.method)],
            grid,
            others[grid.panel],
        )
        for grid in lay_out(first)
        if grid.panel in others
    ]
    names = (_name(first, second), _name(second, first))
    table = _table("Studies compared", ["Attack", "Threat", "Fine-tune"], compared, names)
    apart = "; ".join(differing(first.settings, second.settings))
    return replace(table, note=f"{table.note} {f'They differ in {apart}.' if apart else 'Same settings.'}")


def differing(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """The settings in which two studies differ, each with both values."""
    names = dict.fromkeys([*first, *second])
    return [
        f"{name}: {first.get(name, NONE)} and {second.get(name, NONE)}"
        for name in names
        if first.get(name) != second.get(name)
    ]


def _name(study: StudySummary, other: StudySummary) -> str:
    return (
        study.study
        if study.study != other.study
        else f"{study.study}, {study.settings.get('block size', NONE)}"
    )


def _table(
    title: str,
    header: Sequence[str],
    compared: Iterable[tuple[list[str], Grid, Grid]],
    names: tuple[str, str],
) -> Table:
    rows, told = [], list[Estimate]()
    for words, grid, other in compared:
        means = [between_keys(each) for each in (grid, other)]
        apart = difference(*means)
        rows.append([*words, *(estimated(each) for each in (*means, apart))])
        told += [*means, apart]
    return Table(
        title=title,
        note=f"Fooling rates in % from one key to another, mean over pairs. {reach(told)} {_PAIRED}: what "
        "both have in common cancels in the difference.",
        header=[*header, *names, "Difference"],
        rows=rows,
        words=len(header),
    )
