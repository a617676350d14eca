"""ActorPoolRunner: units on Ray actors; dead actors are replaced, their units done elsewhere.

``ray.util.ActorPool`` loses the unit of an actor that dies, and all that wait once every actor has
died. Here one ledger accounts for every unit until it ends done or failed.
"""

import logging
import time
from collections.abc import Iterator
from typing import Any, Generic

import ray
from ray.exceptions import RayError, RayTaskError

from orchestrator.cluster.devices import Devices
from orchestrator.cluster.ledger import Ledger
from orchestrator.cluster.runner import BuiltOnUse, Failed, Feed, Finished, MakeWorker, Unit, attempt
from orchestrator.errors import first_line

logger = logging.getLogger(__name__)
# Actors in a row that may die before doing anything; more means that no worker can start at all.
_STARTS_LOST = 5
# How long the pool looks at what it has before it looks again whether to grow or shrink.
_TICK_SECONDS = 0.5
# A cloud may need this long to find a machine.
_PATIENCE_SECONDS = 20 * 60.0


class _Actor:
    """A worker behind Ray."""

    def __init__(self, make_worker: MakeWorker[Any]) -> None:
        self.worker: BuiltOnUse[Any] = BuiltOnUse(make_worker)

    def ready(self) -> None:
        """Returns once the actor has a machine."""

    def leave(self, _: Any) -> None:
        """Ends the actor as soon as it stands; is given its own handle, as Ray kills whom nobody holds."""
        ray.actor.exit_actor()

    def run(self, unit: Any) -> Finished[Any] | Failed[Any]:
        """One unit, its exception turned into a value."""
        return attempt(self.worker, unit)


class ActorPoolRunner:
    """Units on as many actors as training leaves devices, ``size`` at most (0: no such bound)."""

    def __init__(self, devices: Devices, size: int = 0) -> None:
        self.devices, self.size = devices, size

    def run(
        self, make_worker: MakeWorker[Unit], feed: Feed[Unit]
    ) -> Iterator[Finished[Unit] | Failed[Unit]]:
        """Every unit once; a unit whose actor died three times is Failed."""
        pool = _Pool(make_worker, self.devices, self.size, feed)
        try:
            while not pool.ended():
                pool.fit()
                yield from pool.advance()
        finally:
            pool.dismiss()


