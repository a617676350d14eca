"""Board: one small actor where workers leave lines of progress and the driver collects them."""

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError


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
    def post(self) -> Callable[[Any], None]:
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
