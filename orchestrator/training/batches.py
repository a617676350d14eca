"""Training batches in an order that depends on seed and epoch alone, not on how many workers share them."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from orchestrator.errors import DataError, StudyError
from orchestrator.seeds import derive_seed
from orchestrator.shards.shard import EncodedImages, decode, image_count, read_encoded, read_pixels
from orchestrator.shards.sources import RawImage
from orchestrator.store.artifacts import ArtifactStore, open_store
from orchestrator.training.randomness import seeded
from orchestrator.training.recipe import Recipe

Batch = tuple[Float[Tensor, "batch 3 height width"], Int[Tensor, " batch"]]
# Shards whose images are shuffled together when they do not all fit in memory.
WINDOW_SHARDS = 16


@dataclass(frozen=True, kw_only=True)
class Share:
    """One worker's part of every global batch: rows rank, rank + size and so on."""

    rank: int = 0
    size: int = 1


@runtime_checkable
class Batches(Protocol):
    """Training images by epoch."""

    steps: int
    """Optimiser steps in an epoch; a last incomplete batch is left out."""

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """This worker's rows of every global batch: images in [0, 1] and labels."""
        ...


def open_batches(
    store: ArtifactStore,
    shards: Sequence[str],
    recipe: Recipe,
    share: Share,
    *,
    seed: int,
    image_size: int,
    loaders: int,
) -> Batches:
    """The training images at these shard addresses, in memory or streamed by what the recipe asks.

    Raises:
        StudyError: the global batch cannot be shared evenly, or exceeds the training images.
    """
    if recipe.batch_size % share.size:
        raise StudyError(
            f"A batch of {recipe.batch_size} images cannot be shared by {share.size} workers. "
            "Choose --workers-per-model that divides --recipe.batch-size."
        )
    if recipe.augment == "inception":
        return StreamedImages(
            store.uri, shards, recipe, share, seed=seed, image_size=image_size, loaders=loaders
        )
    return InMemoryImages(store, shards, recipe, share, seed=seed)


class InMemoryImages:
    """Final pixels, decoded once and kept as uint8; augmentation works on whole batches."""

    def __init__(
        self,
        store: ArtifactStore,
        shards: Sequence[str],
        recipe: Recipe,
        share: Share,
        *,
        seed: int,
    ) -> None:
        parts = [read_pixels(store, address) for address in shards]
        self.pixels: UInt8[Tensor, "images 3 size size"] = torch.cat([part.pixels for part in parts])
        self.labels: Int[Tensor, " images"] = torch.cat([part.labels for part in parts])
        self.recipe, self.share, self.seed = recipe, share, seed
        self.steps = whole_batches(len(self.labels), recipe.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """This worker's rows of every global batch."""
        order = torch.from_numpy(_shuffled(len(self.labels), derive_seed(self.seed, "order", epoch)))
        for step in range(self.steps):
            rows = order[step * self.recipe.batch_size : (step + 1) * self.recipe.batch_size]
            images = self.pixels[rows].float() / 255
            images = augment(images, self.recipe.augment, derive_seed(self.seed, "augment", epoch, step))
            mine = slice(self.share.rank, None, self.share.size)
            yield images[mine], self.labels[rows][mine]


def augment(
    images: Float[Tensor, "batch 3 size size"], kind: str, seed: int
) -> Float[Tensor, "batch 3 size size"]:
    """Shift by up to an eighth of the side (zero padding), and flip left-right, each at random."""
    if kind == "none":
        return images
    generator = torch.Generator().manual_seed(seed)
    batch, _, size, _ = images.shape
    reach = size // 8
    shifts = torch.randint(0, 2 * reach + 1, (2, batch, 1), generator=generator)
    flips = torch.rand(batch, generator=generator) < 0.5
    if kind == "shift-flip":
        images = torch.where(flips[:, None, None, None], images.flip(3), images)
    padded = torch.nn.functional.pad(images, (reach,) * 4)
    places = torch.arange(size)
    rows, columns = (shifts[0] + places)[:, None, :, None], (shifts[1] + places)[:, None, None, :]
    return padded[
        torch.arange(batch)[:, None, None, None],
        torch.arange(3)[None, :, None, None],
        rows,
        columns,
    ]


class StreamedImages:
    """Original bytes, decoded and augmented by timm in loader processes, never all in memory."""

    def __init__(
        self,
        store_uri: str,
        shards: Sequence[str],
        recipe: Recipe,
        share: Share,
        *,
        seed: int,
        image_size: int,
        loaders: int,
    ) -> None:
        store = open_store(store_uri)
        self.counts = [image_count(store, address) for address in shards]
        self.dataset = _EncodedDataset(store_uri, shards, seed, image_size)
        self.recipe, self.share, self.seed, self.loaders = recipe, share, seed, loaders
        self.steps = whole_batches(sum(self.counts), recipe.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """This worker's rows of every global batch."""
        size = self.recipe.batch_size
        order = [(epoch, *place) for place in self._order(epoch)]
        mine = [
            order[step * size + self.share.rank : (step + 1) * size : self.share.size]
            for step in range(self.steps)
        ]
        loader = DataLoader(self.dataset, batch_sampler=mine, num_workers=self.loaders)
        yield from (tuple(batch) for batch in loader)  # a loader gives lists

    def _order(self, epoch: int) -> list[tuple[int, int]]:
        """(shard, row) of every image: shards shuffled, then rows shuffled within windows of shards."""
        order: list[tuple[int, int]] = []
        shards = _shuffled(len(self.counts), derive_seed(self.seed, "shards", epoch))
        for start in range(0, len(shards), WINDOW_SHARDS):
            window = [int(shard) for shard in shards[start : start + WINDOW_SHARDS]]
            places = [(shard, row) for shard in window for row in range(self.counts[shard])]
            shuffled = _shuffled(len(places), derive_seed(self.seed, "order", epoch, start))
            order += [places[place] for place in shuffled]
        return order


class _EncodedDataset(Dataset[tuple[Tensor, int]]):
    """Images by (epoch, shard, row); the augmentation of an image is seeded by those three."""

    def __init__(self, store_uri: str, shards: Sequence[str], seed: int, image_size: int) -> None:
        self.store_uri, self.shards, self.seed = store_uri, list(shards), seed
        self.transform: Any = create_transform(
            image_size,
            is_training=True,
            auto_augment="rand-m8-inc1-mstd101",
            color_jitter=0.4,
            interpolation="bicubic",
            normalize=False,
        )
        self._open: OrderedDict[int, EncodedImages] = OrderedDict()

    def __getitem__(self, place: tuple[int, int, int]) -> tuple[Tensor, int]:
        epoch, shard, row = place
        images = self._shard(shard)
        raw = RawImage(images.names[row], images.encoded[row], images.labels[row])
        with seeded(derive_seed(self.seed, "augment", epoch, shard, row)):
            moved = self.transform(decode(raw))
        # normalize=False leaves PIL's 0..255 levels; models take [0, 1].
        return moved.float() / 255, raw.label

    def _shard(self, shard: int) -> EncodedImages:
        if shard not in self._open:
            self._open[shard] = read_encoded(open_store(self.store_uri), self.shards[shard])
            while len(self._open) > WINDOW_SHARDS + 1:
                self._open.popitem(last=False)
        return self._open[shard]


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


def _shuffled(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng(seed).permutation(count)
