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
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from orchestrator.errors import DataError, first_line
from orchestrator.store.files import list_files, open_file, read_file

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
        """The images of some items, in their order."""
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
        """The encoded bytes of the rows; of each file, only the row groups that hold them are read."""
        for file, run in itertools.groupby(items, key=lambda item: item.file):
            with open_file(f"{self.root}/{file}") as opened, self._told(file):
                parquet = pq.ParquetFile(opened)
                rows = [parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)]
                ends = list(itertools.accumulate(rows))
                group, column = -1, None
                for item in run:
                    wanted = bisect.bisect_right(ends, item.row)
                    if wanted != group:
                        group = wanted
                        column = parquet.read_row_group(group, columns=["image"])["image"]
                    value = column[item.row - ends[group] + rows[group]].as_py()  # type: ignore[index]
                    encoded = value["bytes"] if isinstance(value, dict) else value
                    yield RawImage(f"{file}#{item.row}", encoded or b"", item.label)

    def _labels(self, file: str) -> list[int]:
        with open_file(f"{self.root}/{file}") as opened, self._told(file):
            labels = pq.read_table(opened, columns=["label"])["label"]
        if not pa.types.is_integer(labels.type) or labels.null_count:
            raise DataError(f"{self.root}/{file} has labels that are not whole numbers ({labels.type}).")
        return labels.to_pylist()  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _told(self, file: str) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError, OSError) as error:
            raise DataError(
                f"{self.root}/{file} cannot be read as parquet with columns image and label "
                f"({first_line(error)})."
            ) from None


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
        """The encoded bytes of the files."""
        for item in items:
            yield RawImage(item.file, read_file(f"{self.root}/{item.file}"), item.label)


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
    except OSError as error:
        raise DataError(f"Data at {root} cannot be listed ({error}).") from None
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
