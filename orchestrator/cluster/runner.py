"""Runner: yields every unit's outcome once, in any order; LocalRunner does it in this process."""

import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from orchestrator.errors import OrchestratorError


@runtime_checkable
class Identified(Protocol):
    """A unit: frozen settings with a readable id, unique among the units of a run."""

    @property
    def id(self) -> str:
        """The unit's name in ledgers and logs."""
        ...


Unit = TypeVar("Unit", bound=Identified)
UnitIn = TypeVar("UnitIn", bound=Identified, contravariant=True)
UnitOut = TypeVar("UnitOut", bound=Identified, covariant=True)


@runtime_checkable
class Worker(Protocol[UnitIn]):
    """Does one unit after another; a plain class, built where it runs."""

    def run(self, unit: UnitIn) -> Any:
        """Do the unit, commit what it makes, return a small account of it."""
        ...


@dataclass(frozen=True)
class Finished(Generic[Unit]):
    """A unit that is done, and its account."""

    unit: Unit
    account: Any
    seconds: float


@dataclass(frozen=True)
class Failed(Generic[Unit]):
    """A unit that is not done: a value, so that the others go on."""

    unit: Unit
    reason: str
    """One line: the error's type and message."""
    trace: str = ""
    worker_sound: bool = True
    """Whether the worker may go on: its error was one of ours, told in a sentence."""


MakeWorker = Callable[[], Worker[Unit]]


@runtime_checkable
class Feed(Protocol[UnitOut]):
    """Where units come from; some may wait for what other units make. Safe to ask from any thread."""

    def take(self) -> UnitOut | None:
        """A unit that can be done now, handed out once; None while there is none."""
        ...

    def waiting(self) -> int:
        """How many units can be done now."""
        ...

    def ended(self) -> bool:
        """Whether none is waiting and none will come."""
        ...


class Listed(Generic[Unit]):
    """A feed of units that are all known and ready, in their order."""

    def __init__(self, units: Iterable[Unit]) -> None:
        self.units = deque(units)

    def take(self) -> Unit | None:
        """The next unit."""
        return self.units.popleft() if self.units else None

    def waiting(self) -> int:
        """How many are left."""
        return len(self.units)

    def ended(self) -> bool:
        """Whether all were taken."""
        return not self.units


@runtime_checkable
class Runner(Protocol):
    """Runs units somewhere."""

    def run(
        self, make_worker: MakeWorker[Unit], feed: Feed[Unit]
    ) -> Iterator[Finished[Unit] | Failed[Unit]]:
        """Every unit of the feed exactly once, as Finished or Failed, in any order."""
        ...


class LocalRunner:
    """One worker in this process; the twin of the actor pool that needs no cluster."""

    def run(
        self, make_worker: MakeWorker[Unit], feed: Feed[Unit]
    ) -> Iterator[Finished[Unit] | Failed[Unit]]:
        """Units as the feed gives them; here nothing comes while nobody works, so none left is the end."""
        worker = BuiltOnUse(make_worker)
        while (unit := feed.take()) is not None:
            yield attempt(worker, unit)


class BuiltOnUse(Generic[Unit]):
    """A worker built for its first unit, so that an error in building it is that unit's failure."""

    def __init__(self, make_worker: MakeWorker[Unit]) -> None:
        self.make_worker = make_worker
        self.worker: Worker[Unit] | None = None

    def run(self, unit: Unit) -> Any:
        """The unit's account by the worker."""
        if self.worker is None:
            self.worker = self.make_worker()
        return self.worker.run(unit)


def attempt(worker: Worker[Unit], unit: Unit) -> Finished[Unit] | Failed[Unit]:
    """The worker's edge: an exception of a unit becomes its failure."""
    started = time.monotonic()
    try:
        account = worker.run(unit)
    except Exception as error:  # the one place where a unit's error is turned into a value
        sound = isinstance(error, OrchestratorError)
        return Failed(unit, f"{type(error).__name__}: {error}", traceback.format_exc(), sound)
    return Finished(unit, account, time.monotonic() - started)
