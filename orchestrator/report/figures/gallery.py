"""Figures of the page besides heatmaps: in it as SVG, beside it in three formats for a paper."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup
from matplotlib.figure import Figure

from orchestrator.report.figures.curves import Climb, curves, draw_curves
from orchestrator.report.figures.dots import Rate, comparisons, draw_attacks, draw_rates
from orchestrator.report.figures.sheet import COLUMN, PAGE, Sheet, inline_svg, paper_files
from orchestrator.report.grid import Grid, mean
from orchestrator.report.key_verdict import KeyVerdict
from orchestrator.report.wording import picture_stem, share

_DOTS = "Fooling rates of every attack and kind of source: own keys, other keys on average and at most."


@dataclass(frozen=True)
class Plate:
    """A figure with its words, in the page and beside it."""

    title: str
    alt: str
    stem: str
    svg: Markup
    files: dict[str, bytes]

    @classmethod
    def of(cls, title: str, alt: str, stem: str, draw: Callable[[Sheet], Figure]) -> "Plate":
        """A figure drawn twice, for the page and for a paper."""
        svg = Markup(inline_svg(draw(PAGE), stem))  # noqa: S704 - matplotlib escapes names
        return cls(title, alt, stem, svg, paper_files(draw(COLUMN), stem))


def curve_plates(found: Sequence[Climb]) -> list[Plate]:
    """One figure of curves for every attack that climbed."""
    return [Plate.of(climb.title, _told(climb), climb.stem, partial(draw_curves, climb)) for climb in found]


def attack_plates(grids: Sequence[Grid]) -> list[Plate]:
    """One figure of dots for every method and norm, at its largest radius."""
    return [
        Plate.of(each.title, f"{_DOTS} The table has the numbers.", each.stem, partial(draw_attacks, each))
        for each in comparisons(grids)
    ]


def key_plate(verdict: KeyVerdict) -> Plate:
    """What a key is worth beside other differences: mean fooling rates with their intervals."""
    bars = [(words, estimate.interval()) for words, estimate in verdict.effect.bars]
    rates = [Rate(words, *(each if each.low == each.low else (each.rate,) * 3)) for words, each in bars]
    stem = picture_stem(verdict.effect.panel).replace("matrix", "key", 1)
    told = "; ".join(f"{rate.label} {share(rate.rate)}" for rate in rates)
    return Plate.of(verdict.title, f"Mean fooling rates: {told}.", stem, partial(draw_rates, rates))


def _told(climb: Climb) -> str:
    ends = [f"{line.words} {share(mean(line.rates[-1]))}" for line in curves(climb)]
    told = "; ".join(ends)
    return f"Curves of robust accuracy over the radius, {climb.title}. At the largest radius: {told}."
