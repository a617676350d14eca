"""Sheet: what figures are drawn on, the page or a paper's column; the same bytes each time.

On the page a figure is SVG inside the HTML: its text is text, and its colours are the page's, so that one
drawing serves light and dark. For a paper it is SVG, PNG and PDF in the width of a column. Matplotlib's
objects are used directly: pyplot keeps a global list of figures, and a report may be written by any thread.
"""

import re
from dataclasses import dataclass, replace
from io import BytesIO
from threading import Lock
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

_DOTS_PER_INCH = 300
_SETTINGS = {"svg.fonttype": "none", "pdf.fonttype": 42}  # text stays text; whole fonts, as journals ask
_WITHOUT_DATES: dict[str, dict[str, None]] = {
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
    "png": {"Software": None},
    "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
}
_settings = Lock()  # matplotlib reads these settings from a global place while it writes a file


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Colours, sizes in inches, and the size of text in points."""

    ink: str
    quiet: str
    """For what is read second: rules, notes."""
    paper: str
    missing: str
    """A cell in which nothing was counted."""
    series: tuple[str, str, str, str, str, str]
    """Colours of lines and marks, told apart by colour-blind readers too; never the only difference."""
    width: float
    """The most a figure may take."""
    cell: float
    """The side of a heatmap's cell, at most."""
    points: float
    font: str = "DejaVu Sans"  # comes with matplotlib, so figures look the same everywhere

    @property
    def on_page(self) -> bool:
        """Whether colours stand for those of the page."""
        return self.ink == PAGE.ink

    @property
    def text(self) -> dict[str, Any]:
        """How all text is set: names are never read as formulas."""
        return {"fontsize": self.points, "family": self.font, "color": self.ink, "parse_math": False}


COLUMN = Sheet(
    ink="#20262e", quiet="#59636f", paper="#ffffff", missing="#d5d8dc",
    # Okabe and Ito's palette (2008), its yellow left out: it does not show on white.
    series=("#20262e", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"),
    width=3.33, cell=0.5, points=8.0,
)  # fmt: skip
"""One column of a two-column paper."""

PAGE = Sheet(
    # Each stands for a colour of the page, which differs in the dark.
    ink="#010001", quiet="#010002", paper="#010003", missing="#010004",
    series=("#010005", "#010006", "#010007", "#010008", "#010009", "#01000a"),
    width=11.8, cell=0.82, points=9.5,
)  # fmt: skip
"""The HTML page; see ``inline_svg``."""
HALF_PAGE = replace(PAGE, width=5.7)
"""The page, where two figures stand side by side."""
_PLACEHOLDERS = [PAGE.ink, PAGE.quiet, PAGE.paper, PAGE.missing, *PAGE.series]
_VARIABLES = ["ink", "quiet", "paper", "missing", *(f"series-{number}" for number in range(1, 7))]
# What is inside the SVG once it stands in the page: no header, no font of its own, colours of the page.
_AS_INLINE = [
    (r"(?s)^.*?(?=<svg)", ""),
    (r"(?s)<metadata>.*?</metadata>", ""),
    (r' (?:xmlns(?::xlink)?|version)="[^"]*"', ""),
    (r"; font-family: [^;\"]*", ""),
    (r"<style.*?</style>", ""),
    (r"base64,\n", "base64,"),
    (r"\n\s*", " "),
    *((colour, f"var(--{name})") for colour, name in zip(_PLACEHOLDERS, _VARIABLES, strict=True)),
]


def new_figure(sheet: Sheet, width: float, height: float) -> Figure:
    """An empty figure of a size in inches."""
    ground = "none" if sheet is PAGE else sheet.paper
    return Figure(figsize=(width, height), dpi=_DOTS_PER_INCH, facecolor=ground)


def bare(axes: Axes, sheet: Sheet) -> None:
    """Leave of a plot's frame only what is read: numbers in the sheet's type, no box."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(sheet.quiet)
    axes.spines[["left", "bottom"]].set_linewidth(0.6)
    axes.tick_params(
        colors=sheet.ink, labelsize=sheet.points - 0.5, labelfontfamily=sheet.font, length=2.5, width=0.6
    )
    axes.patch.set_visible(False)


def inline_svg(figure: Figure, name: str) -> str:
    """A figure drawn on ``PAGE`` as an ``<svg>`` element; ``name`` sets its ids apart from others'."""
    text = _saved(figure, "svg", name).decode()
    for pattern, replacement in _AS_INLINE:
        text = re.sub(pattern, replacement, text)
    return _lean(text).replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1).strip()


def paper_files(figure: Figure, stem: str) -> dict[str, bytes]:
    """A figure drawn on ``COLUMN`` as SVG, PNG and PDF, by file name."""
    files = {f"{stem}.{kind}": _saved(figure, kind, stem) for kind in ("svg", "png", "pdf")}
    text = files[f"{stem}.svg"].decode()
    return files | {f"{stem}.svg": _lean(text).encode(), f"{stem}.png": _palette(files[f"{stem}.png"])}


def _saved(figure: Figure, kind: str, salt: str) -> bytes:
    content = BytesIO()
    with _settings, matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": salt}):
        figure.savefig(content, format=kind, metadata=_WITHOUT_DATES[kind])
    return content.getvalue()


def _palette(content: bytes) -> bytes:
    """The same picture in 256 colours of its own: a third of the bytes, and nobody sees it."""
    few = Image.open(BytesIO(content)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    saved = BytesIO()
    few.save(saved, "PNG", optimize=True, dpi=(_DOTS_PER_INCH, _DOTS_PER_INCH))
    return saved.getvalue()


def _lean(text: str) -> str:
    """SVG without the ids that nothing refers to, turns by nothing, and groups of one."""
    wanted = set(re.findall(r'(?:url\(|xlink:href=")#([^)"]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in wanted else "", text)
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    return re.sub(r"<g>\s*(<(?:text|path)\b[^>]*>[^<]*(?:</text>)?)\s*</g>", r"\1", text)
