"""Meter: where a run's numbers go for machines to watch; the silent one keeps none."""

from typing import Literal, Protocol, runtime_checkable

Gauge = Literal[
    "artifacts",
    "artifacts_done",
    "artifacts_failed",
    "artifacts_per_minute",
    "seconds_left",
    "fooling_rate",
]


@runtime_checkable
class Meter(Protocol):
    """Takes numbers; labels are few and of few values, and never name a key."""

    def set(self, name: Gauge, value: float, **labels: str) -> None:
        """A number as it is now; nan where it is not known."""
        ...

    def use(self, seconds: float, **labels: str) -> None:
        """Device time on top of what there was."""
        ...


class SilentMeter:
    """Keeps nothing: nobody watches one process."""

    def set(self, name: Gauge, value: float, **labels: str) -> None:
        """Nothing."""

    def use(self, seconds: float, **labels: str) -> None:
        """Nothing."""
