"""Estimate: a number with what chance does to it: other images, and each key left out in turn.

Images are a bootstrap (``replicates.py``), keys a jackknife: with few keys there are few to draw from, and
leaving out each once says all that draws would, without their noise. The two variances add, and the
interval is Student's with Satterthwaite's degrees of freedom, because plain percentiles are too narrow with
few keys (Hesterberg 2015, arXiv 1411.5279). Why, and how often it covers: docs/decisions/0012.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy import stats

from orchestrator.statistics.proportion import Interval, wilson

FEWEST = 3
"""With fewer models nothing can be said about how models differ; the interval is then over images alone."""
_NOTHING = 1e-24  # a variance of rounding alone; its square may be no number above 0
Values = Float[np.ndarray, " values"]


@dataclass(frozen=True)
class Estimate:
    """A number made of counts, and the same number under every disturbance of what was counted."""

    value: float
    replicates: Values
    """Under each redrawn set of images; empty where none were drawn."""
    without: Mapping[str, float] = field(default_factory=dict)
    """With one key left out, its twins with it; keys on which it does not depend may be missing."""
    models: int = 0
    """How many keys, or models where there is no key, it rests on; of several groups the smallest."""
    trials: int = 0
    """Images of the largest cell: all there is to go by where no image made any difference."""
    bounds: tuple[float, float] = (0.0, 1.0)

    @property
    def over_keys(self) -> bool:
        """Whether the interval tells of other keys too, or of other images alone."""
        return self.models >= FEWEST and all(math.isfinite(each) for each in self.without.values())

    @property
    def key_variance(self) -> float:
        """What the choice of keys adds to the variance: the jackknife's estimate; nan with too few."""
        if not self.over_keys:
            return math.nan
        apart = np.array(list(self.without.values())) - self.value
        return (self.models - 1) / self.models * float(apart @ apart)

    @property
    def image_variance(self) -> float:
        """What the choice of images adds to the variance; nan where no images were redrawn."""
        drawn = self.replicates[np.isfinite(self.replicates)]
        return float(drawn.var(ddof=1)) if len(drawn) > 1 else math.nan

    def interval(self, level: float = 0.95) -> Interval:
        """The number with its interval, over images and keys; over images where keys are too few.

        The ends are nan where no images were redrawn.
        """
        images, keys = self.image_variance, self.key_variance
        if not math.isfinite(self.value) or math.isnan(images):
            return Interval(self.value, math.nan, math.nan)
        keys = 0.0 if math.isnan(keys) else keys
        variance = images + keys
        if variance < _NOTHING:
            # As at 0 % of all: no image and no key made a difference. What one cell can exclude remains.
            half = wilson(0, self.trials, float(stats.norm.ppf(0.5 + level / 2))).high
            return self._within(0.0 if math.isnan(half) else half)
        freedom = variance**2 / (keys**2 / max(self.models - 1, 1) + images**2 / (len(self.replicates) - 1))
        half = float(stats.t.ppf(0.5 + level / 2, freedom)) * math.sqrt(variance)
        return self._within(half)

    def _within(self, half: float) -> Interval:
        low, high = self.bounds
        return Interval(self.value, max(low, self.value - half), min(high, self.value + half))


def combine(
    function: Callable[..., Values], *estimates: Estimate, bounds: tuple[float, float] = (-1.0, 1.0)
) -> Estimate:
    """A function of several estimates, disturbed together: what they share cancels, as in differences.

    Args:
        function: of as many arrays as there are estimates, element by element; smooth.
        *estimates: its arguments.
        bounds: outside which it cannot be.
    """
    keys = sorted(set().union(*(each.without for each in estimates)))
    without = [np.array([each.without.get(key, each.value) for key in keys]) for each in estimates]
    left_out = function(*without) if keys else np.empty(0)
    drawn = min(len(each.replicates) for each in estimates)
    return Estimate(
        value=float(function(*(np.array([each.value]) for each in estimates))[0]),
        replicates=function(*(each.replicates[:drawn] for each in estimates)),
        without=dict(zip(keys, left_out.tolist(), strict=True)),
        models=min(each.models for each in estimates),
        trials=min(each.trials for each in estimates),
        bounds=bounds,
    )


def difference(first: Estimate, second: Estimate) -> Estimate:
    """``first`` − ``second``, paired in all they share: images by name, keys by id."""
    return combine(np.subtract, first, second)
