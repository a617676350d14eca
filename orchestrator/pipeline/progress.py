"""Progress: what tells people how far a study is; plain timestamped lines for job logs, CI and files."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

from orchestrator.pipeline.heatmap import summary_words
from orchestrator.pipeline.so_far import SoFar
from orchestrator.pipeline.standing import NOTHING, Standing, Used, rate_words, used_words
from orchestrator.report.wording import duration, panel_words

_LINE_SECONDS = 5.0
_MATRIX_SECONDS = 30.0
# Of many panels a log names so many; the report has them all.
_MOST_PANELS = 4


@runtime_checkable
class Stage(Protocol):
    """One stage under way."""

    def advance(self, told: str, used: Used = NOTHING) -> None:
        """One more artifact is there, and what it took on top of what was told before."""
        ...

    def tell(self, told: str, used: Used = NOTHING) -> None:
        """Something happened inside an artifact's making."""
        ...

    def fail(self) -> None:
        """One artifact could not be made."""
        ...


@runtime_checkable
class Reporter(Protocol):
    """Tells people how far a study is."""

    def say(self, text: str) -> None:
        """One line."""
        ...

    def stage(self, name: str, total: int, done: int) -> AbstractContextManager[Stage]:
        """A stage of ``total`` artifacts of which ``done`` exist already."""
        ...

    def matrix(self, so_far: SoFar) -> None:
        """Counts that fill while stages run, to be shown as they stand."""
        ...


class PlainReporter:
    """Timestamped lines, at most one every five seconds inside a stage, and one as it ends.

    The matrix so far comes as a line a panel, at most every 30 seconds.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.time) -> None:
        self.write, self.clock = write, clock
        self.so_far: SoFar | None = None
        self.matrix_told = clock()

    def say(self, text: str) -> None:
        """One timestamped line."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.clock()))
        self.write(f"{stamp} {text}")

    def matrix(self, so_far: SoFar) -> None:
        """Tell of these counts now and then."""
        self.so_far, self.matrix_told = so_far, self.clock()

    @contextmanager
    def stage(self, name: str, total: int, done: int) -> Iterator[Stage]:
        """Lines of one stage."""
        stage = _PlainStage(self, Standing(name, total, done, self.clock))
        if done == total:
            self.say(f"{name}: {total}/{total} already there")
            yield stage
            return
        self.say(f"{name}: {done}/{total} there, {total - done} to do")
        yield stage
        self.say(", ".join([*stage.words(), f"after {self.clock() - stage.standing.began:.1f} s"]))

    def tell_matrix(self) -> None:
        """A line a panel with counts, unless there was one a while ago."""
        if self.so_far is None or self.clock() - self.matrix_told < _MATRIX_SECONDS:
            return
        self.matrix_told = self.clock()
        for panel in self.so_far.panels[:_MOST_PANELS]:
            self.say(f"fooled in this run so far, {panel_words(panel.panel)}: {summary_words(panel)}")


class _PlainStage:
    def __init__(self, reporter: PlainReporter, standing: Standing) -> None:
        self.reporter, self.standing = reporter, standing
        self.last = 0.0

    def advance(self, told: str, used: Used = NOTHING) -> None:
        self.standing.advance(used)
        self._line(told)
        self.reporter.tell_matrix()

    def tell(self, told: str, used: Used = NOTHING) -> None:
        self.standing.use(used)
        self._line(told)

    def fail(self) -> None:
        self.standing.fail()

    def words(self) -> list[str]:
        """Counts, and what there is to say beside them."""
        standing = self.standing
        failed = f"{standing.failed} failed" if standing.failed else ""
        words = [f"{standing.name}: {standing.done}/{standing.total}", failed, used_words(standing.used)]
        return [word for word in words if word]

    def _line(self, told: str) -> None:
        now, standing = self.reporter.clock(), self.standing
        if now - self.last < _LINE_SECONDS:
            return
        self.last = now
        words = self.words()
        if standing.per_minute:
            pace = [rate_words(standing.per_minute), f"{duration(standing.seconds_left)} left"]
            words[1:1] = pace
        self.reporter.say(f"{', '.join(words)}: {told}")
