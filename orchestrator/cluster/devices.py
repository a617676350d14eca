"""Devices of the cluster as they come and go, and who may use them: attacks take what training leaves."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

# Ray is asked at most once a second how many devices there are.
_FRESH_SECONDS = 1.0


@dataclass
class Devices:
    """GPUs or cores. A unit takes one, a full fine-tune several at once.

    Training declares what it wants; attacks fill what is left and give way when training wants more.
    So no plan deadlocks on a cluster smaller than it: what is waited for is always given back.

    Args:
        kind: what Ray calls them.
        count: how many there are now.
        asked: how many to ask a cluster that grows for; 0 takes those there are.
    """

    kind: Literal["GPU", "CPU"]
    count: Callable[[], int]
    asked: int = 0
    _wanted: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seen: tuple[float, int] = (float("-inf"), 0)

    def now(self) -> int:
        """How many the cluster has."""
        at, seen = self._seen
        if time.monotonic() - at > _FRESH_SECONDS:
            seen = self.count()
            self._seen = (time.monotonic(), seen)
        return seen

    def most(self) -> int:
        """How many may be used at once: what was asked for, else all there are, and one at least."""
        return self.asked or max(1, self.now())

    def bundle(self, sharing: int = 1) -> dict[str, float]:
        """Ray resources of one, or of an even share of one."""
        return {self.kind: 1.0 / sharing}

    def want(self, number: int) -> None:
        """Training uses or waits for so many more (fewer, where negative)."""
        with self._lock:
            self._wanted += number

    def left(self) -> int:
        """How many training leaves; none while it waits for any."""
        with self._lock:
            wanted = self._wanted
        if wanted and wanted >= self.now():
            return 0
        return self.most() - wanted
