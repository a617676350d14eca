"""Board: one small actor where workers leave lines of progress and the driver collects them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError


@dataclass(frozen=True)
class Begun:
    """The line that says a model has its workers."""

    model: str
    """The unit's id."""


@dataclass(frozen=True)
class Ended:
    """The line that says a model is trained and committed."""

    model: str
    """The unit's id."""
    first: bool
    """Whether it was committed here, not by another driver's worker."""


Post = Callable[[Any], None]


class _Board:
    def __init__(self) -> None:
        self.lines: list[Any] = []

    def post(self, line: Any) -> None:
        """Leave a line."""
        self.lines.append(line)

    def collect(self) -> list[Any]:
        """Lines since the last collection."""
        lines, self.lines = self.lines, []
        return lines


class Board:
    """A board on the cluster; ``post`` may be sent to any worker."""

    def __init__(self) -> None:
        self.actor = ray.remote(_Board).options(num_cpus=0).remote()

    @property
    def post(self) -> Post:
        """Leaves a line without waiting: progress never slows the work it tells of."""
        return _Poster(self.actor)

    def collect(self) -> list[Any]:
        """Lines since the last collection; none once the board is lost, which costs nobody's work."""
        try:
            lines: list[Any] = ray.get(self.actor.collect.remote())
        except RayActorError:
            return []
        return lines

    def close(self) -> None:
        """End the board."""
        ray.kill(self.actor)


class _Poster:
    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def __call__(self, line: Any) -> None:
        self.actor.post.remote(line)
