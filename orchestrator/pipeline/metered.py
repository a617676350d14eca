"""Metered: a reporter that hands the numbers it is told to a meter too, for machines to watch."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast, get_args

from orchestrator.attacks.threat import Norm, Threat
from orchestrator.cluster.meter import Meter
from orchestrator.pipeline.progress import Reporter, Stage
from orchestrator.pipeline.so_far import Images, SoFar
from orchestrator.pipeline.standing import NOTHING, Standing, Used


@dataclass
class Metered:
    """What people are told, and the same numbers as metrics labelled by study and stage."""

    reporter: Reporter
    meter: Meter
    study: str
    so_far: SoFar | None = None

    def say(self, text: str) -> None:
        """One line."""
        self.reporter.say(text)

    def matrix(self, so_far: SoFar) -> None:
        """Counts to be shown and measured as they stand."""
        self.so_far = so_far
        self.reporter.matrix(so_far)

    @contextmanager
    def stage(self, name: str, total: int, done: int) -> Iterator[Stage]:
        """A stage, measured as it begins and at every artifact."""
        with self.reporter.stage(name, total, done) as told:
            stage = _MeteredStage(self, told, Standing(name, total, done, time.monotonic))
            stage.measure()
            yield stage

    def measure_matrix(self) -> None:
        """The fooling rates so far, over keyed models."""
        for panel in self.so_far.panels if self.so_far else ():
            of = panel.panel
            threat = str(Threat(cast(Norm, of.norm), of.epsilon))
            labels = {"study": self.study, "method": of.method, "attack": of.attack, "threat": threat}
            for images in get_args(Images):
                self.meter.set("fooling_rate", panel.rate(images), **labels, images=images)


class _MeteredStage:
    def __init__(self, metered: Metered, told: Stage, standing: Standing) -> None:
        self.metered, self.told, self.standing = metered, told, standing
        self.labels = {"study": metered.study, "stage": standing.name}

    def advance(self, told: str, used: Used = NOTHING) -> None:
        self.standing.advance(used)
        self._use(used)
        self.measure()
        self.metered.measure_matrix()
        self.told.advance(told, used)

    def tell(self, told: str, used: Used = NOTHING) -> None:
        self._use(used)
        self.told.tell(told, used)

    def fail(self) -> None:
        self.standing.fail()
        self.measure()
        self.told.fail()

    def measure(self) -> None:
        meter, standing = self.metered.meter, self.standing
        meter.set("artifacts", float(standing.total), **self.labels)
        meter.set("artifacts_done", float(standing.done), **self.labels)
        meter.set("artifacts_failed", float(standing.failed), **self.labels)
        meter.set("artifacts_per_minute", standing.per_minute, **self.labels)
        meter.set("seconds_left", standing.seconds_left, **self.labels)

    def _use(self, used: Used) -> None:
        self.metered.meter.use(used.seconds, **self.labels, device=used.device)
