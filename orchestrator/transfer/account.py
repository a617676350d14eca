"""UnitAccount: what a unit came to, for progress and logs: small, as the facts are in its outcomes."""

import math
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.models.ref import ModelRef
from orchestrator.transfer.counting import build_matrix
from orchestrator.transfer.work import WorkUnit

# Some kilobytes at most: 10,000 accounts of 10,000 targets would otherwise fill the driver's memory.
_MOST_COUNTED = 512


@dataclass(frozen=True)
class UnitAccount:
    """What a unit came to; ``fooled`` and ``eligible`` follow ``counted_targets`` of the unit."""

    images: int
    source_fooled: int
    targets: int
    first: bool = True
    """False if another driver's worker had recorded the same unit meanwhile: its outcomes stay."""
    device: str = "cpu"
    """Type of the device it was done on."""
    fooled: tuple[int, ...] = ()
    """Images that fooled each counted target under the widest threat; none where nothing was scored."""
    eligible: tuple[int, ...] = ()
    """Images each counted target read correctly when clean and the attack moved."""


def counted_targets(unit: WorkUnit) -> list[ModelRef]:
    """The targets whose counts an account holds: all, or of very many every k-th and the source itself."""
    step = math.ceil(len(unit.targets) / _MOST_COUNTED)
    return [
        target
        for place, target in enumerate(unit.targets)
        if place % step == 0 or target in unit.source.members
    ]


def count_targets(unit: WorkUnit, outcomes: pa.Table) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many images fooled each counted target under the widest threat, and how many could have.

    Args:
        unit: what was done.
        outcomes: its rows, in the schema of its threats.
    """
    counted = counted_targets(unit)
    widest = pc.field("epsilon") == unit.ladder.threats[-1].epsilon
    names = sorted({target.name for target in counted})
    rows = build_matrix([outcomes.filter(widest & pc.field("target").isin(names))]).table.to_pylist()
    cells = {(row["method"], row["target"]): (row["fooled"], row["eligible"]) for row in rows}
    pairs = [cells[panel_method(unit, target), target.name] for target in counted]
    return tuple(fooled for fooled, _ in pairs), tuple(eligible for _, eligible in pairs)


def panel_method(unit: WorkUnit, target: ModelRef) -> str:
    """In whose panel a target's cell stands: its own method's, or the source's where it is plain."""
    return target.method if target.method != "plain" else unit.source.method
