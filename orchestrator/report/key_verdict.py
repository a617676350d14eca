"""The controls' verdict: what a panel's controls say of its keys, in sentences and in two tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.report.fleet import estimated, reach
from orchestrator.report.grid import Grid
from orchestrator.report.key_effect import KeyEffect, read_key_effect
from orchestrator.report.tables import Table
from orchestrator.report.wording import NONE, interval, panel_words, percent, share
from orchestrator.statistics.estimate import FEWEST, Estimate
from orchestrator.statistics.proportion import Interval


@dataclass(frozen=True)
class KeyVerdict:
    """What the page says of one panel's controls."""

    title: str
    effect: KeyEffect
    sentences: Sequence[str]
    """What is broken first."""
    tables: Sequence[Table]


def judge_key(grid: Grid) -> KeyVerdict:
    """Whether the key matters in a panel, as far as its controls tell."""
    effect = read_key_effect(grid)
    tables = [_rates(effect)] if grid.controls else []
    tables += [_spread(effect)] if math.isfinite(effect.components.source.value) else []
    sentences = _sentences(effect) if grid.controls else [_NO_CONTROLS]
    return KeyVerdict(panel_words(grid.panel), effect, [*effect.defects, *sentences], tables)


_NO_CONTROLS = (
    "This study has no controls, so it cannot say whether the key keeps images from travelling or merely "
    "that each model was trained anew. Run it again with --controls 3."
)


def _sentences(effect: KeyEffect) -> list[str]:
    told = [
        f"Images made on a key's model fool that model {share(effect.own.value)} of the time, the "
        f"same key trained anew {share(effect.same_key.value)}, and another key "
        f"{share(effect.other.value)}."
    ]
    if math.isfinite(effect.by_key.value):
        told.append(
            f"Of the {_points(effect.whole)} points that an attacker without the model loses, "
            f"{_points(effect.by_training)} are lost to training anew with the very same key and "
            f"{_points(effect.by_key)} to the key. {_judged(effect.by_key, 'the key')}"
        )
    else:
        told = [
            f"Images made on a key's model fool that model {share(effect.own.value)} of the time and "
            f"another key {share(effect.other.value)}. Without a same-key control nothing tells whether "
            "the key or training anew makes the difference."
        ]
    if math.isfinite(effect.against_no_key.value):
        told.append(
            f"Two models trained without any key fool each other {share(effect.no_key.value)} of the time: "
            f"{_points(effect.against_no_key)} points more than two keys do. "
            f"{_judged(effect.against_no_key, 'having keys')}"
        )
    return [*told, *_few(effect)]


def _points(estimate: Estimate) -> str:
    low, high = estimate.interval()[1:]
    ends = "" if math.isnan(low) else f" [{percent(low)}, {percent(high)}]"
    return f"{percent(estimate.value)}{ends}"


def _judged(estimate: Estimate, what: str) -> str:
    low, high = estimate.interval()[1:]
    if math.isnan(low):
        return "How sure that is cannot be told: images were not redrawn."
    if low > 0:
        return f"So {what} does keep images from travelling."
    if high < 0:
        return f"So {what} does not keep images from travelling; they travel further."
    return f"The interval holds 0: that {what} does anything is not shown."


def _few(effect: KeyEffect) -> list[str]:
    """Which controls are too few to tell how others would come out."""
    kinds = ((effect.same_key, "same-key"), (effect.no_key, "seed"))
    few = [
        f"{estimate.models} {name} control{'' if estimate.models == 1 else 's'}"
        for estimate, name in kinds
        if math.isfinite(estimate.value) and estimate.models < FEWEST
    ]
    if not few:
        return []
    return [
        f"With {' and '.join(few)}, what rests on them rests on so few models: those intervals are over "
        f"images alone, and say nothing of how another training would come out. {FEWEST} or more would."
    ]


def _rates(effect: KeyEffect) -> Table:
    rows = [[words, NONE, _behind(each), estimated(each)] for words, each in effect.bars]
    differences = (
        ("Lost without the model", effect.whole, "the model itself − another key"),
        ("of it to training anew", effect.by_training, "the model itself − same key"),
        ("of it to the key", effect.by_key, "same key − another key"),
        ("the key's share of it", effect.share, "of what is lost"),
        ("Lost to having keys", effect.against_no_key, "no key − another key"),
    )
    rows += [
        [words, of, _behind(each), estimated(each)]
        for words, each, of in differences
        if math.isfinite(each.value)
    ]
    return Table(
        title="Does the key matter?",
        note="Fooling rates and their differences in %, means over pairs; source and target differ in what "
        f"the row says. {reach([each for _, each in effect.bars])} A share is of the difference, and wild "
        "where that is small.",
        header=["Target", "Difference of", "Interval over", "%"],
        rows=rows,
        words=3,
    )


def _behind(estimate: Estimate) -> str:
    if math.isnan(estimate.image_variance):
        return NONE
    models = f"{estimate.models} model{'' if estimate.models == 1 else 's'}"
    return f"images and {models}" if estimate.over_keys else f"images; {models}"


def _spread(effect: KeyEffect) -> Table:
    found = effect.components
    parts = (
        ("Source", found.source, "some keys' images travel better"),
        ("Target", found.target, "some keys are fooled more easily"),
        ("Pair", found.pair, "this source on this target, beyond both"),
    )
    rows = [[name, of, _deviation(part.deviation)] for name, part, of in parts]
    drawn = math.sqrt(found.images) if found.images >= 0 else math.nan
    rows.append(["Images", "the draw of images, as an interval of one cell tells", percent(drawn)])
    return Table(
        title="Where differences between pairs come from",
        note="Standard deviations in points of the fooling rate from one key to another, by a two-way "
        "decomposition; images taken out of the other three. 95 % intervals over keys, none with fewer "
        "than five keys.",
        header=["Part", "Meaning", "Points"],
        rows=rows,
        words=2,
    )


def _deviation(found: Interval) -> str:
    return percent(found.rate) if math.isnan(found.low) else interval(found)
