"""Proposals: random sets of neurons, from which a bank keeps those that tell clean from attacked."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from orchestrator.errors import StudyError
from orchestrator.seeds import derive_seed


def propose(
    seed: int, model: str, class_name: str, *, proposals: int, neurons: int, total: int
) -> Int[Tensor, "proposals neurons"]:
    """Random subsets of all neurons, each without repetition and ascending; uniform over subsets.

    Args:
        seed: of the study.
        model: the digest of the model: every model has proposals of its own.
        class_name: the class, or ``pool``: so has every class.
        proposals: how many subsets.
        neurons: of a subset.
        total: neurons there are.

    Raises:
        StudyError: a subset would need more neurons than there are.
    """
    if neurons > total:
        raise StudyError(
            f"A fingerprint of {neurons} neurons cannot be drawn from {total}. Choose fewer neurons, or "
            "more layers to read."
        )
    generator = np.random.default_rng(derive_seed(seed, "fingerprints", model, class_name))
    if total < neurons**2:
        drawn = generator.random((proposals, total)).argsort(axis=1, kind="stable")[:, :neurons]
    else:
        drawn = _without_repetition(generator, proposals, neurons, total)
    return torch.from_numpy(np.sort(drawn, axis=1).astype(np.int32))


def _without_repetition(
    generator: np.random.Generator, proposals: int, neurons: int, total: int
) -> np.ndarray:
    """Rows of numbers, drawn again as a whole where one repeats itself: uniform over subsets."""
    drawn = generator.integers(0, total, (proposals, neurons))
    while True:
        ordered = np.sort(drawn, axis=1)
        repeats = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
        if not repeats.any():
            return drawn
        drawn[repeats] = generator.integers(0, total, (int(repeats.sum()), neurons))
