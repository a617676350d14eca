"""Shards: parquet files of images, the unit of training input and of attack; write, read as tensors."""

import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from orchestrator.errors import DamagedArtifact, DataError
from orchestrator.shards.sources import Item, RawImage, Split, open_source
from orchestrator.store.artifacts import ArtifactStore, open_store
from orchestrator.store.record import ArtifactRecord, FileEntry

IMAGES_FILE = "images.parquet"
# A decoded image never exceeds this many pixels: a small file can unpack to gigabytes.
MAX_PIXELS = 64 * 2**20


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

    @property
    def address(self) -> str:
        """Where the shard is, relative to the study."""
        return f"shards/{self.split}/{self.index:05d}"

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
    table = _table(kept, shard)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_statistics=False)
    content = sink.getvalue()
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
        DataError: the bytes are not an image, are cut short, or unpack to more than 64 Mi pixels.
    """
    try:
        with Image.open(io.BytesIO(raw.encoded)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{raw.name} has {image.width}x{image.height} pixels, more than allowed.")
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{raw.name} is not a readable image ({type(error).__name__}).") from None


def canonical_pixels(
    image: Image.Image, size: int, crop_fraction: float
) -> UInt8[np.ndarray, "3 size size"]:
    """Resize the shorter side bicubically, crop the centre: the pixels that are classified and attacked."""
    scale = size / crop_fraction / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    pixels = np.asarray(resized.crop((left, top, left + size, top + size)), dtype=np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _table(kept: Sequence[tuple[str, int, bytes]], shard: Shard) -> pa.Table:
    names, labels, contents = zip(*kept, strict=True) if kept else ((), (), ())
    width = 3 * shard.image_size**2
    kind = pa.binary() if shard.encoded else pa.binary(width)
    return pa.table(
        {
            "image": pa.array(names, pa.string()),
            "label": pa.array(labels, pa.int32()),
            "content": pa.array(contents, kind),
        }
    )


def _read_table(store: ArtifactStore, address: str) -> pa.Table:
    content = store.read(address, IMAGES_FILE)
    try:
        return pq.read_table(pa.BufferReader(content))
    except pa.ArrowInvalid as error:
        raise DamagedArtifact(f"{address}/{IMAGES_FILE} is not parquet ({error}).") from None


def read_pixels(store: ArtifactStore, address: str) -> ImageBatch:
    """A shard as final pixels; one that kept original bytes is decoded and cropped as others were."""
    table, recipe = _read_table(store, address), store.record(address).recipe
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


def read_encoded(store: ArtifactStore, address: str) -> EncodedImages:
    """A shard of original bytes."""
    table = _read_table(store, address)
    columns = (tuple(table[name].to_pylist()) for name in ("image", "content", "label"))
    return EncodedImages(*columns)


def plan_shards(
    data: str,
    split: Split,
    *,
    classes: int,
    rows: int,
    limit: int,
    image_size: int,
    crop_fraction: float,
    encoded: bool,
) -> list[Shard]:
    """The shards of a split: ``rows`` images each, of the first ``limit`` images (0 = all).

    Where a limit is given, the images are spread evenly over the split, so that a data set sorted by
    class gives every class its share.

    Raises:
        DataError: the split is missing or empty, or a label is outside 0..classes-1.
    """
    items = open_source(data).items(split)
    if not items:
        raise DataError(
            f"Data at {data} has no images in its {split} split. Give a root with both splits, "
            "train and val (or test)."
        )
    check_labels(items, classes, data)
    if 0 < limit < len(items):
        items = [items[place * len(items) // limit] for place in range(limit)]
    return [
        Shard(
            split=split,
            index=index,
            data=data,
            items=tuple(chunk),
            image_size=image_size,
            crop_fraction=crop_fraction,
            encoded=encoded,
        )
        for index, chunk in enumerate(_chunks(items, rows))
    ]


def check_labels(items: Sequence[Item], classes: int, data: str) -> None:
    """Raise DataError unless every label is in 0..classes-1."""
    wrong = [item for item in items if not 0 <= item.label < classes]
    if wrong:
        raise DataError(
            f"{len(wrong)} labels at {data} are outside 0..{classes - 1}, first {wrong[0].label} in "
            f"{wrong[0].file}. Set the number of classes with --architecture.classes, or mend the labels."
        )


def _chunks(items: Sequence[Item], rows: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), rows):
        yield items[start : start + rows]
