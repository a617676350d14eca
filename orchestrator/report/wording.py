"""How numbers, threats and panels are written: one place, so that every table says it alike."""

import math
import re
from collections.abc import Iterable
from statistics import fmean, stdev

from orchestrator.statistics.proportion import Interval
from orchestrator.transfer.matrix import Panel

NONE = "–"
"""Stands for a rate of nothing, and for what does not apply."""

_NORMS = {"linf": "ℓ∞", "l2": "ℓ2", "l1": "ℓ1"}
# What is no norm of the change says what its radius is of.
_RADII = {"patch": "side in px", "spatial": "share", "colour": "ε"}
_METHODS = {"plain": "No", "full": "Full", "lora": "LoRA"}


def percent(rate: float, digits: int = 1) -> str:
    """A rate in [0, 1] as a number of percent, without the sign."""
    return NONE if math.isnan(rate) else f"{100 * rate:.{digits}f}"


def share(rate: float) -> str:
    """A rate in [0, 1] for use in a sentence, with the sign."""
    return NONE if math.isnan(rate) else f"{percent(rate)} %"


def interval(rate: Interval) -> str:
    """A rate with the ends of its interval, in percent: ``14.9 [12.1, 18.3]``."""
    if math.isnan(rate.rate):
        return NONE
    return f"{percent(rate.rate)} [{percent(rate.low)}, {percent(rate.high)}]"


def spread(rates: Iterable[float]) -> str:
    """Mean ± sample standard deviation over models, in percent; a lone model has no deviation."""
    numbers = [rate for rate in rates if not math.isnan(rate)]
    if not numbers:
        return NONE
    middle = percent(fmean(numbers), 2)
    return middle if len(numbers) == 1 else f"{middle} ± {percent(stdev(numbers), 2)}"


def duration(seconds: float) -> str:
    """A wall time in its two largest units: ``3 h 20 min``, ``12 min 5 s``, ``4.2 s``."""
    if math.isnan(seconds):
        return NONE
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def method_words(method: str) -> str:
    """How Table I names a training method."""
    return _METHODS.get(method, method)


def threat_words(panel: Panel) -> str:
    """A panel's threat as people write it, ``ℓ∞ ε = 8/255``: its kind first, its radius last."""
    return f"{_NORMS.get(panel.norm, panel.norm)} {_RADII.get(panel.norm, 'ε')} = {_epsilon(panel)}"


def radius_words(norm: str) -> str:
    """What radii of a kind of threat are, as an axis says it; those in 255ths are drawn so."""
    own = {
        "patch": "side of the patch (px)",
        "spatial": "share of the side, and of 300°",
        "colour": "ε in 255ths (colour)",
        "linf": "ε in 255ths (ℓ∞)",
    }
    return own.get(norm, f"ε ({_NORMS.get(norm, norm)})")


def panel_words(panel: Panel) -> str:
    """A panel's name: ``full · apgd · ℓ∞ ε = 8/255``."""
    return f"{panel.method} · {panel.attack} · {threat_words(panel)}"


def picture_stem(panel: Panel) -> str:
    """What the files of a panel's heatmap are called: ``matrix-full-apgd-linf-8of255``."""
    radius = _epsilon(panel).replace("/", "of")
    return file_stem("matrix", panel.method, panel.attack, panel.norm, radius)


def file_stem(*parts: str) -> str:
    """A file's name without its ending, made of what it shows."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", "-".join(parts))


def _epsilon(panel: Panel) -> str:
    # As Threat writes itself. A report is written from counts alone, so the room of attacks, and
    # torch with it, is not loaded for the sake of a fraction; a test holds the two together.
    levels = round(panel.epsilon * 255)
    if panel.norm in ("linf", "colour") and levels and panel.epsilon == levels / 255:
        return f"{levels}/255"
    return repr(panel.epsilon).removesuffix(".0")