class _Pool(Generic[Unit]):
    """Actors at work on what a feed gives."""

    def __init__(
        self, make_worker: MakeWorker[Unit], devices: Devices, size: int, feed: Feed[Unit]
    ) -> None:
        self.make_worker, self.devices, self.size, self.feed = make_worker, devices, size, feed
        self.units: dict[str, Unit] = {}
        self.ledger = Ledger()
        # What each actor owes: the actor and its unit's id, None while it starts.
        self.busy: dict[Any, tuple[Any, str | None]] = {}
        # Actors given up before they stood, by what tells that they do. They are killed then and not
        # before: a kill may cross with the grant of an actor's place. Ray then holds the actor for dead,
        # and its device is taken while the job lasts; a training that waits for it would wait for ever.
        self.given_up: dict[Any, Any] = {}
        self.starts_lost = 0
        self.heard = time.monotonic()

    def ended(self) -> bool:
        """Whether every unit is settled and no other will come."""
        return not self.ledger.open and self.feed.ended()

    def fit(self) -> None:
        """Ask for actors while units wait and devices are left; give up those that are too many."""
        room = self.devices.left()
        room = min(room, self.size) if self.size else room
        starting = [done for done, (_, unit) in self.busy.items() if unit is None]
        idle = self.feed.waiting() + self.ledger.pending - len(starting)
        for _ in range(min(room - len(self.busy), idle)):
            self._hire()
        for done in starting[: max(0, len(self.busy) - room, -idle)]:
            self.given_up[done], _ = self.busy.pop(done)
        self._see_off()

    def advance(self) -> Iterator[Finished[Unit] | Failed[Unit]]:
        """Wait a little for one actor, take its account, give it the next unit."""
        if not self.busy:
            time.sleep(_TICK_SECONDS)
            return
        ended, _ = ray.wait(list(self.busy), num_returns=1, timeout=_TICK_SECONDS)
        if not ended:
            yield from self._look_at_the_clock()
            return
        self.heard = time.monotonic()
        actor, unit = self.busy.pop(ended[0])
        try:
            account = ray.get(ended[0])
        except RayError as error:
            if unit is None or not isinstance(error, RayTaskError):
                # The actor died, was preempted, or was killed for its memory.
                yield from self._bury(unit, error)
                return
            # Not the unit's own error, which is a value: the unit or its account did not travel.
            account = Failed(self.units[unit], first_line(error))
        if unit is not None:
            yield self._settle(unit, account)
        sound = not isinstance(account, Failed) or account.worker_sound
        following = self._take() if sound and len(self.busy) < self.devices.left() else None
        if following is None:
            # Nothing to do now, training wants the device, or a broken CUDA context would fail
            # whatever comes next.
            ray.kill(actor)
        else:
            self.busy[actor.run.remote(self.units[following])] = (actor, following)

    def dismiss(self) -> None:
        """End the actors that are left."""
        for actor, unit in self.busy.values():
            if unit is not None:
                ray.kill(actor)
        starting = [actor for actor, unit in self.busy.values() if unit is None]
        for actor in (*starting, *self.given_up.values()):
            actor.leave.remote(actor)

    def _see_off(self) -> None:
        """End those that were given up and stand by now, or were lost on the way."""
        waiting = list(self.given_up)
        stood, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0) if waiting else ([], [])
        for done in stood:
            ray.kill(self.given_up.pop(done))

    def _hire(self) -> None:
        """One more actor: one that was given up and is still being made, else a new one."""
        if self.given_up:
            done, actor = self.given_up.popitem()
        else:
            bundle = self.devices.bundle()
            options = {"num_cpus": bundle.get("CPU", 0), "num_gpus": bundle.get("GPU", 0)}
            actor = ray.remote(_Actor).options(**options).remote(self.make_worker)
            done = actor.ready.remote()
        self.busy[done] = (actor, None)

    def _take(self) -> str | None:
        """The id of the next unit: one that lost its actor, else one from the feed."""
        if not self.ledger.pending and (unit := self.feed.take()) is not None:
            self.units[unit.id] = unit
            self.ledger.add(unit.id)
        return self.ledger.take()

    def _settle(self, unit: str, account: Any) -> Any:
        self.starts_lost = 0
        self.ledger.settle(unit)
        del self.units[unit]
        return account

    def _bury(self, unit: str | None, error: Exception) -> Iterator[Failed[Unit]]:
        kind = type(error).__name__
        logger.warning("an actor died (%s): %s", kind, unit or "while starting")
        if unit is None:
            self.starts_lost += 1
        elif not self.ledger.lose(unit):
            tries = self.ledger.attempts(unit)
            yield Failed(self.units.pop(unit), f"its worker died {tries} times ({kind})")
        if self.starts_lost >= _STARTS_LOST:
            yield from self._give_up(f"no worker could be started ({kind}: {first_line(error)})")

    def _look_at_the_clock(self) -> Iterator[Failed[Unit]]:
        working = any(unit is not None for _, unit in self.busy.values())
        if not working and time.monotonic() - self.heard > _PATIENCE_SECONDS:
            minutes = _PATIENCE_SECONDS / 60
            kind = self.devices.kind
            yield from self._give_up(
                f"no node with a free {kind} came within {minutes:.0f} minutes; the cluster has "
                f"{self.devices.now()}"
            )

    def _give_up(self, reason: str) -> Iterator[Failed[Unit]]:
        """Fail what waits; what runs may still end well."""
        while (waiting := self._take()) is not None:
            self.ledger.settle(waiting)
            yield Failed(self.units.pop(waiting), reason)
        self.starts_lost, self.heard = 0, time.monotonic()
