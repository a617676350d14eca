"""Shards: parquet files of images, the unit of training input and of attack; write, read as tensors."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from orchestrator.errors import DamagedArtifact, DataError
from orchestrator.shards.pixels import canonical_pixels, decode_image
from orchestrator.shards.sources import Item, RawImage, Split, open_source
from orchestrator.shards.table import read_table, table_bytes
from orchestrator.store.artifacts import ArtifactStore, open_store
from orchestrator.store.record import ArtifactRecord, FileEntry

IMAGES_FILE = "images.parquet"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Some images of one split, by number; the recipe says which and how they are stored."""

    split: Split
    index: int
    data: str
    """Where the source is; not part of the identity, since moved data is the same data."""
    items: tuple[Item, ...]
    image_size: int
    crop_fraction: float
    """Share of the shorter side that the centre crop keeps (timm's crop_pct)."""
    encoded: bool
    """Keep the original bytes (for augmentation that crops) instead of final pixels."""
    drawn: bool = False
    """Its images were drawn at random from the split, not taken in order."""

    @property
    def address(self) -> str:
        """Where the shard is, relative to the study."""
        return shard_address(self.split, self.index, drawn=self.drawn)

    @property
    def id(self) -> str:
        """The shard's name in ledgers and logs."""
        return self.address

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that decides the shard's content."""
        return {
            "split": self.split,
            "index": self.index,
            "items": [list(item) for item in self.items],
            "image_size": self.image_size,
            "crop_fraction": self.crop_fraction,
            "encoded": self.encoded,
        }


def shard_address(split: Split, index: int, *, drawn: bool = False) -> str:
    """Where a shard of a study is; one of images drawn at random is beside those in order."""
    return f"shards/{split}/{'drawn-' if drawn else ''}{index:05d}"


class ImageBatch(NamedTuple):
    """Images of a shard as tensors: names, uint8 pixels in 0..255, labels."""

    names: tuple[str, ...]
    pixels: UInt8[Tensor, "images 3 size size"]
    labels: Int[Tensor, " images"]


class EncodedImages(NamedTuple):
    """Images of a shard as they were found."""

    names: tuple[str, ...]
    encoded: tuple[bytes, ...]
    labels: tuple[int, ...]


def write_shard(store: ArtifactStore, shard: Shard) -> tuple[str, ...]:
    """Read, decode and commit a shard; the names of images that were unreadable and left out."""
    started = time.monotonic()
    kept: list[tuple[str, int, bytes]] = []
    left_out: list[str] = []
    for raw in open_source(shard.data).read(shard.items):
        try:
            image = decode(raw)
            pixels = canonical_pixels(image, shard.image_size, shard.crop_fraction)
            kept.append((raw.name, raw.label, raw.encoded if shard.encoded else pixels.tobytes()))
        except DataError:
            left_out.append(raw.name)
    content = table_bytes(kept, shard.recipe, shard.address)
    record = ArtifactRecord(
        recipe=shard.recipe,
        files={IMAGES_FILE: FileEntry.of(content)},
        provenance={
            "images": len(kept),
            "left_out": left_out,
            "data": shard.data,
            "seconds": time.monotonic() - started,
        },
    )
    store.commit(shard.address, record, {IMAGES_FILE: content})
    return tuple(left_out)


class ShardWorker:
    """Makes shards, wherever a runner puts it."""

    def __init__(self, store: str) -> None:
        self.store = open_store(store)

    def run(self, unit: Shard) -> tuple[str, ...]:
        """The names of images left out."""
        return write_shard(self.store, unit)


def decode(raw: RawImage) -> Image.Image:
    """The image in RGB.

    Raises:
        DataError: the bytes are not an image that may be decoded (see ``decode_image``).
    """
    return decode_image(raw.name, raw.encoded)


def read_pixels(
    store: ArtifactStore,
    address: str,
    record: ArtifactRecord | None = None,
    chosen: Callable[[str], bool] | None = None,
) -> ImageBatch:
    """A shard as final pixels; one that kept original bytes is decoded and cropped as others were.

    Args:
        store: where it is.
        address: of the shard.
        record: its record, which is not read again where the caller has it.
        chosen: by an image's name, whether it is wanted; others are not decoded.

    Raises:
        DamagedArtifact: it is not a shard, or not the one its record describes.
        DataError: an image kept as original bytes is none.
    """
    table, recipe = read_table(store, address, IMAGES_FILE, record)
    if chosen is not None:
        table = table.filter(pa.array(list(map(chosen, table["image"].to_pylist())), pa.bool_()))
    size, contents = recipe["image_size"], table["content"].to_pylist()
    if recipe["encoded"]:
        raws = zip(table["image"].to_pylist(), contents, table["label"].to_pylist(), strict=True)
        crop = (size, recipe["crop_fraction"])
        contents = [canonical_pixels(decode(RawImage(*raw)), *crop).tobytes() for raw in raws]
    flat = np.frombuffer(b"".join(contents), np.uint8)
    return ImageBatch(
        names=tuple(table["image"].to_pylist()),
        pixels=torch.from_numpy(flat.reshape(-1, 3, size, size).copy()),
        labels=torch.from_numpy(table["label"].to_numpy().astype(np.int64)),
    )


def image_count(store: ArtifactStore, address: str) -> int:
    """How many images a shard has, by its record alone.

    Raises:
        DamagedArtifact: the record does not say, or says more than the shard was cut for.
    """
    record = store.record(address)
    count, most = record.provenance.get("images"), len(record.recipe.get("items", ()))
    if not isinstance(count, int) or not 0 <= count <= most:
        raise DamagedArtifact(f"{address} does not say how many images it has. Delete it and rerun.")
    return count


def read_encoded(store: ArtifactStore, address: str) -> EncodedImages:
    """A shard of original bytes.

    Raises:
        DamagedArtifact: it is not a shard, or not the one its record describes.
    """
    table, _ = read_table(store, address, IMAGES_FILE)
    columns = (tuple(table[name].to_pylist()) for name in ("image", "content", "label"))
    return EncodedImages(*columns)
