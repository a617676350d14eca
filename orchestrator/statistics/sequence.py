"""Confidence sequences: intervals of a rate that hold at every look, so that one may look and then stop.

An interval made for one look fails the more often the more often one looks: stopping when it is narrow
enough is choosing the look. Here for every rate p there is a bet against it, a mixture of binomial
likelihoods over that of p with a beta prior around p (Robbins 1970; Howard, Ramdas, McAuliffe & Sekhon
2021, arXiv 1810.08240). Under p it is a martingale that begins at 1, so it ever reaches 1/α with a chance
of at most α (Ville 1939). What no bet has refuted is the interval.
"""

import numpy as np
from jaxtyping import Float, Shaped
from scipy import special

# log(1/α²) + log(1 + log(1/α²)), roughly, at 95 %: the prior is worth so many times fewer trials than those
# at which the sequence is narrowest (Howard et al. 2021, section 3.5).
_NARROWEST = 8.2
_HALVINGS = 30  # to 1e-9 of [0, 1]
Cells = Float[np.ndarray, " cells"]


def confidence_sequence(
    hits: Shaped[np.ndarray, " cells"],
    trials: Shaped[np.ndarray, " cells"],
    *,
    best_at: float,
    level: float = 0.95,
) -> tuple[Cells, Cells]:
    """The ends of intervals for rates of hits, each valid at every number of trials at once.

    Args:
        hits: so far, of trials that are alike and apart, such as images in random order.
        trials: so far; 0 gives [0, 1].
        best_at: trials at which it is to be narrowest; must be chosen before anything is seen.
        level: the chance that the rate is inside at all looks.
    """
    hits, trials = hits.astype(float), trials.astype(float)
    with np.errstate(invalid="ignore"):
        rates = np.where(trials > 0, hits / np.maximum(trials, 1), 0.5)
    bound, worth = -np.log1p(-level), best_at / _NARROWEST

    def end(outer: float) -> Cells:
        """The last rate from the observed one towards ``outer`` that is not refuted."""
        far, near = np.full_like(rates, outer), rates.copy()
        for _ in range(_HALVINGS):
            middle = (far + near) / 2
            refuted = _log_bet(hits, trials, middle, worth) >= bound
            far, near = np.where(refuted, middle, far), np.where(refuted, near, middle)
        ends: Cells = far
        return ends

    return end(0.0), end(1.0)


def _log_bet(hits: Cells, trials: Cells, rate: Cells, worth: float) -> Cells:
    """The log of what a bet against each rate has come to."""
    rate = np.clip(rate, 1e-12, 1 - 1e-12)
    before = special.betaln(worth * rate, worth * (1 - rate))
    after = special.betaln(worth * rate + hits, worth * (1 - rate) + trials - hits)
    log_bet: Cells = after - before - special.xlogy(hits, rate) - special.xlog1py(trials - hits, -rate)
    return log_bet
