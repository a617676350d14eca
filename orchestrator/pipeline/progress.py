"""Progress: live bars on a terminal, plain timestamped lines anywhere else (job logs, CI, files)."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

_LINE_SECONDS = 5.0


@runtime_checkable
class Stage(Protocol):
    """One stage under way."""

    def advance(self, told: str) -> None:
        """One more artifact is there."""
        ...

    def tell(self, told: str) -> None:
        """Something happened inside an artifact's making."""
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


class PlainReporter:
    """Timestamped lines, at most one every five seconds inside a stage, and one as it ends."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.time) -> None:
        self.write, self.clock = write, clock

    def say(self, text: str) -> None:
        """One timestamped line."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.clock()))
        self.write(f"{stamp} {text}")

    @contextmanager
    def stage(self, name: str, total: int, done: int) -> Iterator[Stage]:
        """Lines of one stage."""
        if done == total:
            self.say(f"{name}: {total}/{total} already there")
            yield _PlainStage(self, name, total, done)
            return
        self.say(f"{name}: {done}/{total} there, {total - done} to do")
        stage, began = _PlainStage(self, name, total, done), self.clock()
        yield stage
        self.say(f"{name}: {stage.done}/{total} after {self.clock() - began:.1f} s")


class _PlainStage:
    def __init__(self, reporter: PlainReporter, name: str, total: int, done: int) -> None:
        self.reporter, self.name, self.total, self.done = reporter, name, total, done
        self.began, self.begun_at, self.last = reporter.clock(), done, 0.0

    def advance(self, told: str) -> None:
        self.done += 1
        self._line(told)

    def tell(self, told: str) -> None:
        self._line(told)

    def _line(self, told: str) -> None:
        now = self.reporter.clock()
        if now - self.last < _LINE_SECONDS:
            return
        self.last = now
        made = self.done - self.begun_at
        left = f", {(now - self.began) / made * (self.total - self.done):.0f} s left" if made else ""
        self.reporter.say(f"{self.name}: {self.done}/{self.total}{left}: {told}")


class RichReporter:
    """A live bar a stage, with time gone and time left; stages may run side by side."""

    def __init__(self, console: Console) -> None:
        self.console = console
        told = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self.bars = Progress(
            TextColumn("[bold]{task.description}", table_column=Column(no_wrap=True, min_width=12)),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[told]}", table_column=told),
            console=console,
            expand=True,
        )
        self.open = 0

    def say(self, text: str) -> None:
        """One line above the bars."""
        self.console.print(text, highlight=False)

    @contextmanager
    def stage(self, name: str, total: int, done: int) -> Iterator[Stage]:
        """A live bar; it stays as a line when the last of the stages beside it ends."""
        there = "already there" if done == total else ""
        bar = self.bars.add_task(name, total=total, completed=done, told=there)
        self.open += 1
        self.bars.start()
        try:
            yield _RichStage(self.bars, bar)
        finally:
            self.open -= 1
            if not self.open:
                self.bars.stop()
                for ended in self.bars.task_ids:
                    self.bars.remove_task(ended)


class _RichStage:
    def __init__(self, bars: Progress, bar: TaskID) -> None:
        self.bars, self.bar = bars, bar

    def advance(self, told: str) -> None:
        self.bars.update(self.bar, advance=1, told=told)

    def tell(self, told: str) -> None:
        self.bars.update(self.bar, told=told)


def open_reporter() -> RichReporter | PlainReporter:
    """Bars where a person looks, lines where a file or a job log does."""
    console = Console()
    if console.is_terminal:
        return RichReporter(console)
    return PlainReporter(lambda line: print(line, flush=True))  # noqa: T201 - the log of a job
