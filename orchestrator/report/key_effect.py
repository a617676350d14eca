"""Does the key matter? Controls tell what keeps images from travelling: the key, or training anew."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.models.control import ControlKind, control_of
from orchestrator.report.grid import Grid
from orchestrator.statistics.components import Components, components
from orchestrator.statistics.estimate import Estimate, combine, difference
from orchestrator.statistics.pairs import Pairs, mean_rate
from orchestrator.transfer.matrix import Panel

# A model moved to another key computes the same to rounding: these differences it cannot have.
_LOST, _CLEAN_APART = 0.05, 0.01


@dataclass(frozen=True)
class KeyEffect:
    """Mean fooling rates of a panel by what source and target share, and what follows from them.

    Rates are in [0, 1]; one that no pair gives is nan. Differences are paired by images and keys.
    """

    panel: Panel
    own: Estimate
    """A key's model on itself."""
    rekeyed: Estimate
    """A key's model and the same function under another key, both ways: should be ``own``."""
    same_key: Estimate
    """A key's model and another training with the same key, both ways."""
    no_key: Estimate
    """Two trainings without a key, both ways."""
    other: Estimate
    """One key's model on another key's."""
    components: Components
    """Where the spread between pairs of keys comes from."""
    defects: Sequence[str]
    """What a correct pipeline cannot give, in sentences."""

    @property
    def whole(self) -> Estimate:
        """What an attacker loses who has another key's model instead of the device's."""
        return difference(self.own, self.other)

    @property
    def by_key(self) -> Estimate:
        """What of it is lost to the key: same key against other key, both trained anew."""
        return difference(self.same_key, self.other)

    @property
    def by_training(self) -> Estimate:
        """What of it is lost to training anew, with the very same key."""
        return difference(self.own, self.same_key)

    @property
    def against_no_key(self) -> Estimate:
        """What keys take from the transfer between two trainings that have none."""
        return difference(self.no_key, self.other)

    @property
    def share(self) -> Estimate:
        """The key's part of the whole, 1 where all is due to it."""
        return combine(_share, self.same_key, self.other, self.own, bounds=(-np.inf, np.inf))

    @property
    def controlled(self) -> bool:
        """Whether any control says something."""
        return any(np.isfinite(each.value) for each in (self.rekeyed, self.same_key, self.no_key))

    @property
    def bars(self) -> Sequence[tuple[str, Estimate]]:
        """The rates for a figure, from what shares most to what shares least."""
        bars = (
            ("the model itself", self.own),
            ("same function, re-keyed", self.rekeyed),
            ("same key, trained anew", self.same_key),
            ("no key, two trainings", self.no_key),
            ("another key", self.other),
        )
        return [(words, estimate) for words, estimate in bars if np.isfinite(estimate.value)]


def read_key_effect(grid: Grid) -> KeyEffect:
    """What a panel's controls tell."""
    pairs, keys = grid.pairs(), grid.keys
    seeds = of_kind(grid, "seed")
    between = pairs.among(keys, keys)
    return KeyEffect(
        panel=grid.panel,
        own=mean_rate(pairs.own(keys), grid.clusters),
        rekeyed=mean_rate(twin_pairs(grid, pairs, "rekeyed"), grid.clusters),
        same_key=mean_rate(twin_pairs(grid, pairs, "same-key"), grid.clusters),
        no_key=mean_rate(pairs.among(seeds, seeds), grid.clusters),
        other=mean_rate(between, grid.clusters),
        components=components(between),
        defects=_defects(grid),
    )


def _share(same: np.ndarray, other: np.ndarray, own: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        parts: np.ndarray = (same - other) / np.where(own == other, np.nan, own - other)
        return parts


def of_kind(grid: Grid, kind: ControlKind) -> list[str]:
    """The controls of one kind, in reading order."""
    return [
        name for name in grid.controls for of in [control_of(name)] if of is not None and of.kind == kind
    ]


def twin_pairs(grid: Grid, pairs: Pairs, kind: ControlKind) -> Pairs:
    """The pairs of a control of this kind and the key's model it is a twin of, both ways."""
    twins = {name: grid.twins[name] for name in of_kind(grid, kind) if name in grid.twins}
    wanted = {*twins.items(), *((key, name) for name, key in twins.items())}
    ends = zip(pairs.source, pairs.target, strict=True)
    chosen = [(pairs.names[source], pairs.names[target]) in wanted for source, target in ends]
    return pairs.where(np.array(chosen, dtype=bool))


def _defects(grid: Grid) -> list[str]:
    told = []
    for name in of_kind(grid, "rekeyed"):
        key = grid.twins.get(name, "")
        for source, target in ((key, name), (name, key)):
            reached, own = grid.cell(source, target).fooling.rate, grid.cell(source, source).fooling.rate
            if reached < own - _LOST:
                told.append(
                    f"Something is broken: {name} computes what {key} computes, yet images that fool "
                    f"{source} {100 * own:.1f} % of the time fool {target} only {100 * reached:.1f} %. "
                    "Believe no number of this panel before that is explained."
                )
        clean = [grid.clean(model).rate for model in (key, name)]
        if abs(clean[0] - clean[1]) > _CLEAN_APART:
            told.append(
                f"Something is broken: {name} computes what {key} computes, yet reads "
                f"{100 * clean[1]:.1f} % of clean images right instead of {100 * clean[0]:.1f} %."
            )
    return told
