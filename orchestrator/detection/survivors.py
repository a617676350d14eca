"""Survivors: what passed some draws of an attacker's local copy, and how often a fresh draw stops it.

The attacker of the method's own threat model has weights, bank and code, makes many examples, and sends
those that passed his draws. A detector that draws nothing new stops none of these, however good it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln
from torch import Tensor

from orchestrator.detection.bank import DetectorBank
from orchestrator.detection.draws import draw_seeds
from orchestrator.detection.readout import Readout
from orchestrator.detection.scores import Rule
from orchestrator.errors import StudyError
from orchestrator.seeds import derive_seed
from orchestrator.statistics.proportion import Interval

_RESAMPLES = 500


@dataclass(frozen=True)
class Survival:
    """What a fresh draw does to images that passed some draws before."""

    earlier: int
    """Draws passed before."""
    passed: float
    """Share of images that pass so many."""
    stopped: Interval
    """Share of these that the fresh draw stops; nan where none is left."""


def stopped_in_draws(
    bank: DetectorBank, shown: Readout, draws: int, *, rate: float, rule: Rule = "ratio", seed: int = 0
) -> Bool[Tensor, "images draws"]:
    """Whether each of many draws stops each image, at thresholds from held-out clean images.

    Args:
        bank: with thresholds.
        shown: images as the model reads them: those that fool it.
        draws: how many, all independent.
        rate: share of clean images that one draw may stop.
        rule: of the score.
        seed: of the draws; for a measurement they need not be secret.
    """
    numbers = range(len(shown.classes))
    seeds = [draw_seeds(numbers, derive_seed(seed, "survivors", draw)) for draw in range(draws)]
    found = [bank.verdict(shown, of_draw, rate=rate, rule=rule).flag for of_draw in seeds]
    return torch.stack(found, dim=1) if found else shown.classes.new_zeros(len(numbers), 0).bool()


def stopped_by_static(
    bank: DetectorBank,
    held_out: Readout,
    shown: Readout,
    *,
    rate: float,
    rule: Rule = "ratio",
    seed: int = 0,
) -> Bool[Tensor, " images"]:
    """What a detector of the same size stops that was drawn once for all images, with its own thresholds.

    It stops the same images every time, so of survivors none.

    Args:
        bank: with thresholds, of which only the share of pooled classes is used.
        held_out: clean images for the thresholds of the static detector.
        shown: images that fool the model.
        rate: share of clean images that may be stopped.
        rule: of the score.
        seed: of the one draw.
    """
    one = derive_seed(seed, "static")
    least = bank.calibration.least if bank.calibration else 1
    static = bank.calibrated(held_out, least, one, same_draw=True)
    seeds = draw_seeds([0] * len(shown.classes), one)
    return static.verdict(shown, seeds, rate=rate, rule=rule).flag


def survival(
    stopped: Bool[Tensor, "images draws"], earlier: Sequence[int] = (0, 1, 2, 5, 10), *, seed: int = 0
) -> list[Survival]:
    """How often a fresh draw stops an image that passed ``earlier`` draws, over all images.

    Every choice of the earlier draws and the fresh one among those made counts alike, so the shares are
    those of the choices; intervals (95 %) are a bootstrap over images.

    Args:
        stopped: see ``stopped_in_draws``.
        earlier: numbers of draws that were passed before.
        seed: of the bootstrap.

    Raises:
        StudyError: more draws are asked for than were made.
    """
    images, draws = stopped.shape
    if max(earlier, default=0) >= draws:
        raise StudyError(
            f"Of {draws} draws, {max(earlier)} cannot be passed and one more be fresh. Make more draws."
        )
    stops = stopped.sum(dim=1).double().cpu().numpy()
    chosen = np.random.default_rng(seed).integers(0, max(images, 1), (_RESAMPLES, images))
    return [_after(count, stops, draws, chosen) for count in earlier]


def _after(
    earlier: int,
    stops: Float[np.ndarray, " images"],
    draws: int,
    chosen: Int[np.ndarray, "resamples images"],
) -> Survival:
    passes = draws - stops
    # C(passes, earlier) / C(draws, earlier), by logarithms; none where it passed fewer.
    enough = passes >= earlier
    kept = np.where(enough, passes, draws)
    logs = gammaln(kept + 1) - gammaln(kept - earlier + 1)
    logs -= gammaln(draws + 1.0) - gammaln(draws - earlier + 1.0)
    passed = np.where(enough, np.exp(logs), 0.0)
    caught = passed * stops / (draws - earlier)
    share = float(passed.mean()) if len(passed) else 0.0
    if not passed.sum():
        return Survival(earlier, share, Interval(float("nan"), float("nan"), float("nan")))
    sums = passed[chosen].sum(axis=1), caught[chosen].sum(axis=1)
    again = sums[1][sums[0] > 0] / sums[0][sums[0] > 0]
    low, high = np.quantile(again, [0.025, 0.975])
    return Survival(earlier, share, Interval(float(caught.sum() / passed.sum()), float(low), float(high)))
