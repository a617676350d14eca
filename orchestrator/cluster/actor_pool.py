"""ActorPoolRunner: units on Ray actors; dead actors are replaced, their units done elsewhere.

``ray.util.ActorPool`` loses the unit of an actor that dies, and all that wait once every actor has
died. Here one ledger accounts for every unit until it ends done or failed.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Generic

import ray
from ray.exceptions import RayError, RayTaskError

from orchestrator.cluster.ledger import Ledger
from orchestrator.cluster.runner import BuiltOnUse, Failed, Finished, MakeWorker, Unit, attempt
from orchestrator.cluster.session import Cluster
from orchestrator.errors import first_line

logger = logging.getLogger(__name__)
# Actors in a row that may die before doing anything; more means that no worker can start at all.
_STARTS_LOST = 5


class _Actor:
    """A worker behind Ray."""

    def __init__(self, make_worker: MakeWorker[Any]) -> None:
        self.worker: BuiltOnUse[Any] = BuiltOnUse(make_worker)

    def ready(self) -> None:
        """Returns once the actor has a machine."""

    def run(self, unit: Any) -> Finished[Any] | Failed[Any]:
        """One unit, its exception turned into a value."""
        return attempt(self.worker, unit)


class ActorPoolRunner:
    """Units on up to ``size`` actors of one slot each (0: as many as the cluster has slots)."""

    def __init__(self, cluster: Cluster, size: int = 0) -> None:
        self.cluster = cluster
        self.size = size or cluster.slots

    def run(
        self, make_worker: MakeWorker[Unit], units: Sequence[Unit]
    ) -> Iterator[Finished[Unit] | Failed[Unit]]:
        """Every unit once; a unit whose actor died three times is Failed."""
        pool = _Pool(make_worker, self.cluster, units)
        try:
            for _ in range(min(self.size, len(units))):
                pool.hire()
            while pool.ledger.open:
                yield from pool.advance()
        finally:
            pool.dismiss()


class _Pool(Generic[Unit]):
    """Actors at work on one list of units."""

    def __init__(self, make_worker: MakeWorker[Unit], cluster: Cluster, units: Sequence[Unit]) -> None:
        self.make_worker, self.cluster = make_worker, cluster
        self.units = {unit.id: unit for unit in units}
        self.ledger = Ledger([unit.id for unit in units])
        # What each actor owes: the actor and its unit's id, None while it starts.
        self.busy: dict[Any, tuple[Any, str | None]] = {}
        self.starts_lost = 0

    def hire(self) -> None:
        """Ask for one more actor; it gets its first unit once it has a machine."""
        bundle = self.cluster.bundle()
        options = {"num_cpus": bundle.get("CPU", 0), "num_gpus": bundle.get("GPU", 0)}
        actor = ray.remote(_Actor).options(**options).remote(self.make_worker)
        self.busy[actor.ready.remote()] = (actor, None)

    def advance(self) -> Iterator[Finished[Unit] | Failed[Unit]]:
        """Wait for one actor, take its account, give it the next unit."""
        (done,), _ = ray.wait(list(self.busy), num_returns=1)
        actor, unit = self.busy.pop(done)
        try:
            account = ray.get(done)
        except RayError as error:
            if unit is None or not isinstance(error, RayTaskError):
                # The actor died, was preempted, or was killed for its memory.
                yield from self._bury(unit, error)
                return
            # Not the unit's own error, which is a value: the unit or its account did not travel.
            account = Failed(self.units[unit], first_line(error))
        if unit is not None:
            self.starts_lost = 0
            self.ledger.settle(unit)
            yield account
        if isinstance(account, Failed) and not account.worker_sound:
            # A broken CUDA context fails whatever comes next: go on with a fresh process.
            ray.kill(actor)
            if self.ledger.pending:
                self.hire()
            return
        following = self.ledger.take()
        if following is None:
            ray.kill(actor)
        else:
            self.busy[actor.run.remote(self.units[following])] = (actor, following)

    def dismiss(self) -> None:
        """End the actors that are left."""
        for actor, _ in self.busy.values():
            ray.kill(actor)

    def _bury(self, unit: str | None, error: Exception) -> Iterator[Failed[Unit]]:
        kind = type(error).__name__
        logger.warning("an actor died (%s): %s", kind, unit or "while starting")
        if unit is None:
            self.starts_lost += 1
        elif not self.ledger.lose(unit):
            tries = self.ledger.attempts(unit)
            yield Failed(self.units[unit], f"its worker died {tries} times ({kind})")
        if self.starts_lost < _STARTS_LOST:
            if self.ledger.pending:
                self.hire()
        elif not self.busy:
            while (waiting := self.ledger.take()) is not None:
                self.ledger.settle(waiting)
                told = f"no worker could be started ({kind}: {first_line(error)})"
                yield Failed(self.units[waiting], told)
