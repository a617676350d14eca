"""Areas: AUROC of every model's scores, their mean, and what other images and keys would make of it."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Shaped

from orchestrator.statistics.estimate import Estimate
from orchestrator.statistics.replicates import poisson_weights


def mean_area(clean: pa.Table, attacked: pa.Table, draws: int) -> Estimate:
    """The chance that an attacked image scores below a clean one, of a model; mean over models.

    A photograph is redrawn with all that was made of it, in every model's images, clean and attacked.

    Args:
        clean: judged rows of clean images.
        attacked: judged rows of images that fool.
        draws: how many redrawn sets of images.
    """
    models = sorted(attacked["target"].unique().to_pylist())
    sides = [[_side(rows, model, draws) for rows in (clean, attacked)] for model in models]
    areas = np.array([area(*of_clean, *of_attacked) for of_clean, of_attacked in sides])
    areas = areas.reshape(len(models), 1 + draws)
    there = np.isfinite(areas)
    sums, counts = np.where(there, areas, 0.0).sum(axis=0), there.sum(axis=0)
    means = sums / np.where(counts > 0, counts, np.nan)
    left = len(models) - 1
    without = {
        name: float((sums[0] - own) / left) for name, own in zip(models, areas[:, 0], strict=True) if left
    }
    return Estimate(
        value=float(means[0]),
        replicates=means[1:],
        without=without,
        models=len(models),
        trials=attacked.num_rows,
    )


def area(
    clean: Float[np.ndarray, " clean"],
    clean_weights: Shaped[np.ndarray, "clean draws"],
    attacked: Float[np.ndarray, " attacked"],
    attacked_weights: Shaped[np.ndarray, "attacked draws"],
) -> Float[np.ndarray, " draws"]:
    """The weighted share of pairs in which the attacked image scores lower; a tie is half a pair."""
    order = np.argsort(clean, kind="stable")
    below = np.concatenate([np.zeros_like(clean_weights[:1]), clean_weights[order]]).cumsum(axis=0)
    lower, not_higher = (np.searchsorted(clean[order], attacked, side) for side in ("right", "left"))
    above = below[-1] - 0.5 * (below[lower] + below[not_higher])
    pairs = below[-1] * attacked_weights.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Float[np.ndarray, " draws"] = (attacked_weights * above).sum(axis=0) / np.where(
            pairs > 0, pairs, np.nan
        )
    return found


def _side(
    rows: pa.Table, model: str, draws: int
) -> tuple[Float[np.ndarray, " images"], Shaped[np.ndarray, "images draws"]]:
    own = rows.filter(pc.equal(rows["target"], model))
    names = own["image"].to_pylist()
    weights = np.concatenate([np.ones((len(names), 1)), poisson_weights(names, draws)], axis=1)
    return own["score"].to_numpy(), weights
