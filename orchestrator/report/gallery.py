"""Figures of the page besides heatmaps: in it as SVG, beside it in three formats for a paper."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup
from matplotlib.figure import Figure

from orchestrator.report.curves import Climb, curves, draw_curves
from orchestrator.report.grid import mean
from orchestrator.report.sheet import COLUMN, PAGE, Sheet, inline_svg, paper_files
from orchestrator.report.wording import share


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


def _told(climb: Climb) -> str:
    ends = [f"{line.words} {share(mean(line.rates[-1]))}" for line in curves(climb)]
    told = "; ".join(ends)
    return f"Curves of robust accuracy over the radius, {climb.title}. At the largest radius: {told}."
