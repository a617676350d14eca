"""Examples beside outcomes: the first images as they were moved, and who read what in them."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from conftest import run_locally, small_study
from orchestrator.errors import DamagedArtifact
from orchestrator.pipeline.pictures import gather_album
from orchestrator.report.album import Album, MovedImages
from orchestrator.report.figures.prints import develop
from orchestrator.shards.shard import read_pixels
from orchestrator.store.local import LocalStore
from orchestrator.store.record import ArtifactRecord, FileEntry
from orchestrator.transfer.climb import Moved, no_moves
from orchestrator.transfer.examples import EXAMPLES_FILE, examples_bytes, read_examples
from orchestrator.transfer.work import Scored
from orchestrator.transfer.worker import OUTCOMES_FILE


def scored_of(store: LocalStore) -> list[Scored]:
    records = [(address, store.record(address)) for address in store.addresses("outcomes")]
    return [Scored(place, record, frozenset(record.recipe["targets"])) for place, record in records]


def make_moved(images: torch.Tensor, step: float) -> Moved:
    count = torch.zeros(2, len(images), dtype=torch.int64)
    moved = torch.stack([images, (images + step).clamp(0, 1)])
    return Moved(moved, moved, count, count, count, *[no_moves(2, images)] * 2)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> LocalStore:
    folder = tmp_path_factory.mktemp("examples")
    store = LocalStore(folder / "store" / "study")
    run_locally(small_study(controls=0, threats=("linf:4/255,8/255",)), store, str(folder / "vault"))
    return store


def test_the_first_shard_alone_keeps_the_first_images_of_every_source(study: LocalStore) -> None:
    clean = read_pixels(study, "shards/eval/00000").pixels[:4].float() / 255
    kept = [part for part in scored_of(study) if EXAMPLES_FILE in part.record.files]
    assert {part.address.split("/")[3] for part in kept} == {"00000"}
    assert len(kept) == 3
    for part in kept:
        examples = read_examples(study, part)
        assert examples.whole
        assert torch.equal(examples.clean, clean)
        assert 0 < (examples.best - clean).abs().max() <= 8 / 255 + 1e-6


def test_an_album_tells_what_each_target_read_in_its_images(study: LocalStore) -> None:
    scored = scored_of(study)
    album = gather_album(study, scored)
    assert len(album.moved) == 3
    kept = [part for part in scored if EXAMPLES_FILE in part.record.files]
    parts = {part.address.split("/")[2].partition(".")[0]: part for part in kept}
    for moved in album.moved:
        content = study.read(parts[moved.source].address, OUTCOMES_FILE)
        rows = pq.read_table(pa.BufferReader(content)).to_pylist()
        first = list(dict.fromkeys(row["image"] for row in rows))[:4]
        for (method, target), readings in moved.readings.items():
            chosen = {
                row["image"]: row
                for row in rows
                if row["target"] == target and row["method"] == method and row["epsilon"] == 8 / 255
            }
            told = [(chosen[n]["clean_prediction"], chosen[n]["adversarial_prediction"]) for n in first]
            assert readings == told
            assert album.labels == [chosen[name]["label"] for name in first]


def test_the_page_of_a_study_holds_its_images(study: LocalStore) -> None:
    page = study.read("report", "index.html").decode()
    assert page.count('"factor":') == 3
    assert "All cells show example images, too." in page


def test_outcomes_without_examples_are_passed_over(study: LocalStore) -> None:
    without = [
        replace(part, record=replace(part.record, files={OUTCOMES_FILE: part.record.files[OUTCOMES_FILE]}))
        for part in scored_of(study)
    ]
    assert gather_album(study, without) is None
    assert gather_album(study, []) is None


def test_large_images_are_kept_as_copies_that_do_not_average_the_perturbation() -> None:
    images = torch.rand(5, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    found = safetensors.torch.load(examples_bytes(make_moved(images, 4 / 255), images))
    assert set(found) == {"clean", "worst"}
    assert found["clean"].shape == (4, 3, 96, 96)
    assert found["clean"].dtype == torch.float16
    step = (found["worst"].float() - found["clean"].float()).amax()
    assert step == pytest.approx(4 / 255, abs=1e-3)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"clean": torch.zeros(4, 3, 8, 8)},
        {"clean": torch.zeros(4, 3, 8, 8), "worst": torch.zeros(4, 3, 9, 9)},
        {"clean": torch.zeros(4, 3, 8, 8), "worst": torch.full((4, 3, 8, 8), 2.0)},
        {"clean": torch.zeros(9, 3, 8, 8), "worst": torch.zeros(9, 3, 8, 8)},
        {"clean": torch.zeros(4, 3, 512, 512), "worst": torch.zeros(4, 3, 512, 512)},
    ],
)
def test_examples_that_are_no_images_are_damage(store: LocalStore, tensors) -> None:
    content = safetensors.torch.save(tensors)
    record = ArtifactRecord(recipe={"targets": {}}, files={EXAMPLES_FILE: FileEntry.of(content)})
    store.commit("outcomes/a/plain/00000/0", record, {EXAMPLES_FILE: content})
    with pytest.raises(DamagedArtifact):
        read_examples(store, Scored("outcomes/a/plain/00000/0", record, frozenset()))


def make_album(sources: int, side: int) -> Album:
    noise = np.random.default_rng(0)
    clean = noise.random((4, 3, side, side), dtype=np.float32)
    moved = np.clip(clean + noise.choice([-1, 1], clean.shape) * np.float32(8 / 255), 0, 1)
    return Album(
        labels=[0, 1, 2, 3],
        clean=clean,
        whole=True,
        moved=[
            MovedImages(source=f"k-{number:012x}", attack="apgd", norm="linf", epsilon=8 / 255,
                        others=moved, own=moved, readings={("full", "plain"): [(0, 1)] * 4})
            for number in range(sources)
        ],
    )  # fmt: skip


def test_a_page_holds_as_many_examples_as_it_has_room_for() -> None:
    assert len(develop(make_album(3, 32)).shown) == 3
    many = develop(make_album(80, 48))
    assert 3 < len(many.shown) < 80
    assert (
        sum(len(png) for moved in many.json["moved"] for row in moved["others"] for png in row) < 1_500_000
    )


def test_a_perturbation_is_magnified_until_it_fills_the_scale() -> None:
    (entry,) = develop(make_album(1, 8)).json["moved"]
    assert entry["factor"] == 15  # of 255 / 16
    assert "own" not in entry
