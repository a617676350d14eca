"""Student's interval of a mean of values that are no counts, such as cosines, over images."""

import math

from scipy import special

from orchestrator.statistics.proportion import Interval


def mean_interval(
    total: float, squares: float, count: int, *, bounds: tuple[float, float], level: float = 0.95
) -> Interval:
    """The mean of independent values with its interval; nan where there is none, ends nan of one alone.

    Args:
        total: their sum.
        squares: the sum of their squares.
        count: how many there are.
        bounds: outside which no value can be.
        level: how often the interval is to hold the mean.
    """
    mean = total / count if count else math.nan
    if count < 2:
        return Interval(mean, math.nan, math.nan)
    variance = max(0.0, squares - total * mean) / (count - 1)
    half = float(special.stdtrit(count - 1, 0.5 + level / 2)) * math.sqrt(variance / count)
    return Interval(mean, max(bounds[0], mean - half), min(bounds[1], mean + half))
