"""Workplace: where training and units run; LocalWorkplace is this process, its twin is Ray."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from orchestrator.cluster.runner import Failed, Finished, LocalRunner, MakeWorker, Unit
from orchestrator.training.finetune import Tell, TrainingUnit, finetune
from orchestrator.training.place import Place


@runtime_checkable
class Workplace(Protocol):
    """Runs what a study needs; every unit comes back once, as Finished or Failed."""

    @property
    def description(self) -> str:
        """One line: what this workplace has."""
        ...

    def train(
        self, units: Sequence[TrainingUnit], tell: Tell
    ) -> Iterator[Finished[TrainingUnit] | Failed[TrainingUnit]]:
        """Train units of one method; ``tell`` gets every epoch."""
        ...

    def work(
        self, make_worker: MakeWorker[Unit], units: Sequence[Unit]
    ) -> Iterator[Finished[Unit] | Failed[Unit]]:
        """Run units on workers."""
        ...


class LocalWorkplace:
    """Everything one after another in this process; needs no Ray."""

    description = "this process alone"

    def train(
        self, units: Sequence[TrainingUnit], tell: Tell
    ) -> Iterator[Finished[TrainingUnit] | Failed[TrainingUnit]]:
        """Train units in their order."""
        yield from LocalRunner().run(lambda: _Trainer(tell), units)

    def work(
        self, make_worker: MakeWorker[Unit], units: Sequence[Unit]
    ) -> Iterator[Finished[Unit] | Failed[Unit]]:
        """Run units in their order."""
        yield from LocalRunner().run(make_worker, units)


class _Trainer:
    def __init__(self, tell: Tell) -> None:
        self.tell = tell

    def run(self, unit: TrainingUnit) -> None:
        finetune(unit, Place.here(), self.tell)
