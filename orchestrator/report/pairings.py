"""Pairings: what two models share, a key, a function or nothing, and how often images pass between."""

import math
from collections.abc import Iterator
from itertools import permutations

from orchestrator.models.control import ControlKind, control_of
from orchestrator.report.dots import Rate
from orchestrator.report.grid import Grid, mean

SAME_FUNCTION, SAME_KEY = "another key, same function", "same key, another seed"
NO_KEY, KEY_AND_NONE, OTHER_KEY = "no key, another seed", "a key and no key", "another key"


def pairing_rates(grid: Grid) -> list[Rate]:
    """By what they share, the mean fooling rate over ordered pairs, and the least and most of a pair."""
    found = {
        SAME_FUNCTION: _twins(grid, "rekeyed"),
        SAME_KEY: _twins(grid, "same-key"),
        NO_KEY: permutations(_controls(grid, "seed"), 2),
        KEY_AND_NONE: _mixed(grid),
        OTHER_KEY: permutations(grid.keys, 2),
    }
    rates = {words: [grid.cell(*pair).fooling.rate for pair in pairs] for words, pairs in found.items()}
    counted = {words: [r for r in some if not math.isnan(r)] for words, some in rates.items()}
    return [Rate(words, mean(some), min(some), max(some)) for words, some in counted.items() if some]


def _controls(grid: Grid, kind: ControlKind) -> list[str]:
    return [name for name in grid.controls if (control := control_of(name)) and control.kind == kind]


def _twins(grid: Grid, kind: ControlKind) -> Iterator[tuple[str, str]]:
    """A control and the key's model of the slot it is numbered by, both ways."""
    for name in _controls(grid, kind):
        control = control_of(name)
        if control and control.number < len(grid.keys):
            twin = grid.keys[control.number]
            yield from ((name, twin), (twin, name))


def _mixed(grid: Grid) -> Iterator[tuple[str, str]]:
    for name in _controls(grid, "seed"):
        for key in grid.keys:
            yield from ((name, key), (key, name))
