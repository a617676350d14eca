"""Storms: faults drawn by a seed, and a study that has to come through them.

Which faults strike, when (as a share of an undisturbed run) and for how long is decided by the seed; what
exactly they hit depends on timing.
"""

import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from study_site import ATTACK_ACTOR, KEY_DESK, TRAIN_WORKER, TUNE_WORKER, Driver, Site

STRIKES_PER_STORM = 6
# Where a strike finds no victim, a storm ends after so many times the seconds of an undisturbed run.
_LONGEST = 5.0
# Reruns of the command after a storm; the first should do.
_RERUNS = 3
_REASON = re.compile("failed:|error:|Traceback")
_TICK_SECONDS = 0.2
_BALLAST_BYTES = 1 << 20


@dataclass(frozen=True)
class Strike:
    """One fault of a plan."""

    kind: str
    at: float
    """When: after this share of the seconds or of the requests of an undisturbed run."""
    seconds: float
    """How long it lasts, where it lasts."""


@dataclass(frozen=True)
class Calm:
    """What the study takes when nothing disturbs it."""

    seconds: float
    requests: int


@dataclass
class Storm:
    """A study under a plan of faults, and what became of both."""

    site: Site
    driver: Driver
    calm: Calm
    waiting: list[Strike]
    struck: Counter[str] = field(default_factory=Counter)
    endings: list[tuple[int | str, ...]] = field(default_factory=list)
    """Exit statuses but 0 and a kill, each with the sentences that gave the reasons."""
    passing: list[tuple[float, Callable[[], object]]] = field(default_factory=list)
    """When which fault is over, and how."""
    seconds: float = 0.0
    """Until the study was done."""
    again_seconds: float = 0.0
    """Of the same command once more."""

    def later(self, seconds: float, over: Callable[[], object]) -> bool:
        """End a fault after a while."""
        self.passing.append((time.monotonic() + seconds, over))
        return True

    def rage(self) -> None:
        """Run the study while the plan lasts, then undisturbed to the end, then once more."""
        began = time.monotonic()
        self.driver.start()
        while self._goes_on(time.monotonic() - began):
            self._strike(self._share(time.monotonic() - began))
            self._start_again()
            time.sleep(_TICK_SECONDS)
        self._end_all()
        reruns = 0
        while self.driver.end() != 0 and reruns < _RERUNS:
            reruns += 1
            self._start_again()
        self.seconds = time.monotonic() - began
        self.driver.start().finish()
        self.again_seconds = time.monotonic() - began - self.seconds

    def give_up(self) -> None:
        """End all faults and the driver."""
        self._end_all()
        if self.driver.status() is None:
            self.driver.kill()

    def _goes_on(self, seconds: float) -> bool:
        left = self.waiting or self.passing or self.site.proxy.rages()
        return bool(left) and self.driver.status() != 0 and seconds < _LONGEST * self.calm.seconds

    def _share(self, seconds: float) -> float:
        """How much of an undisturbed run has gone; by requests where the machine is faster than it was."""
        return max(seconds / self.calm.seconds, self.site.proxy.count() / self.calm.requests)

    def _strike(self, share: float) -> None:
        """Begin what is due and finds its victim; end what is over."""
        for strike in [strike for strike in self.waiting if strike.at <= share]:
            if KINDS[strike.kind](self, strike.seconds):
                self.waiting.remove(strike)
                self.struck[strike.kind] += 1
        now = time.monotonic()
        for passing in [passing for passing in self.passing if passing[0] <= now]:
            self.passing.remove(passing)
            passing[1]()

    def _start_again(self) -> None:
        """Start a driver that ended otherwise than well again."""
        status = self.driver.status()
        if status in (None, 0):
            return
        if status > 0:
            lines = self.driver.said.splitlines()
            self.endings.append((status, *(line for line in lines if _REASON.search(line))))
        self.driver.start()

    def _end_all(self) -> None:
        while self.passing:
            self.passing.pop()[1]()
        self.site.proxy.calm()


Kind = Callable[[Storm, float], bool]


def weather(action: str, requests: int, **conditions: Any) -> Kind:
    """What the proxy does to so many requests from now on, or until the storm is over.

    By number and not by time: while workers import or compute, seconds go by without a request to hit.
    """

    def begin(storm: Storm, _: float) -> bool:
        storm.site.proxy.add(action, n=requests, **conditions)
        return True

    return begin


def death(title: str) -> Kind:
    """The end of one worker, as soon as there is one."""
    return lambda storm, _: storm.site.kill_worker(title)


def driver_killed(storm: Storm, _: float) -> bool:
    """The driver ends; the storm starts it again."""
    storm.driver.kill()
    return True


def raylet_killed(storm: Storm, _: float) -> bool:
    """Ray's own process on a node ends; another node joins."""
    storm.site.take_node().kill_raylet()
    storm.site.add_node()
    return True


def node_lost(storm: Storm, _: float) -> bool:
    """Everything on a node ends; another node joins."""
    storm.site.take_node().kill()
    storm.site.add_node()
    return True


def spot_taken(storm: Storm, seconds: float) -> bool:
    """A node is told that it will be taken, and is; another joins."""
    node = storm.site.take_node()
    node.warn(int(seconds) + 1)

    def taken() -> None:
        node.kill()
        storm.site.add_node()

    return storm.later(seconds, taken)


def store_killed(storm: Storm, seconds: float) -> bool:
    """All of the store's daemons end at once, and are started again."""
    storm.site.ceph.kill()
    return storm.later(seconds / 4, storm.site.ceph.start)


def disk_full(storm: Storm, seconds: float) -> bool:
    """The disk of the nodes' cache has not a byte left for a while."""
    ballast = storm.site.cache / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            while file.write(bytes(_BALLAST_BYTES)):
                pass
    except OSError:
        return storm.later(seconds, lambda: ballast.unlink(missing_ok=True))
    return False


KINDS: dict[str, Kind] = {
    "driver killed": driver_killed,
    "attack actor killed": death(ATTACK_ACTOR),
    "Train worker killed": death(TRAIN_WORKER),
    "Tune worker killed": death(TUNE_WORKER),
    "key desk killed": death(KEY_DESK),
    "raylet killed": raylet_killed,
    "node lost": node_lost,
    "spot node taken": spot_taken,
    "store killed": store_killed,
    "503 SlowDown": weather("status", 40, p=0.3),
    "resets": weather("reset", 30, p=0.2, after=200),
    "truncation": weather("truncate", 30, p=0.2, after=400),
    "lost replies": weather("lost_reply", 30, p=0.2),
    "latency": weather("latency", 100, seconds=0.3),
    "refused connections": weather("refuse", 60, p=0.7),
    "expired credentials": weather("status", 12, status=403, code="ExpiredToken"),
    "disk full": disk_full,
}


def plans(seed: int, kinds: list[str]) -> Iterator[list[Strike]]:
    """Plans of storms without end; every kind comes before any comes again, none twice in a storm."""
    draw, deck = random.Random(seed), list[str]()
    while True:
        plan = dict[str, Strike]()
        while len(plan) < STRIKES_PER_STORM:
            deck = deck or sorted(draw.sample(kinds, len(kinds)), key=lambda kind: kind not in plan)
            kind = deck.pop()
            plan[kind] = Strike(kind, draw.uniform(0.05, 0.95), draw.uniform(4.0, 16.0))
        yield sorted(plan.values(), key=lambda strike: strike.at)
