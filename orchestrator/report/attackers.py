"""Attackers compared: what one key's images, plain's and an ensemble's do to keys the attacker has not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

from orchestrator.models.ensemble import member_names
from orchestrator.models.ref import PLAIN
from orchestrator.report.fleet import estimated, reach
from orchestrator.report.grid import Grid, lay_out, mean
from orchestrator.report.summary import StudySummary
from orchestrator.report.tables import Table
from orchestrator.report.wording import NONE, method_words, percent, threat_words
from orchestrator.statistics.estimate import Estimate, difference
from orchestrator.statistics.pairs import Pairs, mean_rate


@dataclass(frozen=True)
class Attackers:
    """One kind of source of a panel: fooling rates in [0, 1], nan where nothing was counted."""

    kind: str
    """``plain``, ``1 key``, ``2 keys and plain``."""
    sources: Sequence[str]
    own: float
    """On keys that are the source or among its members, mean over pairs."""
    others: float
    """On keys outside it, mean over pairs."""
    most: float
    """On the key outside it that falls most often."""


def attackers(grid: Grid) -> list[Attackers]:
    """The kinds of sources of a panel, singles first."""
    found = []
    for kind, sources in _kinds(grid).items():
        inside = [rate for source in sources for rate in _rates(grid, source, own=True)]
        outside = [rate for source in sources for rate in _rates(grid, source, own=False)]
        found.append(Attackers(kind, sources, mean(inside), mean(outside), max(outside, default=nan)))
    return found


def attacker_table(summary: StudySummary) -> Table:
    """One row for every attack, threat, method and kind of source: mean fooling rate on keys outside it."""
    rows, told = [], list[Estimate]()
    first: dict[tuple[str, ...], Estimate] = {}
    for grid in lay_out(summary):
        for line in attackers(grid):
            words = [
                grid.panel.attack,
                threat_words(grid.panel),
                method_words(grid.panel.method),
                line.kind,
            ]
            reached = mean_rate(_outside(grid, line.sources), grid.clusters)
            beside = first.setdefault(tuple(words[1:]), reached)
            apart = NONE if beside is reached else estimated(difference(reached, beside))
            rows.append([*words, percent(line.own), estimated(reached), apart, percent(line.most)])
            told.append(reached)
    return Table(
        title="Attackers compared",
        note="Fooling rates in %, means over pairs of source and target. Own: the target is the source or "
        "one of its members. Others: the attacker has neither the target's weights nor its key. More: than "
        "the attack that stands first for the same threat, method and source, on the same keys and "
        f"images, in points. {reach(told)} AutoAttack moves only what it breaks and stops there, so its "
        "own rate is 100 % wherever anything fell, and robust accuracy is what to read there.",
        header=[
            "Attack",
            "Threat",
            "Fine-tune",
            "Source",
            "Own keys",
            "Other keys, mean",
            "More than the first attack",
            "Other keys, most",
        ],
        rows=rows,
        words=4,
    )


def _outside(grid: Grid, sources: Sequence[str]) -> Pairs:
    """The pairs from sources of one kind to keys that are none of theirs."""
    pairs = grid.pairs().among(sources, grid.keys)
    members = [frozenset(member_names(name)) for name in pairs.names]
    ends = zip(pairs.source, pairs.target, strict=True)
    return pairs.where(np.array([pairs.names[t] not in members[s] for s, t in ends], dtype=bool))


def _kinds(grid: Grid) -> Mapping[str, Sequence[str]]:
    kinds: dict[str, list[str]] = {"plain": [PLAIN] if PLAIN in grid.names else [], "1 key": grid.keys}
    for source in grid.ensembles:
        members = member_names(source)
        keys = len([name for name in members if name != PLAIN])
        words = f"{keys} key{'' if keys == 1 else 's'}{' and plain' if PLAIN in members else ''}"
        words += f", {source.partition('@')[2]}" if "@" in source else ""
        kinds.setdefault(words, []).append(source)
    return {kind: sources for kind, sources in kinds.items() if sources}


def _rates(grid: Grid, source: str, *, own: bool) -> list[float]:
    members = set(member_names(source))
    cells = [grid.cell(source, key) for key in grid.keys if (key in members) == own]
    return [cell.fooling.rate for cell in cells if cell.eligible]
