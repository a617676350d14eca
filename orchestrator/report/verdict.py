"""The verdict in plain words: what the numbers say, and no more than they say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.models.ref import PLAIN
from orchestrator.report.grid import Grid, mean
from orchestrator.report.wording import share, threat_words
from orchestrator.statistics.proportion import Interval

# Below this an attack fails so often at home that its images say little about other models.
_STRONG_AT_HOME = 0.9
# A difference of means that is worth a sentence; smaller ones may be the draw of the images.
_CLEARLY = 0.05


@dataclass(frozen=True)
class Headline:
    """The four numbers of a panel: fooling rates in [0, 1], nan where nothing was counted."""

    grid: Grid
    between: float
    """From one key to another, mean over all pairs."""
    worst: tuple[str, str, Interval]
    """The pair of keys fooled most: source, target, rate; empty names where none counts."""
    own: float
    """From a key to itself, mean over keys."""
    from_plain: float
    """From plain to a key, mean over keys."""


def read_headline(grid: Grid) -> Headline:
    """The four numbers of a panel; a mean weighs every pair alike, whatever its counts."""
    pairs = [(source, target) for target in grid.keys for source in grid.others(target)]
    worst = [(*grid.worst(target), target) for target in grid.keys]
    counted = [entry for entry in worst if entry[0]]
    nothing = ("", Interval(math.nan, math.nan, math.nan), "")
    source, rate, target = max(counted, key=lambda entry: entry[1].rate, default=nothing)
    return Headline(
        grid=grid,
        between=mean(grid.cell(*pair).fooling.rate for pair in pairs),
        worst=(source, target, rate),
        own=mean(grid.cell(key, key).fooling.rate for key in grid.keys),
        from_plain=mean(grid.cell(PLAIN, key).fooling.rate for key in grid.keys),
    )


def lead(headlines: Sequence[Headline]) -> str:
    """The study in two sentences: how far images travel between keys, on average and at worst."""
    counted = [line for line in headlines if not math.isnan(line.between)]
    if not headlines:
        return "No outcomes have been recorded yet, so there is nothing to compare."
    if not counted:
        return (
            "No pair of different keys has been tried on an eligible image, so this study cannot "
            "say how far images travel between keys."
        )
    top = max(counted, key=lambda line: line.between)
    source, target, rate = max(counted, key=lambda line: line.worst[2].rate).worst
    least = min(counted, key=lambda line: line.between)
    mean_words = (
        f"{share(top.between)} of the time"
        if len(counted) == 1
        else f"between {share(least.between)} and {share(top.between)} of the time, depending on "
        "method, attack and threat"
    )
    return (
        "On average, an image made to fool one key's model fooled another key's model "
        f"{mean_words}. The worst pair was {source} → {target} with {share(rate.rate)} "
        f"(95 % interval {share(rate.low)} to {share(rate.high)})."
    )


def sentence(line: Headline) -> str:
    """One panel in plain words."""
    panel = line.grid.panel
    count = len(line.grid.keys)
    start = (
        f"{count} keyed model{'' if count == 1 else 's'} ({panel.method} "
        f"fine-tuning), {panel.attack} within {threat_words(panel)}: "
    )
    facts = [
        (line.own, "images fooled the key's model they were made on {} of the time"),
        (line.between, "images made on one key fooled another key {} of the time"),
        (line.from_plain, "images made on the undefended model fooled keyed ones {} of the time"),
    ]
    told = [words.format(share(rate)) for rate, words in facts if not math.isnan(rate)]
    return start + ("; ".join(told) or "no eligible image was tried") + "." + _doubt(line)


def _doubt(line: Headline) -> str:
    if line.own < _STRONG_AT_HOME:
        return (
            f" The attack fooled even its own source only {share(line.own)} of the time, so a low "
            "rate elsewhere may be its weakness rather than the keys' strength."
        )
    if line.between - line.from_plain > _CLEARLY:
        return (
            " Keyed models fool each other more than the undefended model fools them: an attacker "
            "gains by training a model with a key of their own."
        )
    return ""
