"""Synthetic units of known length, and the worker that sleeps through them; imports nothing large."""

import os
import resource
import sys
import time
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Nap:
    """A unit of known length."""

    id: str
    seconds: float


class Slept(NamedTuple):
    """What a unit was like where it ran; times by the machine's clock, which all fake nodes share."""

    process: int
    began: float
    ended: float
    peak_bytes: int
    """The most memory its process has held."""
    torch: bool
    """Whether torch was imported there."""


class Sleeper:
    """Does nothing, for as long as it is told."""

    def run(self, unit: Nap) -> Slept:
        """Sleep through a unit."""
        began = time.time()
        time.sleep(unit.seconds)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Slept(os.getpid(), began, time.time(), peak, "torch" in sys.modules)
