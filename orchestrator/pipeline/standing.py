"""Standing of a stage under way: how much is there, how fast it comes, and the device time it took."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

# The rate is that of the last so many: a stage that waited for another is not slow for ever.
_RECENT = 32


class Used(NamedTuple):
    """Time on a device."""

    seconds: float = 0.0
    device: str = "cpu"
    """Its type, as torch names it."""


NOTHING = Used()


class Standing:
    """Counts of one stage; its rate is that of its last artifacts until now, so it falls while none comes.

    Args:
        name: of the stage.
        total: its artifacts.
        done: those that existed when it began.
        clock: seconds, from any origin.
    """

    def __init__(self, name: str, total: int, done: int, clock: Callable[[], float]) -> None:
        self.name, self.total, self.done, self.clock = name, total, done, clock
        self.began, self.failed = clock(), 0
        self.used: dict[str, float] = {}
        self._made = deque([self.began], maxlen=_RECENT + 1)

    def advance(self, used: Used) -> None:
        """One more artifact is there."""
        self.done += 1
        self._made.append(self.clock())
        self.use(used)

    def use(self, used: Used) -> None:
        """Devices were at work."""
        if used.seconds:
            self.used[used.device] = self.used.get(used.device, 0.0) + used.seconds

    def fail(self) -> None:
        """One artifact could not be made."""
        self.failed += 1

    @property
    def seconds_gone(self) -> float:
        """Since it began; where all is there, until the last artifact was."""
        return (self._made[-1] if self.done == self.total else self.clock()) - self.began

    @property
    def per_minute(self) -> float:
        """Artifacts a minute; 0 while none was made."""
        until = self._made[-1] if self.done == self.total else self.clock()
        seconds = until - self._made[0]
        return 60 * (len(self._made) - 1) / seconds if seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float:
        """Until the last artifact, at this rate; nan where none was made and some are left."""
        rate, left = self.per_minute, self.total - self.done - self.failed
        if not left:
            return 0.0
        return 60 * left / rate if rate else math.nan


def rate_words(per_minute: float) -> str:
    """A rate as people read it, by the minute or, where it is slow, by the hour."""
    if per_minute >= 1:
        return f"{per_minute:,.0f}/min" if per_minute >= 10 else f"{per_minute:.1f}/min"
    return f"{60 * per_minute:.1f}/h"


def used_words(used: Mapping[str, float]) -> str:
    """Device time as people read it: ``1,234 GPU-s``, with ``core-s`` for what ran on no GPU."""
    cores = used.get("cpu", 0.0)
    by_unit = {"GPU-s": sum(used.values()) - cores, "core-s": cores}
    return ", ".join(
        f"{seconds:,.{int(seconds < 10)}f} {unit}" for unit, seconds in by_unit.items() if seconds >= 0.05
    )
