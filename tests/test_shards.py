"""Shards: every source gives the same kind of images; what is corrupt is left out and named."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from orchestrator.errors import DamagedArtifact, DataError
from orchestrator.shards.cutting import plan_shards
from orchestrator.shards.shard import (
    IMAGES_FILE,
    Shard,
    read_encoded,
    read_pixels,
    write_shard,
)
from orchestrator.shards.sources import Item, open_source
from orchestrator.store.local import LocalStore

SETTINGS = {
    "classes": 3,
    "rows": 4,
    "limit": 0,
    "image_size": 16,
    "crop_fraction": 1.0,
    "encoded": False,
}


def picture(number: int, width: int = 20, height: int = 16) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_folder(root: Path) -> None:
    for split, count in (("train", 6), ("val", 3)):
        for number in range(count):
            folder = root / split / ("ant", "bee", "cat")[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.png").write_bytes(picture(number))


def write_parquet(file: Path, count: int, *, nested: bool = False, labels=None) -> None:
    encoded = [picture(number) for number in range(count)]
    images = [{"bytes": e, "path": None} for e in encoded] if nested else encoded
    labels = [number % 3 for number in range(count)] if labels is None else labels
    pq.write_table(pa.table({"image": images, "label": labels}), file, row_group_size=4)


def test_digits_are_real_images_of_ten_classes_in_two_disjoint_splits() -> None:
    source = open_source("digits")
    train, held_out = source.items("train"), source.items("eval")
    assert (len(train), len(held_out)) == (1438, 359)
    assert not {item.row for item in train} & {item.row for item in held_out}
    assert {item.label for item in held_out} == set(range(10))


def test_a_folder_and_a_parquet_file_of_the_same_images_give_the_same_pixels(
    tmp_path: Path, store: LocalStore
) -> None:
    write_folder(tmp_path / "folder")
    (tmp_path / "parquet").mkdir()
    write_parquet(tmp_path / "parquet/train.parquet", 6)
    write_parquet(tmp_path / "parquet/validation-00000-of-00001.parquet", 3, nested=True)
    seen = {}
    for kind in ("folder", "parquet"):
        for split in ("train", "eval"):
            shards = plan_shards(str(tmp_path / kind), split, **SETTINGS)
            pixels = []
            for shard in shards:
                assert write_shard(store, shard) == ()
                batch = read_pixels(store, shard.address)
                pixels += [p.numpy().tobytes() + bytes([int(y)]) for p, y in zip(*batch[1:], strict=True)]
                store.delete(shard.address)
            seen[kind, split] = sorted(pixels)
    assert seen["folder", "train"] == seen["parquet", "train"]
    assert seen["folder", "eval"] == seen["parquet", "eval"]
    assert len(seen["folder", "train"]) == 6


def test_pixels_are_resized_and_centre_cropped(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "train/a").mkdir(parents=True)
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 255  # the middle third, which is what a centre crop keeps
    Image.fromarray(pixels).save(tmp_path / "train/a/wide.png")
    (shard,) = plan_shards(str(tmp_path), "train", **{**SETTINGS, "image_size": 8})
    write_shard(store, shard)
    assert read_pixels(store, shard.address).pixels.min() == 255


def test_encoded_shards_keep_the_bytes_as_they_were(store: LocalStore, tmp_path: Path) -> None:
    write_folder(tmp_path)
    shard = plan_shards(str(tmp_path), "eval", **{**SETTINGS, "encoded": True})[0]
    write_shard(store, shard)
    images = read_encoded(store, shard.address)
    assert images.encoded == (picture(0), picture(1), picture(2))
    assert images.labels == (0, 1, 2)


def test_a_corrupt_image_among_many_is_left_out_and_named(store: LocalStore, tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "train/bee/1.png").write_bytes(b"not an image")
    (tmp_path / "train/bee/4.png").write_bytes(picture(4)[:60])
    shards = plan_shards(str(tmp_path), "train", **{**SETTINGS, "rows": 6})
    assert write_shard(store, shards[0]) == ("train/bee/1.png", "train/bee/4.png")
    assert len(read_pixels(store, shards[0].address).names) == 4
    assert store.record(shards[0].address).provenance["left_out"] == [
        "train/bee/1.png",
        "train/bee/4.png",
    ]


def test_an_image_bomb_is_left_out(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "train/a").mkdir(parents=True)
    Image.new("1", (20_000, 20_000)).save(tmp_path / "train/a/bomb.png")
    (shard,) = plan_shards(str(tmp_path), "train", **SETTINGS)
    assert write_shard(store, shard) == ("train/a/bomb.png",)


@pytest.mark.parametrize("labels", [[0, 1, 3, 0, 0, 0], [0, -1, 0, 0, 0, 0]])
def test_labels_out_of_range_are_told(tmp_path: Path, labels: list[int]) -> None:
    write_parquet(tmp_path / "train.parquet", 6, labels=labels)
    with pytest.raises(DataError, match=r"outside 0\.\.2"):
        plan_shards(str(tmp_path), "train", **SETTINGS)


def test_labels_that_are_not_numbers_are_told(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", 3, labels=["a", "b", "c"])
    with pytest.raises(DataError, match="not whole numbers"):
        plan_shards(str(tmp_path), "train", **SETTINGS)


def test_missing_and_empty_data_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data"):
        open_source("")
    with pytest.raises(DataError, match="0 files seen"):
        open_source(str(tmp_path / "absent"))
    write_parquet(tmp_path / "train.parquet", 3)
    with pytest.raises(DataError, match="no images in its eval split"):
        plan_shards(str(tmp_path), "eval", **SETTINGS)


@pytest.mark.parametrize("content", [b"", b"PAR1 but no", b"\x00" * 400])
def test_a_parquet_file_that_is_none_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"train\.parquet cannot be read as parquet"):
        plan_shards(str(tmp_path), "train", **SETTINGS)


def test_parquet_without_the_columns_is_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"picture": [b"1"], "class": [0]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="columns image and label"):
        plan_shards(str(tmp_path), "train", **SETTINGS)


def test_a_limit_is_spread_over_the_split() -> None:
    (shard,) = plan_shards("digits", "train", **{**SETTINGS, "classes": 10, "limit": 10, "rows": 10})
    rows = [item.row for item in shard.items]
    assert len(rows) == 10
    assert rows[-1] > 1400


def test_an_exact_split_name_wins_over_others(tmp_path: Path) -> None:
    for name in ("train", "train_lossless_subset", "test", "test_lossless_subset"):
        write_parquet(tmp_path / f"{name}.parquet", 3)
    assert {item.file for item in open_source(str(tmp_path)).items("train")} == {"train.parquet"}
    assert {item.file for item in open_source(str(tmp_path)).items("eval")} == {"test.parquet"}


def test_the_place_of_the_data_is_not_part_of_a_shard() -> None:
    shard = Shard(
        split="train",
        index=0,
        data="here",
        items=(Item("a.png", 0, 1),),
        image_size=8,
        crop_fraction=1.0,
        encoded=False,
    )
    assert shard.recipe == replace(shard, data="s3://there").recipe
    assert shard.recipe != replace(shard, image_size=16).recipe


def test_a_shard_whose_bytes_changed_is_damage(store: LocalStore) -> None:
    (shard,) = plan_shards("digits", "eval", **{**SETTINGS, "classes": 10, "limit": 4})
    write_shard(store, shard)
    file = store.root / shard.address / IMAGES_FILE
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DamagedArtifact):
        read_pixels(store, shard.address)


def test_pixels_come_back_as_uint8_in_order(store: LocalStore) -> None:
    (shard,) = plan_shards("digits", "eval", **{**SETTINGS, "classes": 10, "limit": 4})
    write_shard(store, shard)
    batch = read_pixels(store, shard.address)
    assert batch.pixels.shape == (4, 3, 16, 16)
    assert batch.pixels.dtype == torch.uint8
    assert batch.labels.tolist() == [item.label for item in shard.items]


def test_shards_that_are_drawn_are_of_all_classes_though_the_data_are_sorted(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", 3)
    write_parquet(tmp_path / "val.parquet", 90, labels=sorted(number % 3 for number in range(90)))
    shards = plan_shards(str(tmp_path), "eval", **{**SETTINGS, "rows": 30}, draw=1)
    for shard in shards:
        assert {item.label for item in shard.items} == {0, 1, 2}
        assert list(shard.items) == sorted(shard.items)
    assert sorted(item for shard in shards for item in shard.items) == open_source(str(tmp_path)).items(
        "eval"
    )
    assert len(plan_shards(str(tmp_path), "eval", **{**SETTINGS, "rows": 90})[0].items) == 90
