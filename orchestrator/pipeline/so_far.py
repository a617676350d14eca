"""The matrix so far: who is fooled by whose images, counted as it comes, binned for many models."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from orchestrator.models.ref import PLAIN, ModelRef
from orchestrator.transfer.account import UnitAccount, counted_targets, panel_method
from orchestrator.transfer.matrix import CELL, Panel, TransferMatrix
from orchestrator.transfer.work import WorkUnit

MOST_ROWS = 32
Images = Literal["own key", "other keys", "plain"]
"""Whose images a keyed model was tried with."""


@dataclass(frozen=True)
class Axis:
    """The models of one method, as rows and as columns."""

    labels: tuple[str, ...]
    """A model's name each, or how many models stand together."""
    places: Mapping[str, int]
    """Where a model stands, by its name."""
    keyed: frozenset[str]

    @classmethod
    def of(cls, models: Sequence[ModelRef], method: str) -> "Axis":
        """Plain, keyed models in slot order, then controls; of very many keys some share a place."""
        mine = [model for model in models if model.method == method]
        keyed = [model.name for model in mine if not model.control]
        names = [PLAIN, *keyed, *(model.name for model in mine if model.control)]
        if len(names) <= MOST_ROWS:
            return cls(tuple(names), {name: place for place, name in enumerate(names)}, frozenset(keyed))
        bins = MOST_ROWS - 1
        places = {PLAIN: 0} | {name: 1 + at * bins // len(keyed) for at, name in enumerate(keyed)}
        shared = np.bincount(list(places.values()))
        labels = (PLAIN, *(f"{count} keys" for count in shared[1:]))
        return cls(labels, places, frozenset(keyed))


@dataclass(frozen=True)
class PanelSoFar:
    """Counts of one panel."""

    panel: Panel
    axis: Axis
    fooled: np.ndarray
    """Images by source and target, as the axis has them."""
    eligible: np.ndarray
    by_images: dict[Images, list[int]] = field(
        default_factory=lambda: {images: [0, 0] for images in get_args(Images)}
    )
    """Fooled and eligible images of keyed targets, controls apart."""

    def add(self, source: str, target: str, fooled: int, eligible: int) -> None:
        """Count images of one source tried on one target; what is not on the axis is left out."""
        places = self.axis.places
        if source not in places or target not in places:
            return
        cell = places[source], places[target]
        self.fooled[cell] += fooled
        self.eligible[cell] += eligible
        keyed = self.axis.keyed
        if target in keyed and (source in keyed or source == PLAIN):
            images: Images = "plain" if source == PLAIN else "own key" if source == target else "other keys"
            self.by_images[images][0] += fooled
            self.by_images[images][1] += eligible

    def rates(self) -> Float[np.ndarray, "sources targets"]:
        """Fooling rates in [0, 1] of the pooled images of each cell; nan where none was eligible."""
        with np.errstate(invalid="ignore"):
            rates: np.ndarray = self.fooled / self.eligible
        return rates

    def rate(self, images: Images) -> float:
        """The fooling rate over all such images so far; nan where none was eligible."""
        fooled, eligible = self.by_images[images]
        return fooled / eligible if eligible else float("nan")

    @property
    def cells(self) -> tuple[int, int]:
        """How many cells have images, and how many there are."""
        return int((self.eligible > 0).sum()), self.eligible.size


class SoFar:
    """Counts by panel; memory is bounded, whatever the number of models."""

    def __init__(self, models: Sequence[ModelRef]) -> None:
        methods = dict.fromkeys(model.method for model in models if model.method != "plain")
        self.axes: dict[str, Axis] = {method: Axis.of(models, method) for method in methods}
        self._panels: dict[Panel, PanelSoFar] = {}

    @property
    def panels(self) -> list[PanelSoFar]:
        """Those with counts, in the order in which they came."""
        return list(self._panels.values())

    def add_unit(self, unit: WorkUnit, account: UnitAccount) -> None:
        """Count a unit that is done, under its widest threat."""
        threat = unit.ladder.threats[-1]
        counts = zip(counted_targets(unit), account.fooled, account.eligible, strict=True)
        for target, fooled, eligible in counts:
            panel = Panel(panel_method(unit, target), unit.attack, threat.norm, threat.epsilon)
            self._add(panel, unit.source.name, target.name, fooled, eligible)

    def add_matrix(self, matrix: TransferMatrix) -> None:
        """Count what a matrix has, under every threat."""
        names = (*CELL, "fooled", "eligible")
        columns = [matrix.table[name].to_pylist() for name in names]
        for *panel, source, target, fooled, eligible in zip(*columns, strict=True):
            self._add(Panel(*panel), source, target, fooled, eligible)

    def _add(self, panel: Panel, source: str, target: str, fooled: int, eligible: int) -> None:
        for each in self._where(panel):
            if each not in self._panels:
                axis = self.axes[each.method]
                nothing = np.zeros((len(axis.labels), len(axis.labels)), np.int64)
                self._panels[each] = PanelSoFar(each, axis, nothing, nothing.copy())
            self._panels[each].add(source, target, fooled, eligible)

    def _where(self, panel: Panel) -> Iterable[Panel]:
        """The undefended model on itself stands in the panels of every method."""
        if panel.method != "plain":
            return [panel]
        return [Panel(method, panel.attack, panel.norm, panel.epsilon) for method in self.axes]
