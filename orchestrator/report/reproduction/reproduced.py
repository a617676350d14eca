"""Reproduced: our numbers in the places of the paper's, read from one study a block size and seed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from orchestrator.models.ref import PLAIN
from orchestrator.report.grid import Grid, lay_out
from orchestrator.report.reproduction.published import PLAIN_ROW, Printed, counterpart, printed
from orchestrator.report.summary import StudySummary
from orchestrator.statistics.estimate import Estimate, Values, combine, difference
from orchestrator.statistics.pairs import mean_rate
from orchestrator.transfer.matrix import Panel

METHODS = ("full", "lora")


@dataclass(frozen=True)
class Strand:
    """One study of a reproduction."""

    block_size: int
    seed: int
    summary: StudySummary

    @cached_property
    def grids(self) -> dict[Panel, Grid]:
        """Its panels."""
        return {grid.panel: grid for grid in lay_out(self.summary)}


@dataclass(frozen=True, kw_only=True)
class Reproduced:
    """All studies of a reproduction."""

    name: str
    patch_size: int
    table_epsilon: float
    """Radius of Table I's ℓ∞ threat."""
    strands: Sequence[Strand]
    notes: Sequence[str] = ()
    """What a reader must know first."""

    @property
    def methods(self) -> list[str]:
        """The training methods that have panels, in the paper's order."""
        met = {panel.method for strand in self.strands for panel in strand.grids}
        return [method for method in METHODS if method in met]

    @property
    def block_sizes(self) -> list[int]:
        """In pixels, ascending."""
        return sorted({strand.block_size for strand in self.strands})

    @property
    def seeds(self) -> list[int]:
        """Ascending."""
        return sorted({strand.seed for strand in self.strands})

    @property
    def budgets(self) -> list[Panel]:
        """Attack and threat of every version of Table I: its ℓ∞ threat, then each ℓ2 threat; no method."""
        met = {
            Panel("", p.attack, p.norm, p.epsilon)
            for strand in self.strands
            for p in strand.grids
            if p.norm == "l2" or (p.norm == "linf" and p.epsilon == self.table_epsilon)
        }
        return sorted(met, key=lambda p: (p.attack, p.norm != "linf", p.epsilon))


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of Table I under one threat: ours, as means over keys and seeds, and the paper's."""

    method: str
    """``plain``, ``full`` or ``lora``."""
    block_size: int
    """0 for plain."""
    paper_block: int | None
    budget: Panel
    clean: Estimate
    non_adaptive: Estimate
    """Robust accuracy against images made on plain; of plain against its own."""
    adaptive: Estimate
    """Robust accuracy against images made on another key's model, mean over pairs."""
    paper: Printed | None

    @property
    def gap(self) -> Estimate:
        """Adaptive − non-adaptive, paired in images and keys: below 0, guessing a key helps an attacker."""
        return difference(self.adaptive, self.non_adaptive)

    @property
    def paper_robust(self) -> tuple[float, float]:
        """The paper's non-adaptive and adaptive figure in percent; nan where it has none."""
        if self.paper is None or self.budget.norm not in ("linf", "l2"):
            return (np.nan, np.nan)
        return self.paper.linf if self.budget.norm == "linf" else self.paper.l2


def lines(found: Reproduced, budget: Panel, seeds: Iterable[int] | None = None) -> list[Line]:
    """Table I under one attack and threat: plain, then every method from small blocks to large ones.

    Args:
        found: the reproduction.
        budget: attack and threat, see ``Reproduced.budgets``.
        seeds: to look at some of them only.
    """
    wanted = set(found.seeds if seeds is None else seeds)
    strands = [strand for strand in found.strands if strand.seed in wanted]
    rows = [_plain_line(budget, strands)] if strands else []
    for method in found.methods:
        for block_size in found.block_sizes:
            panel = Panel(method, budget.attack, budget.norm, budget.epsilon)
            grids = [s.grids[panel] for s in strands if s.block_size == block_size and panel in s.grids]
            if grids:
                block = counterpart(block_size, found.patch_size)
                rows.append(_keyed_line(method, block_size, block, budget, grids))
    return rows


def _keyed_line(
    method: str, block_size: int, block: int | None, budget: Panel, grids: Sequence[Grid]
) -> Line:
    return Line(
        method=method,
        block_size=block_size,
        paper_block=block,
        budget=budget,
        clean=_pooled(mean_rate(g.pairs("clean").among([PLAIN], g.keys), g.clusters) for g in grids),
        non_adaptive=_pooled(
            mean_rate(g.pairs("robust").among([PLAIN], g.keys), g.clusters) for g in grids
        ),
        adaptive=_pooled(mean_rate(g.pairs("robust").among(g.keys, g.keys), g.clusters) for g in grids),
        paper=printed(method, block),
    )


def _plain_line(budget: Panel, strands: Sequence[Strand]) -> Line:
    """Plain is the same model in every study of a seed: the first panel of each seed speaks for it."""
    first: dict[int, Grid] = {}
    for strand in strands:
        for panel, grid in strand.grids.items():
            if (panel.attack, panel.norm, panel.epsilon) == (budget.attack, budget.norm, budget.epsilon):
                first.setdefault(strand.seed, grid)
    grids = list(first.values())
    nothing = Estimate(value=np.nan, replicates=np.empty(0))
    return Line(
        method=PLAIN,
        block_size=0,
        paper_block=None,
        budget=budget,
        clean=_pooled(mean_rate(g.pairs("clean").own([PLAIN]), {}) for g in grids),
        non_adaptive=_pooled(mean_rate(g.pairs("robust").own([PLAIN]), {}) for g in grids),
        adaptive=nothing,
        paper=PLAIN_ROW,
    )


def _pooled(seeds: Iterable[Estimate]) -> Estimate:
    """The mean over seeds: images are redrawn for all of them together, keys left out one by one."""
    every = list(seeds)
    return every[0] if len(every) == 1 else combine(_mean, *every, bounds=(0.0, 1.0))


def _mean(*values: Values) -> Values:
    whole: Values = np.mean(values, axis=0)
    return whole
