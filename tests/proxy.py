"""The fault proxy in a process of its own: what a client does to its interpreter cannot stall it."""

import contextlib
import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

from chaos import Chaos, Seen


class Proxy:
    """``Chaos`` before a server on loopback, told over a pipe what to do; ends with its owner."""

    def __init__(self, upstream: int, seed: int = 0) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, upstream, seed), daemon=True)
        self._process.start()
        there.close()
        self.url: str = self._pipe.recv()

    def add(self, action: str, **conditions: Any) -> None:
        """Begin to do something to requests that match, as ``Chaos.add`` does."""
        self._ask("add", action, conditions)

    def calm(self) -> None:
        """Do nothing more to anyone."""
        self._ask("calm")

    def rages(self) -> bool:
        """Whether something is still to be done to requests."""
        return bool(self._ask("rages"))

    def count(self) -> int:
        """How many requests there were since ``seen`` was last asked."""
        number: int = self._ask("count")
        return number

    def seen(self) -> list[Seen]:
        """The requests since this was last asked."""
        return [Seen(*request) for request in self._ask("seen")]

    def stop(self) -> None:
        """End the proxy."""
        self._pipe.close()
        self._process.join(10)

    def _ask(self, *order: Any) -> Any:
        self._pipe.send(order)
        return self._pipe.recv()


def _serve(pipe: Connection, upstream: int, seed: int) -> None:
    with contextlib.suppress(EOFError), Chaos(upstream, seed=seed) as chaos:
        pipe.send(chaos.url)
        while True:
            pipe.send(_obey(chaos, *pipe.recv()))


def _obey(chaos: Chaos, order: str, *details: Any) -> Any:
    match order:
        case "add":
            action, conditions = details
            chaos.add(action, **conditions)
        case "calm":
            chaos.rules.clear()
        case "rages":
            return any(rule.n != 0 for rule in chaos.rules)
        case "count":
            return len(chaos.seen)
        case "seen":
            seen, chaos.seen = chaos.seen, []
            return [tuple(request) for request in seen]
    return None
