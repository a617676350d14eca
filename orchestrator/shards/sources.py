"""Where images come from: scikit-learn's digits, parquet files or an ImageFolder tree, local or s3://.

Every source lists cheap items first and reads them later, so that a cluster can share the reading.
A root holds two splits: what is called ``train`` and what is called ``val``, ``validation`` or ``test``.
"""

import bisect
import contextlib
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from PIL import Image

from orchestrator.errors import DataError, first_line
from orchestrator.shards.pixels import MAX_ENCODED_BYTES
from orchestrator.store.files import list_files, open_file
from orchestrator.store.parquet import BoundedParquet, told_as

Split = Literal["train", "eval"]
_SPLIT_NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "eval": ("val", "validation", "test")}
_IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")


class Item(NamedTuple):
    """One image yet to be read: ``place`` is a file's path, or a file's path and a row."""

    file: str
    row: int
    label: int


class RawImage(NamedTuple):
    """One image as it was found."""

    name: str
    encoded: bytes
    label: int


@runtime_checkable
class Source(Protocol):
    """A data set with two splits."""

    def items(self, split: Split) -> list[Item]:
        """Items of a split in a fixed order; empty if the split is absent."""
        ...

    def read(self, items: Sequence[Item]) -> Iterator[RawImage]:
        """The images of some items, in their order, in which the rows of a file ascend."""
        ...


@dataclass(frozen=True)
class Digits:
    """scikit-learn's handwritten digits: 1,797 real 8×8 images of 10 classes, the last 20 % for eval."""

    def items(self, split: Split) -> list[Item]:
        """Items of a split; a stride keeps every writer in both splits."""
        labels = self._load()[1]
        rows = [row for row in range(len(labels)) if (row % 5 == 4) == (split == "eval")]
        return [Item("digits", row, int(labels[row])) for row in rows]

    def read(self, items: Sequence[Item]) -> Iterator[RawImage]:
        """The 8×8 images as greyscale PNG."""
        images, labels = self._load()
        for item in items:
            level = np.clip(images[item.row] * (255 / 16), 0, 255).round().astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(level).save(file, "PNG")
            yield RawImage(f"digits-{item.row:05d}", file.getvalue(), int(labels[item.row]))

    @staticmethod
    def _load() -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_digits  # 0.5 s, for this source alone

        digits = load_digits()
        return digits.images, digits.target


@dataclass(frozen=True)
class ParquetFiles:
    """Parquet files with an ``image`` column (bytes, or a struct with ``bytes``) and a ``label`` column."""

    root: str
    files: tuple[tuple[Split, str], ...]

    def items(self, split: Split) -> list[Item]:
        """One item a row, file by file."""
        return [
            Item(file, row, label)
            for of, file in self.files
            if of == split
            for row, label in enumerate(self._labels(file))
        ]

    def read(self, items: Sequence[Item]) -> Iterator[RawImage]:
        """The encoded bytes of the rows; of each file, only the row groups that hold them are read.

        Raises:
            DataError: a file cannot be read, or has no such row.
        """
        for file, run in itertools.groupby(items, key=lambda item: item.file):
            wanted = list(run)
            with self._opened(file) as parquet:
                column = _image_column(parquet.schema)
                rows = [item.row for item in wanted]
                for item, value in zip(wanted, _values(parquet, column, rows), strict=True):
                    encoded = value["bytes"] if isinstance(value, dict) else value
                    yield RawImage(f"{file}#{item.row}", encoded or b"", item.label)

    def _labels(self, file: str) -> list[int]:
        with self._opened(file) as parquet:
            kind = parquet.schema.field("label").type
            whole = pa.types.is_integer(kind)
            groups = range(len(parquet.group_rows)) if whole else ()
            parts = [batch.column(0) for batch in parquet.batches(["label"], groups)]
        if not whole or any(part.null_count for part in parts):
            raise DataError(f"{self.root}/{file} has labels that are not whole numbers ({kind}).")
        return [label for part in parts for label in part.to_pylist()]

    @contextlib.contextmanager
    def _opened(self, file: str) -> Iterator[BoundedParquet]:
        uri = f"{self.root}/{file}"
        what = f"{uri} cannot be read as parquet with columns image and label"
        with told_as(DataError, what, "Mend the file or take it away."), open_file(uri) as opened:
            yield BoundedParquet(opened)


