"""Measures of a detector: AUROC, and what it stops at a false-positive rate, with intervals."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from orchestrator.detection.rates import RATES, highest
from orchestrator.statistics.proportion import Interval, wilson


def auroc(
    clean: Float[Tensor, " clean"],
    attacked: Float[Tensor, " attacked"],
    *,
    resamples: int = 500,
    seed: int = 0,
) -> Interval:
    """The chance that an attacked image scores below a clean one, with its 95 % interval.

    The interval is a percentile bootstrap that draws clean and attacked images anew; images of one
    photograph are taken as independent. nan where one side is empty.

    Args:
        clean: scores of clean images; low is suspicious.
        attacked: scores of attacked ones.
        resamples: of the bootstrap.
        seed: of the bootstrap; global generators stay untouched.
    """
    if not len(clean) or not len(attacked):
        return Interval(float("nan"), float("nan"), float("nan"))
    sides = [_finite(side) for side in (clean, attacked)]
    generator = np.random.default_rng(seed)
    found = [
        _area(*(side[generator.integers(0, len(side), len(side))] for side in sides))
        for _ in range(resamples)
    ]
    low, high = np.quantile(found, [0.025, 0.975]) if found else (np.nan, np.nan)
    return Interval(_area(*sides), float(low), float(high))


def flagged(flags: Bool[Tensor, " images"]) -> Interval:
    """The share of images that are stopped, with Wilson's interval."""
    return wilson(int(flags.sum()), len(flags))


def flagged_at(p_values: Float[Tensor, " images"], rates: Sequence[float] = RATES) -> dict[float, Interval]:
    """The share stopped at each false-positive rate; the thresholds come from held-out clean images."""
    return {rate: flagged(p_values <= highest(rate)) for rate in rates}


def _area(clean: np.ndarray, attacked: np.ndarray) -> float:
    """The share of pairs in which the attacked image scores lower; a tie is half a pair."""
    ordered = np.sort(attacked)
    lower, not_higher = (np.searchsorted(ordered, clean, side) for side in ("left", "right"))
    return float((lower + not_higher).mean() / (2 * len(attacked)))


def _finite(scores: Float[Tensor, " images"]) -> np.ndarray:
    """Scores as numbers that can be compared; what is not watched is the least suspicious of all."""
    largest = torch.finfo(torch.float64).max
    return np.asarray(scores.double().nan_to_num(posinf=largest, neginf=-largest).cpu().numpy())
