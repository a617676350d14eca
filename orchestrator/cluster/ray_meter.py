"""RayMeter: a run's numbers on the metrics port of the driver's node, where Prometheus finds them."""

import contextlib
import math
import threading
from collections.abc import Iterator
from typing import Any

from orchestrator.cluster.meter import Gauge

# An agent forgets a gauge that was not set for two of its intervals, which are of ten seconds by default.
_REPEAT_SECONDS = 5.0
_OF_STAGE = ("study", "stage")
# Ray puts "ray_" before each name, and "_total" after that of the counter.
GAUGES: dict[Gauge, tuple[str, tuple[str, ...]]] = {
    "artifacts": ("Artifacts a stage has when it is over", _OF_STAGE),
    "artifacts_done": ("Artifacts of a stage that exist", _OF_STAGE),
    "artifacts_failed": ("Artifacts of a stage that this run could not make", _OF_STAGE),
    "artifacts_per_minute": ("How fast the last artifacts of a stage came", _OF_STAGE),
    "seconds_left": ("Until a stage is over, at that rate", _OF_STAGE),
    "fooling_rate": (
        "Share of images counted by this run that fool keyed models, by whose images they are",
        ("study", "method", "attack", "threat", "images"),
    ),
}
DEVICE_SECONDS = ("Seconds of a GPU or a core this run has used", (*_OF_STAGE, "device"))


class RayMeter:
    """Numbers of the driver, exported by its node's agent some ten seconds later."""

    def __init__(self) -> None:
        # Imported with Ray's own environment set, which joining a cluster does.
        from ray.util import metrics

        self._gauges: dict[Gauge, Any] = {
            name: metrics.Gauge(f"multikey_{name}", told, tag_keys=labels)
            for name, (told, labels) in GAUGES.items()
        }
        told, labels = DEVICE_SECONDS
        self._seconds = metrics.Counter("multikey_device_seconds", told, tag_keys=labels)
        self._last: dict[tuple[Gauge, tuple[tuple[str, str], ...]], float] = {}
        self._lock = threading.Lock()

    def set(self, name: Gauge, value: float, **labels: str) -> None:
        """A number as it is now; where it is not known, the last one stays."""
        if not math.isnan(value):
            with self._lock:
                self._last[name, tuple(labels.items())] = value
                self._gauges[name].set(value, labels)

    def use(self, seconds: float, **labels: str) -> None:
        """Device time on top of what there was."""
        if seconds > 0:
            self._seconds.inc(seconds, labels)

    def repeat(self) -> None:
        """Set every number once more as it is."""
        with self._lock:
            for (name, labels), value in self._last.items():
                self._gauges[name].set(value, dict(labels))


@contextlib.contextmanager
def open_meter(repeat_seconds: float = _REPEAT_SECONDS) -> Iterator[RayMeter]:
    """A meter whose numbers are repeated while the block runs, which must end before Ray does."""
    meter, ended = RayMeter(), threading.Event()

    def repeat() -> None:
        while not ended.wait(repeat_seconds):
            meter.repeat()

    thread = threading.Thread(target=repeat, name="meter", daemon=True)
    thread.start()
    try:
        yield meter
    finally:
        ended.set()
        thread.join()
