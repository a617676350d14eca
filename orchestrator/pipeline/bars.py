"""Bars: a live bar a stage, and the matrix so far below them, where a person looks at a terminal."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from orchestrator.pipeline.heatmap import draw, shows_colour
from orchestrator.pipeline.progress import PlainReporter, Stage
from orchestrator.pipeline.so_far import SoFar
from orchestrator.pipeline.standing import NOTHING, Standing, Used, rate_words, used_words
from orchestrator.report.wording import duration

# Room for the line the cursor is on.
_SPARE_LINES = 1


class RichReporter:
    """A live bar a stage, with rate, time left and device time; stages may run side by side."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self.bars = _Bars(console)
        self.open = 0

    def say(self, text: str) -> None:
        """One line above the bars."""
        self.console.print(text, highlight=False, markup=False)

    def matrix(self, so_far: SoFar) -> None:
        """Show these counts below the bars."""
        self.bars.so_far = so_far

    @contextmanager
    def stage(self, name: str, total: int, done: int) -> Iterator[Stage]:
        """A live bar; it stays as a line when the last of the stages beside it ends."""
        standing = Standing(name, total, done, self.clock)
        bar = self.bars.add_task(name, total=total, completed=done, standing=standing, told="")
        self.open += 1
        self.bars.start()
        try:
            yield _RichStage(self.bars, bar, standing)
        finally:
            self.open -= 1
            if not self.open:
                self.bars.stop()
                for ended in self.bars.task_ids:
                    self.bars.remove_task(ended)


class _RichStage:
    def __init__(self, bars: Progress, bar: TaskID, standing: Standing) -> None:
        self.bars, self.bar, self.standing = bars, bar, standing

    def advance(self, told: str, used: Used = NOTHING) -> None:
        self.standing.advance(used)
        self.bars.update(self.bar, advance=1, told=told)

    def tell(self, told: str, used: Used = NOTHING) -> None:
        self.standing.use(used)
        self.bars.update(self.bar, told=told)

    def fail(self) -> None:
        self.standing.fail()


class _Said(ProgressColumn):
    """A column that says something of a stage, with the present time."""

    def __init__(self, words: Callable[[Standing], str], style: str) -> None:
        self.words, self.style = words, style
        super().__init__(table_column=Column(justify="right", no_wrap=True))

    def render(self, task: Task) -> Text:
        return Text(self.words(task.fields["standing"]), style=self.style)


class _Bars(Progress):
    """The bars, then the last line told of each stage that is not done, then the matrix."""

    def __init__(self, console: Console) -> None:
        self.so_far: SoFar | None = None
        super().__init__(
            TextColumn("[bold]{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=max(6, (console.width - 60) // 3)),
            MofNCompleteColumn(),
            _Said(_time_words, "cyan"),
            _Said(lambda standing: rate_words(standing.per_minute) if standing.per_minute else "", ""),
            _Said(lambda standing: used_words(standing.used), "magenta"),
            _Said(lambda standing: f"{standing.failed} failed" if standing.failed else "", "bold red"),
            console=console,
            expand=True,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is drawn, from top to bottom."""
        tasks = self.tasks
        yield self.make_tasks_table(tasks)
        told = [task for task in tasks if task.fields["told"] and not task.finished]
        for task in told:
            words = f"{task.description}: {task.fields['told']}"
            yield Text(words, style="dim", no_wrap=True, overflow="ellipsis")
        panels = self.so_far.panels if self.so_far else []
        if panels and tasks:
            size = self.console.size
            height = size.height - len(tasks) - len(told) - _SPARE_LINES
            yield draw(panels[0], size.width, height, colour=shows_colour(self.console))


def _time_words(standing: Standing) -> str:
    """The time left; the time gone where the stage is over."""
    if standing.done == standing.total:
        return f"{duration(standing.seconds_gone)} in all" if standing.seconds_gone else "already there"
    return f"{duration(standing.seconds_left)} left" if standing.per_minute else ""


def open_reporter() -> RichReporter | PlainReporter:
    """Bars where a person looks, lines where a file or a job log does."""
    console = Console()
    if console.is_terminal:
        return RichReporter(console)
    return PlainReporter(lambda line: print(line, flush=True))  # noqa: T201 - the log of a job
