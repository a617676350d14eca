"""A heatmap in the terminal: numbers where they fit, else half blocks, or digits without colour."""

import math

import numpy as np
from jaxtyping import Float
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from orchestrator.pipeline.so_far import Images, PanelSoFar
from orchestrator.report.wording import NONE, panel_words, share

_NAME, _NUMBER = 18, 4
_DIGITS = "    0 is below 10 %, 9 is 90 % or more, · is not tried yet"
# Cividis (Nuñez et al. 2018) at every tenth: even steps of lightness, for colour-blind readers too.
CIVIDIS = (
    (0, 34, 78), (8, 51, 112), (53, 69, 108), (79, 87, 108), (102, 105, 112), (125, 124, 120),
    (148, 142, 119), (174, 163, 113), (200, 184, 102), (229, 207, 82), (254, 232, 56),
)  # fmt: skip
_MISSING = Color.from_rgb(128, 128, 128)


def draw(panel: PanelSoFar, width: int, height: int, *, colour: bool) -> Text:
    """A panel's fooling rates, source by target, within so many columns and lines.

    Where not even one character a cell fits, only the words below it are drawn.

    Args:
        panel: what is counted so far.
        width: columns of the terminal.
        height: lines there is room for.
        colour: whether it shows colours; without, every cell is a number.
    """
    rates, words = panel.rates(), [title(panel), Text(summary_words(panel))]
    count, room = len(rates), height - 2
    lines: list[Text] = []
    if _NAME + _NUMBER * count <= width and count + 1 <= room:
        lines = _numbered(panel, rates, colour)
    elif _NUMBER + count <= width and (math.ceil(count / 2) if colour else count) <= room:
        cells, scale = (_half_blocks(rates), _scale()) if colour else (_digits(rates), Text(_DIGITS))
        lines = [*cells, *[scale, _order(panel)][: room - len(cells)]]
    for line in words:
        line.truncate(width, overflow="ellipsis")
    return Text("\n", no_wrap=True).join([*words, *lines])


def shows_colour(console: Console) -> bool:
    """Whether a heatmap may be told by colours there: a terminal that has some, without NO_COLOR."""
    return console.color_system is not None and not console.no_color


def title(panel: PanelSoFar) -> Text:
    """Which panel it is."""
    return Text.assemble((panel_words(panel.panel), "bold"), ": % fooled")


def summary_words(panel: PanelSoFar) -> str:
    """``own key 100.0 %, other keys 3.2 %, from plain 5.1 % (12 of 25 cells)``."""
    named: dict[Images, str] = {"own key": "own key", "other keys": "other keys", "plain": "from plain"}
    counted, every = panel.cells
    told = ", ".join(f"{words} {share(panel.rate(images))}" for images, words in named.items())
    return f"{told} ({counted} of {every} cells)"


def ground(rate: float) -> Color:
    """The colour of a rate in [0, 1]; grey where nothing was counted."""
    if math.isnan(rate):
        return _MISSING
    place = min(max(rate, 0.0), 1.0) * (len(CIVIDIS) - 1)
    below = min(int(place), len(CIVIDIS) - 2)
    low, high = CIVIDIS[below], CIVIDIS[below + 1]
    return Color.from_rgb(*(a + (b - a) * (place - below) for a, b in zip(low, high, strict=True)))


def _numbered(panel: PanelSoFar, rates: Float[np.ndarray, "n n"], colour: bool) -> list[Text]:
    """A head of places, then a line a source: its place and name, and a number a target."""
    places = "".join(f"{place:>{_NUMBER}}" for place in range(len(rates)))
    lines = [Text(f"{'attacked ↓ tried →':<{_NAME}}{places}", style="dim")]
    for place, (label, row) in enumerate(zip(panel.axis.labels, rates, strict=True)):
        line = Text(f"{place:>2} {label:<{_NAME - 3}.{_NAME - 3}}")
        for rate in row:
            number = NONE if math.isnan(rate) else f"{100 * rate:.0f}"
            style = Style(color=_ink(rate), bgcolor=ground(rate)) if colour else ""
            line.append(f"{number:>{_NUMBER - 1}} ", style)
        lines.append(line)
    return lines


def _half_blocks(rates: Float[np.ndarray, "n n"]) -> list[Text]:
    """Two sources a line: the upper half of a character is one, the lower half the next."""
    lines = []
    for place in range(0, len(rates), 2):
        line = Text(f"{place:>{_NUMBER - 1}} ", style="dim")
        upper, lower = rates[place], rates[place + 1] if place + 1 < len(rates) else None
        for column, rate in enumerate(upper):
            under = None if lower is None else ground(float(lower[column]))
            line.append("▀", Style(color=ground(float(rate)), bgcolor=under, dim=False))
        lines.append(line)
    return lines


def _digits(rates: Float[np.ndarray, "n n"]) -> list[Text]:
    """One character a cell: tens of percent, rounded down."""
    lines = []
    for place, row in enumerate(rates):
        digits = "".join("·" if math.isnan(rate) else str(min(9, int(10 * rate + 1e-9))) for rate in row)
        lines.append(Text(f"{place:>{_NUMBER - 1}} {digits}"))
    return lines


def _scale() -> Text:
    line = Text("    0 % ", style="dim")
    for step in range(21):
        line.append(" ", Style(bgcolor=ground(step / 20)))
    return line.append(" 100 %   ").append(" ", Style(bgcolor=_MISSING)).append(" not tried yet")


def _order(panel: PanelSoFar) -> Text:
    """What stands where, in a form without names."""
    last = panel.axis.labels[-1]
    told = f", about {last} in one place" if last.endswith(" keys") else ", then controls"
    return Text(f"    plain first, then keys by slot{told}", style="dim")


def _ink(rate: float) -> Color:
    red, green, blue = ground(rate).get_truecolor()
    # Relative luminance (ITU-R BT.709 weights), without the gamma: close enough to choose an ink.
    bright = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 127
    return Color.from_rgb(0, 0, 0) if bright else Color.from_rgb(255, 255, 255)
