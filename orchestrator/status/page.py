"""The page of a status: tables and heatmaps for a terminal, or the same as plain values for scripts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.pipeline.heatmap import draw, shows_colour
from orchestrator.pipeline.so_far import Images, PanelSoFar
from orchestrator.pipeline.standing import rate_words, used_words
from orchestrator.report.wording import duration, panel_words, percent
from orchestrator.status.state import Kind, StageState, StudyState

_NOT_KNOWN = "?"
_MOST_LINES = 5
_MOST_PANELS = 24
# Taller than any: a person can scroll.
_NO_HEIGHT = 10**6


def open_console() -> Console:
    """Where a status is printed; a pipe or a log has no width, and a narrow guess would cut lines."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def show(state: StudyState, console: Console, now: float) -> None:
    """Print everything a state has."""
    took = [f"{state.size_bytes / 1e6:,.1f} MB", used_words(state.device_seconds)]
    told = "; ".join(filter(None, [standing_words(state, now), *took]))
    console.print(Text.assemble((state.name, "bold"), f": {told}"))
    if state.note:
        console.print(Text(state.note, style="yellow"))
    console.print(_stages(state))
    for title, lines in (
        ("Under way", state.under_way),
        ("Failed by the last report", state.failed),
    ):
        if lines:
            more = [f"and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
            console.print(Text(f"{title}: " + "; ".join([*lines[:_MOST_LINES], *more])))
    if state.counted:
        console.print(Text(f"\n{state.counted}", style="dim"))
    if state.panels:
        console.print(_panels(state.panels))
        for panel in one_a_method(state.panels):
            console.print(
                Text(""), draw(panel, console.width, _NO_HEIGHT, colour=shows_colour(console)), sep="\n"
            )


def show_all(states: Sequence[StudyState], console: Console, now: float) -> None:
    """Print a line a study."""
    table = Table(box=None, pad_edge=False)
    for heading in ("study", "models", "attacks", "device time", "MB", "state"):
        number = heading not in ("study", "state")
        table.add_column(heading, justify="right" if number else "left", no_wrap=number)
    for state in states:
        models, attacks = _sum_words(state, "model"), _sum_words(state, "attack")
        megabytes = f"{state.size_bytes / 1e6:,.1f}"
        words = standing_words(state, now)
        words = f"{words}. {state.note}" if state.note else words
        table.add_row(state.name, models, attacks, used_words(state.device_seconds), megabytes, words)
    console.print(table)


def standing_words(state: StudyState, now: float) -> str:
    """``under way; last artifact 3.2 s ago``."""
    if state.note:
        standing = "not all is known"
    elif state.complete:
        standing = "all is done"
    else:
        standing = "quiet for longer than its artifacts take" if state.quiet else "under way"
    return f"{standing}; last artifact {duration(max(0.0, now - state.last))} ago"


def as_values(state: StudyState) -> dict[str, Any]:
    """A state as json has it; times in seconds since the epoch, null for what is not known."""
    return {
        "study": state.name,
        "complete": state.complete,
        "quiet": state.quiet,
        "note": state.note,
        "last_activity": state.last,
        "stages": [_stage_values(stage) for stage in state.stages],
        "under_way": list(state.under_way),
        "failed": list(state.failed),
        "matrix": {"counted": state.counted, "panels": [_panel_values(panel) for panel in state.panels]},
    }


def one_a_method(panels: Sequence[PanelSoFar]) -> list[PanelSoFar]:
    """Of each method the panel with most cells; of those the first attack under its widest threat."""
    chosen: dict[str, PanelSoFar] = {}
    for panel in panels:
        best = chosen.setdefault(panel.panel.method, panel)
        wider = panel.panel.attack == best.panel.attack and panel.panel.epsilon > best.panel.epsilon
        if panel.cells > best.cells or (panel.cells == best.cells and wider):
            chosen[panel.panel.method] = panel
    return list(chosen.values())


def _stages(state: StudyState) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stage", overflow="fold")
    for heading in ("done", "to do", "rate", "left", "device time", "MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in state.stages:
        to_do = _NOT_KNOWN if stage.to_do is None else f"{stage.to_do:,}"
        numbers = (*_pace_words(stage), used_words(stage.device_seconds), f"{stage.size_bytes / 1e6:,.1f}")
        style = "dim" if stage.to_do == 0 else ""
        table.add_row(stage.name, f"{stage.done:,}", to_do, *numbers, style=style)
    return table


def _pace_words(stage: StageState) -> tuple[str, str]:
    """Rate and time left; nothing where nothing is to do."""
    if stage.to_do == 0:
        return "", ""
    rate, left = stage.pace.per_minute, stage.pace.seconds_left
    words = _NOT_KNOWN if rate is None else rate_words(rate)
    return words, "idle" if stage.pace.idle else _NOT_KNOWN if left is None else duration(left)


def _panels(panels: Sequence[PanelSoFar]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("% fooled so far", overflow="fold")
    for heading in ("own key", "other keys", "from plain", "cells"):
        table.add_column(heading, justify="right", no_wrap=True)
    for panel in panels[:_MOST_PANELS]:
        counted, every = panel.cells
        rates = [percent(panel.rate(images)) for images in get_args(Images)]
        table.add_row(panel_words(panel.panel), *rates, f"{counted}/{every}")
    if len(panels) > _MOST_PANELS:
        table.add_row(f"and {len(panels) - _MOST_PANELS} more, in --json")
    return table


def _sum_words(state: StudyState, kind: Kind) -> str:
    """Done and wanted over all stages of a kind."""
    stages = [stage for stage in state.stages if stage.kind == kind]
    wanted = [stage.total for stage in stages if stage.total is not None]
    known = len(wanted) == len(stages)
    return f"{sum(stage.done for stage in stages):,}/{f'{sum(wanted):,}' if known else _NOT_KNOWN}"


def _stage_values(stage: StageState) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "done": stage.done,
        "to_do": stage.to_do,
        "per_minute": stage.pace.per_minute,
        "seconds_left": stage.pace.seconds_left,
        "idle": stage.pace.idle,
        "device_seconds": dict(stage.device_seconds),
        "size_bytes": stage.size_bytes,
    }


def _panel_values(panel: PanelSoFar) -> Mapping[str, Any]:
    of = panel.panel
    rates: dict[Images, float] = {images: panel.rate(images) for images in get_args(Images)}
    return {
        "method": of.method,
        "attack": of.attack,
        "norm": of.norm,
        "epsilon": of.epsilon,
        "models": list(panel.axis.labels),
        "fooled": panel.fooled.tolist(),
        "eligible": panel.eligible.tolist(),
        "rates": {images: None if math.isnan(rate) else rate for images, rate in rates.items()},
    }
