"""Training batches: what finetune() asks of them; in an order of seed and epoch, whoever shares them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from orchestrator.errors import DataError

Batch = tuple[Float[Tensor, "batch 3 height width"], Int[Tensor, " batch"]]


@dataclass(frozen=True, kw_only=True)
class Share:
    """One worker's part of every global batch: rows rank, rank + size and so on."""

    rank: int = 0
    size: int = 1

    @property
    def rows(self) -> slice:
        """Its rows of a global batch."""
        return slice(self.rank, None, self.size)


@runtime_checkable
class Batches(Protocol):
    """Training images by epoch."""

    steps: int
    """Optimiser steps in an epoch; a last incomplete batch is left out."""

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """This worker's rows of every global batch, on its device: images in [0, 1] and labels."""
        ...


class Awaited:
    """Batches as they come, and the seconds spent waiting for them."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self.batches, self.seconds = batches, 0.0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            began = time.monotonic()
            batch = next(self.batches, None)
            self.seconds += time.monotonic() - began
            if batch is None:
                return
            yield batch


def whole_batches(images: int, batch_size: int) -> int:
    """Optimiser steps in an epoch.

    Raises:
        DataError: there are fewer images than one batch.
    """
    if images < batch_size:
        raise DataError(
            f"{images} training images do not fill one batch of {batch_size}. "
            "Give more images (--train-images) or a smaller --recipe.batch-size."
        )
    return images // batch_size


def shuffled(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The numbers 0..count-1 in a random order."""
    return np.random.default_rng(seed).permutation(count)