@dataclass(frozen=True)
class ImageFolder:
    """A tree ``split/class/name.jpeg``; classes are numbered in the sorted order of their folders."""

    root: str
    files: tuple[tuple[Split, str], ...]

    def items(self, split: Split) -> list[Item]:
        """One item a file."""
        names = sorted({file.split("/")[1] for _, file in self.files})
        numbers = {name: number for number, name in enumerate(names)}
        return [Item(f, 0, numbers[f.split("/")[1]]) for of, f in self.files if of == split]

    def read(self, items: Sequence[Item]) -> Iterator[RawImage]:
        """The encoded bytes of the files; none of a file that is larger than any image.

        Raises:
            DataError: a file is gone or cannot be read; left out, it would be another data set.
        """
        for item in items:
            try:
                with open_file(f"{self.root}/{item.file}") as file:
                    encoded = bytes(file.read()) if file.size() <= MAX_ENCODED_BYTES else b""
            except OSError as error:
                raise DataError(f"{self.root}/{item.file} cannot be read ({first_line(error)}).") from None
            yield RawImage(item.file, encoded, item.label)


def open_source(data: str) -> Source:
    """The data set at ``data``: the word ``digits``, or the root of parquet files or of an image tree.

    Raises:
        DataError: nothing there looks like a training and an evaluation split.
    """
    if data == "digits":
        return Digits()
    if not data:
        raise DataError("This preset brings no images. Name a folder or s3:// prefix with --data.")
    root = data.rstrip("/")
    try:
        files = list_files(root)
    except (OSError, ValueError) as error:  # ValueError: a name that is not UTF-8
        raise DataError(f"Data at {root} cannot be listed ({first_line(error)}).") from None
    folder = [(s, f) for f in files for s in [_folder_split(f)] if s]
    if folder:
        return ImageFolder(root, tuple(folder))
    parquet = _parquet_splits([file for file in files if file.endswith(".parquet")])
    if parquet:
        return ParquetFiles(root, tuple(parquet))
    raise DataError(
        f"Data at {root} holds neither train/CLASS/IMAGE nor train*.parquet files "
        f"({len(files)} files seen). Point --data to the folder that holds both splits."
    )


def _image_column(schema: pa.Schema) -> str:
    """The column of encoded images: ``image``, or the field ``bytes`` in it."""
    kind, name = schema.field("image").type, "image"
    if pa.types.is_struct(kind):
        kind, name = kind.field("bytes").type, "image.bytes"
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise ValueError(f"its images are {kind}, not bytes")
    return name


def _values(parquet: BoundedParquet, column: str, rows: Sequence[int]) -> Iterator[Any]:
    """The values of a column at some rows, which ascend, one batch in memory at a time."""
    ends = list(itertools.accumulate(parquet.group_rows))
    if max(rows) >= sum(parquet.group_rows):
        raise ValueError(f"it has no row {max(rows)}")
    for group, wanted in itertools.groupby(rows, key=lambda row: bisect.bisect_right(ends, row)):
        start = ends[group] - parquet.group_rows[group]
        batches, batch = parquet.batches([column], [group]), pa.array([])
        for row in wanted:
            while row >= start + len(batch):
                start += len(batch)
                batch = next(batches, None)
                if batch is None:
                    raise ValueError(f"it claims row {row} and ends before")
            yield batch.column(0)[row - start].as_py()


def _folder_split(file: str) -> Split | None:
    parts = file.split("/")
    if len(parts) < 3 or not file.lower().endswith(_IMAGE_SUFFIXES):
        return None
    found = (split for split, names in _SPLIT_NAMES.items() if parts[0] in names)
    return next(found, None)


def _parquet_splits(files: Sequence[str]) -> list[tuple[Split, str]]:
    """Files of each split: an exact name (train.parquet) wins over numbered parts (train-00000-of-…)."""
    found: list[tuple[Split, str]] = []
    for split, names in _SPLIT_NAMES.items():
        stem = "|".join(names)
        exact = [f for f in files if re.fullmatch(rf"(?:.*/)?(?:{stem})\.parquet", f)]
        parts = [f for f in files if re.fullmatch(rf"(?:.*/)?(?:{stem})[-_]?\d.*\.parquet", f)]
        found += [(split, f) for f in (exact[:1] or parts)]
    return found
