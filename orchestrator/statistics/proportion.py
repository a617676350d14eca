"""Proportions: a rate with the ends of its interval, and Wilson's interval of one count."""

import math
from typing import NamedTuple


class Interval(NamedTuple):
    """A rate in [0, 1] with the ends of its confidence interval; nan where nothing was counted."""

    rate: float
    low: float
    high: float


def wilson(hits: int, trials: int, z: float = 1.959964) -> Interval:
    """Wilson's score interval for ``hits`` of ``trials`` (Wilson 1927); 95 % by default.

    Unlike the normal approximation it stays inside [0, 1] and is honest at 0 and 100 %, where
    attack success rates live.
    """
    if trials == 0:
        return Interval(math.nan, math.nan, math.nan)
    rate = hits / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = (z / (1 + z * z / trials)) * math.sqrt(
        rate * (1 - rate) / trials + z * z / (4 * trials * trials)
    )
    return Interval(rate, max(0.0, centre - half), min(1.0, centre + half))
