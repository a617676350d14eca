"""Streamed training images: original bytes, decoded and augmented by timm in loader processes."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from orchestrator.seeds import derive_seed
from orchestrator.shards.shard import EncodedImages, decode, image_count, read_encoded
from orchestrator.shards.sources import RawImage
from orchestrator.store.artifacts import open_store
from orchestrator.training.batches import Batch, Share, shuffled, whole_batches
from orchestrator.training.in_memory import as_floats
from orchestrator.training.randomness import seeded
from orchestrator.training.recipe import Recipe

# Shards whose images are shuffled together; not all fit in memory.
WINDOW_SHARDS = 16

Place = tuple[int, int, int]


class StreamedImages:
    """Images that are never all in memory; they travel as uint8 and become floats on the device."""

    def __init__(
        self,
        store_uri: str,
        shards: Sequence[str],
        recipe: Recipe,
        share: Share,
        device: torch.device,
        *,
        seed: int,
        image_size: int,
        loaders: int,
    ) -> None:
        store = open_store(store_uri)
        counts = [image_count(store, address) for address in shards]
        self.device = device
        self.steps = whole_batches(sum(counts), recipe.batch_size)
        self.order = _Order(counts, recipe.batch_size, share, seed)
        self.loader: DataLoader[Any] = DataLoader(
            _EncodedDataset(store_uri, shards, seed, image_size),
            batch_sampler=self.order,
            num_workers=loaders,
            # Loaders live from epoch to epoch, with the shards they have open.
            persistent_workers=loaders > 0,
            pin_memory=device.type == "cuda",
            # Else it would draw from the global generator for seeds that nothing here uses.
            generator=torch.Generator(),
        )

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """This worker's rows of every global batch."""
        self.order.epoch = epoch
        for pixels, labels in self.loader:
            images, labels = (part.to(self.device, non_blocking=True) for part in (pixels, labels))
            yield as_floats(images), labels


class _Order:
    """The places of a worker's images, batch by batch, in the epoch that was set."""

    def __init__(self, counts: Sequence[int], batch_size: int, share: Share, seed: int) -> None:
        self.counts, self.batch_size, self.share, self.seed = counts, batch_size, share, seed
        self.epoch = 0

    def __iter__(self) -> Iterator[list[Place]]:
        size, places = self.batch_size, self._places()
        for start in range(0, len(places) - size + 1, size):
            yield places[start : start + size][self.share.rows]

    def __len__(self) -> int:
        return sum(self.counts) // self.batch_size

    def _places(self) -> list[Place]:
        """(epoch, shard, row) of every image: shards shuffled, then rows within windows of shards."""
        order: list[Place] = []
        shards = shuffled(len(self.counts), derive_seed(self.seed, "shards", self.epoch))
        for start in range(0, len(shards), WINDOW_SHARDS):
            window = [int(shard) for shard in shards[start : start + WINDOW_SHARDS]]
            places = [(self.epoch, shard, row) for shard in window for row in range(self.counts[shard])]
            mixed = shuffled(len(places), derive_seed(self.seed, "order", self.epoch, start))
            order += [places[place] for place in mixed]
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

    def __getitem__(self, place: Place) -> tuple[Tensor, int]:
        epoch, shard, row = place
        images = self._shard(shard)
        raw = RawImage(images.names[row], images.encoded[row], images.labels[row])
        with seeded(derive_seed(self.seed, "augment", epoch, shard, row)):
            # normalize=False leaves PIL's levels, 0..255 in uint8.
            return self.transform(decode(raw)), raw.label

    def _shard(self, shard: int) -> EncodedImages:
        if shard not in self._open:
            self._open[shard] = read_encoded(open_store(self.store_uri), self.shards[shard])
            while len(self._open) > WINDOW_SHARDS + 1:
                self._open.popitem(last=False)
        return self._open[shard]
