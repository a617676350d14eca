"""Cutting: which images of a split go into which shard, known before any is read."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from orchestrator.errors import DataError
from orchestrator.seeds import derive_seed
from orchestrator.shards.shard import Shard
from orchestrator.shards.sources import Item, Split, open_source

T = TypeVar("T")


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
    draw: int | None = None,
) -> list[Shard]:
    """The shards of a split: ``rows`` images each, of ``limit`` images (0 = all).

    Where a limit is given, the images are spread evenly over the split, so that a data set sorted by
    class gives every class its share. With a seed to ``draw`` by they are dealt to the shards by chance:
    any first few shards are then a random sample of all.

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
    if draw is not None:
        items = _dealt(items, rows, draw)
    return [
        Shard(
            split=split,
            index=index,
            data=data,
            items=tuple(chunk),
            image_size=image_size,
            crop_fraction=crop_fraction,
            encoded=encoded,
            drawn=draw is not None,
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


def _dealt(items: Sequence[Item], rows: int, seed: int) -> list[Item]:
    """The same items, dealt to shards of ``rows`` by chance; in each in their old order, to read ahead."""
    mixed = sorted(range(len(items)), key=lambda place: derive_seed(seed, *items[place][:2]))
    return [items[place] for chunk in _chunks(mixed, rows) for place in sorted(chunk)]


def _chunks(items: Sequence[T], rows: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), rows):
        yield items[start : start + rows]
