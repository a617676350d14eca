"""How well the actor pool keeps devices busy, and what ten thousand units cost the driver.

Real Ray, its real autoscaler and the real pool; the nodes are raylets on this machine with logical
GPUs, and the units sleep. So what is measured is the orchestration: hiring, handing out, settling.
"""

import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import ray
from sleeper import Nap, Sleeper, Slept

from orchestrator.cluster.actor_pool import ActorPoolRunner
from orchestrator.cluster.devices import Devices
from orchestrator.cluster.runner import Feed, Finished, Listed

SIZES = (1, 2, 4, 8, 16, 32)
GPUS_A_NODE = 8
_SHORTEST, _LONGEST = 0.5, 2.0
_RAMP_SECONDS = 180.0
_UNITS, _UNIT_SECONDS, _ACTORS = 10_000, 0.005, 6


class Naps:
    """A feed of units with lengths drawn from a seed, until it is closed."""

    def __init__(self, seed: int) -> None:
        self.lengths = random.Random(seed)  # noqa: S311 - lengths, not secrets
        self.numbers = itertools.count()
        self.open = True

    def take(self) -> Nap | None:
        """The next unit."""
        if not self.open:
            return None
        return Nap(f"nap-{next(self.numbers):06d}", self.lengths.uniform(_SHORTEST, _LONGEST))

    def waiting(self) -> int:
        """More than any pool has slots, while open."""
        return 1000 if self.open else 0

    def ended(self) -> bool:
        """Whether it is closed."""
        return not self.open


def devices(number: int) -> Devices:
    """So many of the cluster's GPUs."""
    return Devices("GPU", lambda: int(ray.cluster_resources().get("GPU", 0)), number)


def finished(feed: Feed[Nap], slots: int) -> Iterator[Finished[Nap]]:
    """The accounts of a pool of so many; a failure ends the bench."""
    for account in ActorPoolRunner(devices(slots)).run(Sleeper, feed):
        if not isinstance(account, Finished):
            raise SystemExit(f"{account.unit.id}: {account.reason}")
        yield account


def efficiency(slots: int, seconds: float, seed: int) -> dict[str, Any]:
    """Keep ``slots`` busy for ``seconds`` after the last of them has begun."""
    feed, naps = Naps(seed), []
    asked, closes, processes = time.time(), float("inf"), set()
    for account in finished(feed, slots):
        naps.append((account.unit.seconds, account.account))
        processes.add(account.account.process)
        if len(processes) == slots and closes == float("inf"):
            closes = time.time() + seconds
        if time.time() > min(closes, asked + _RAMP_SECONDS + seconds):
            feed.open = False
    return summed(slots, asked, min(closes, time.time()), naps)


def summed(slots: int, asked: float, closed: float, naps: list[tuple[float, Slept]]) -> dict[str, Any]:
    """Efficiency while all slots have work, and from first to last, by the lengths units should have."""
    first: dict[int, float] = {}
    for _, slept in naps:
        first[slept.process] = min(first.get(slept.process, slept.began), slept.began)
    full = max(first.values())
    busy = sum(length * overlap(slept, full, closed) for length, slept in naps)
    began, ended = min(first.values()), max(slept.ended for _, slept in naps)
    late = sorted(slept.ended - slept.began - length for length, slept in naps)
    return {
        "slots": slots,
        "reached": len(first),
        "units": len(naps),
        "to_first_unit": began - asked,
        "ramp": full - began,
        "steady": busy / (slots * (closed - full)),
        "whole": sum(length for length, _ in naps) / (slots * (ended - began)),
        "oversleeping": late[len(late) // 2],
        "worker_bytes": max(slept.peak_bytes for _, slept in naps),
        "torch": any(slept.torch for _, slept in naps),
    }


def overlap(slept: Slept, start: float, end: float) -> float:
    """The share of a unit that lies between two times."""
    return max(0.0, min(slept.ended, end) - max(slept.began, start)) / (slept.ended - slept.began)


@contextmanager
def watched(every_seconds: float = 1.0) -> Iterator[list[int]]:
    """Bytes this process holds, once a second while the block runs."""
    samples, over, me = [], threading.Event(), psutil.Process()

    def watch() -> None:
        while not over.wait(every_seconds):
            samples.append(me.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def ten_thousand() -> dict[str, Any]:
    """Ten thousand short units on a few actors: wall time, and the driver's memory over it."""
    names = (f"apgd-ce-linf-8of255/k-{n // 400:012x}.full/{n % 400:05d}/68df4fee" for n in range(_UNITS))
    feed = Listed([Nap(name, _UNIT_SECONDS) for name in names])
    began, computing, done = time.monotonic(), time.process_time(), 0
    with watched() as samples:
        for _ in finished(feed, _ACTORS):
            done += 1
    wall, cpu = time.monotonic() - began, time.process_time() - computing
    start, middle, end = samples[len(samples) // 10], samples[len(samples) // 2], samples[-1]
    told = {"start": start, "middle": middle, "end": end, "grown": end / middle - 1}
    return {"units": done, "wall": wall, "cpu": cpu, "actors": _ACTORS, **told}


def measure(seconds: float, seed: int) -> dict[str, Any]:
    """Every size in turn, then the ten thousand, on the cluster this process may join."""
    ray.init("auto", log_to_driver=False)
    sizes = [efficiency(slots, seconds, seed + slots) for slots in SIZES]
    return {"sizes": sizes, "many": ten_thousand()}
