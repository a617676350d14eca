"""Scope of what is said of detectors: at which false-positive rates, of which panels, by what names."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from orchestrator.detection.guard.findings import ClassLine, DetectionFindings, SafeLine, SortLine
from orchestrator.detection.origin import Origin
from orchestrator.report.grid import Grid
from orchestrator.report.wording import percent
from orchestrator.statistics.estimate import Estimate

MADE_ON: Mapping[Origin, str] = {
    "own key": "the model itself",
    "another key": "another key",
    "plain": "plain",
}
"""Whose images they are to the model that is shown them, in the order in which they are told."""


Line = TypeVar("Line", Grid, SortLine, ClassLine, SafeLine)
"""What is said of one panel."""


def rates_of(findings: DetectionFindings) -> list[float]:
    """The false-positive rates asked for, the smallest first."""
    return sorted(findings.matrix.guarded)


def told_rate(findings: DetectionFindings) -> float:
    """The rate that sentences and heatmaps are at: the largest, 5 % where nothing else was asked for."""
    return max(findings.matrix.guarded)


def at_largest(lines: Sequence[Line]) -> list[Line]:
    """Those of the largest radius of their method, attack and norm."""
    largest: dict[tuple[str, str, str], float] = {}
    for line in lines:
        largest[_climb(line)] = max(largest.get(_climb(line), 0.0), line.panel.epsilon)
    return [line for line in lines if line.panel.epsilon == largest[_climb(line)]]


def rate_words(rate: float) -> str:
    """A rate that was asked for, as people write it: ``5 %``."""
    return f"{100 * rate:g} %"


def estimate_words(estimate: Estimate) -> str:
    """An estimate for use in a sentence: ``93.1 % [90.0, 95.8]``, without ends where there are none."""
    value, low, high = estimate.interval()
    ends = f" [{percent(low)}, {percent(high)}]" if low == low else ""
    return f"{percent(value)} %{ends}"


def _climb(line: Grid | SortLine | ClassLine | SafeLine) -> tuple[str, str, str]:
    return line.panel.method, line.panel.attack, line.panel.norm
