"""Selection: of proposed fingerprints, those whose clean and attacked means differ, and differ enough."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from orchestrator.detection.moments import Moments
from orchestrator.detection.recipe import BankRecipe
from orchestrator.errors import DataError
from orchestrator.seeds import derive_seed

# Below, a difference in standard deviations is one of rounding.
_NOTHING = 1e-6


@dataclass(frozen=True)
class Chosen:
    """What is kept of one class's proposals, or why nothing is."""

    places: Int[Tensor, " kept"]
    """Among the proposals, ascending; empty where nothing is kept."""
    note: str = ""
    """A sentence on why the class has no fingerprints of its own."""


def effects(clean: Moments, attacked: Moments) -> Float[Tensor, "rows fingerprints"]:
    """Cohen's d: the clean mean's lead over the attacked, in pooled standard deviations.

    A fingerprint that varies in neither is of no use, and has an effect of 0.
    """
    freedom = (clean.count + attacked.count - 2).clamp_min(1)[:, None]
    pooled = ((clean.squares + attacked.squares) / freedom).sqrt()
    lead = clean.mean - attacked.mean
    return torch.where(pooled > 0, lead / pooled, 0.0)


def choose(clean: Moments, attacked: Moments, recipe: BankRecipe, seed: int) -> list[Chosen]:
    """For every row of proposals, those to keep.

    Welch's t-test of every proposal, the false discoveries among those of one class controlled by
    Benjamini and Hochberg's procedure; then by the size of the effect.

    Args:
        clean: of clean images that are read as the row's class.
        attacked: of attacked images that are.
        recipe: what counts as different, and how many are kept.
        seed: for the recipe's ``keep`` random.

    Raises:
        DataError: a class's clean and attacked images have identical fingerprints.
    """
    sizes = effects(clean, attacked)
    return [_choose(row, clean, attacked, sizes[row], recipe, seed) for row in range(len(sizes))]


def _choose(
    row: int, clean: Moments, attacked: Moments, sizes: Tensor, recipe: BankRecipe, seed: int
) -> Chosen:
    counts = int(clean.count[row]), int(attacked.count[row])
    if min(counts) < recipe.least_images:
        few = f"it has {counts[0]} clean and {counts[1]} attacked images to fit on"
        return Chosen(torch.empty(0, dtype=torch.int64), f"{few}, fewer than {recipe.least_images}")
    spreads = (clean.std[row], attacked.std[row])
    varied = (spreads[0] > 0) & (spreads[1] > 0)
    if bool((sizes[varied].abs() < _NOTHING).all()):
        raise DataError(
            f"The fingerprints of {counts[0]} clean and {counts[1]} attacked images are identical: clean "
            "images were read twice, or the layers say nothing. Give the attacked images themselves."
        )
    kept = np.flatnonzero(
        _differs(clean, attacked, row, varied, recipe) & (sizes.abs() >= recipe.effect).numpy()
    )
    if not len(kept):
        return Chosen(
            torch.empty(0, dtype=torch.int64), "none of its fingerprints tells clean from attacked"
        )
    if recipe.keep == "top":
        order = np.argsort(-sizes.abs().numpy()[kept], kind="stable")
    else:
        order = np.random.default_rng(derive_seed(seed, "keep", row)).permutation(len(kept))
    return Chosen(torch.from_numpy(np.sort(kept[order[: recipe.kept]])))


def _differs(clean: Moments, attacked: Moments, row: int, varied: Tensor, recipe: BankRecipe) -> np.ndarray:
    """Which proposals differ between clean and attacked, as many false ones among them as allowed."""
    places = np.flatnonzero(varied.numpy())
    sides = [
        (moments.mean[row].numpy()[places], moments.std[row].numpy()[places], moments.count[row].item())
        for moments in (clean, attacked)
    ]
    chances = stats.ttest_ind_from_stats(*sides[0], *sides[1], equal_var=False).pvalue
    differs = np.zeros(len(varied), dtype=bool)
    differs[places] = stats.false_discovery_control(chances) <= recipe.false_discoveries
    return differs
