"""Workplace: where training and units run; LocalWorkplace is this process, its twin is Ray."""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from orchestrator.cluster.meter import Meter, SilentMeter
from orchestrator.cluster.runner import Failed, Feed, Finished, Listed, LocalRunner, MakeWorker, Unit
from orchestrator.keys.vault import KeySource, VaultAt
from orchestrator.training.finetune import Tell, TrainingUnit, finetune
from orchestrator.training.in_memory import Decoded
from orchestrator.training.place import Place

Trained = Finished[TrainingUnit] | Failed[TrainingUnit]
Worked = Finished[Unit] | Failed[Unit]


@runtime_checkable
class Workplace(Protocol):
    """Runs what a study needs; every unit comes back once, as Finished or Failed."""

    @property
    def description(self) -> str:
        """One line: what this workplace has."""
        ...

    def meter(self) -> AbstractContextManager[Meter]:
        """Where a run's numbers go for machines to watch, while the block runs."""
        ...

    def keys(self, vault: str) -> AbstractContextManager[KeySource]:
        """How the workers of this workplace get at the keys of a vault, while the block runs."""
        ...

    def train(self, units: Sequence[TrainingUnit], tell: Tell) -> Iterator[Trained]:
        """Train units of any methods; ``tell`` gets every epoch. An account says what ``finetune`` said."""
        ...

    def work(
        self, make_worker: MakeWorker[Unit], feed: Feed[Unit], *, on_cores: bool = False
    ) -> Iterator[Worked[Unit]]:
        """Run units on workers; ``on_cores`` where they have no use for a GPU."""
        ...

    def together(
        self, training: Iterator[Trained], work: Iterator[Worked[Unit]]
    ) -> Iterator[Trained | Worked[Unit]]:
        """Both, as their items come; side by side where there is room."""
        ...


class LocalWorkplace:
    """Everything one after another in this process; needs no Ray."""

    description = "this process alone"

    def __init__(self, *, compiled: bool = False) -> None:
        self.compiled = compiled

    def meter(self) -> AbstractContextManager[Meter]:
        """One that keeps nothing."""
        return contextlib.nullcontext(SilentMeter())

    def keys(self, vault: str) -> AbstractContextManager[KeySource]:
        """The vault itself."""
        return contextlib.nullcontext(VaultAt(vault))

    def train(self, units: Sequence[TrainingUnit], tell: Tell) -> Iterator[Trained]:
        """Train units in their order."""
        yield from LocalRunner().run(lambda: _Trainer(tell, self.compiled), Listed(units))

    def work(
        self, make_worker: MakeWorker[Unit], feed: Feed[Unit], *, on_cores: bool = False
    ) -> Iterator[Worked[Unit]]:
        """Run units in their order."""
        del on_cores
        yield from LocalRunner().run(make_worker, feed)

    def together(
        self, training: Iterator[Trained], work: Iterator[Worked[Unit]]
    ) -> Iterator[Trained | Worked[Unit]]:
        """First training, then work."""
        yield from training
        yield from work


class _Trainer:
    def __init__(self, tell: Tell, compiled: bool) -> None:
        self.tell, self.place, self.decoded = tell, Place.here(compiled=compiled), Decoded()

    def run(self, unit: TrainingUnit) -> bool:
        return finetune(unit, self.place, self.tell, self.decoded)
