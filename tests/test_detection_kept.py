"""Kept images of the transfer matrix as detectors meet them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import run_locally, small_study
from orchestrator.detection.kept import (
    AttackedImages,
    CleanImages,
    KeptAttack,
    Together,
    TrainingImages,
    kept_attack,
)
from orchestrator.errors import DamagedArtifact
from orchestrator.shards.shard import read_pixels
from orchestrator.store.local import LocalStore
from orchestrator.store.record import ArtifactRecord

NOTHING = ArtifactRecord(recipe={}, files={})


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> LocalStore:
    folder: Path = tmp_path_factory.mktemp("kept")
    store = LocalStore(folder / "store" / "study")
    study = small_study(n_keys=2, attacks=("apgd-ce:steps=3",), threats=("linf:4/255,16/255",))
    run_locally(study, store, str(folder / "vault"), {"keep_images": True})
    return store


@pytest.mark.parametrize(
    ("source", "target", "origin"),
    [
        ("k-a.full", "k-a.full", "own key"),
        ("k-a.full", "k-a.lora", "another key"),
        ("k-b.full", "k-a.full", "another key"),
        ("plain", "k-a.full", "plain"),
        ("plain", "plain", "own key"),
        ("plain+k-a.full", "k-a.full", "own key"),
        ("plain+k-b@gradients.full", "plain", "own key"),
        ("plain+k-b.full", "k-a.full", "another key"),
    ],
)
def test_images_come_from_the_own_key_another_or_the_plain_model(source, target, origin):
    assert KeptAttack("", NOTHING, "", "linf", (0.1,), source, "").origin(target) == origin


def every_kept(site):
    return [kept_attack(site, address) for address in site.addresses("adversarial")]


def test_kept_attacks_are_found_with_what_they_are(site):
    found = every_kept(site)
    assert {kept.attack for kept in found} == {"apgd-ce-steps3"}
    assert {kept.epsilons for kept in found} == {(4 / 255, 16 / 255)}
    assert len({kept.source for kept in found}) == 3
    assert len(found) == 3 * 2  # shards
    assert "plain" in {kept.source for kept in found}


def test_attacked_images_come_in_parts_with_their_originals_and_as_often_as_asked(site):
    found = [kept for kept in every_kept(site) if kept.source == "plain"]
    parts = {part: AttackedImages(site, found, "k-a.full", part, 7) for part in ("fit", "held-out", "test")}
    shown = {part: list(images) for part, images in parts.items()}
    assert [len(each) for each in shown.values()] == [4, 4, 4]  # two shards, two threats
    assert sum(len(examples.labels) for each in shown.values() for examples in each) == 2 * 40
    for part, each in shown.items():
        clean = list(CleanImages(site, [kept.shard for kept in found], part, 7))
        for place, examples in enumerate(each):
            assert torch.equal(examples.originals, clean[place // 2].images)
            assert torch.equal(examples.labels, clean[place // 2].labels)
            moved = (examples.images - examples.originals).abs().amax()
            assert moved <= (4, 16)[place % 2] / 255 + 1e-6
    again = next(iter(parts["fit"]))
    assert torch.equal(again.images, shown["fit"][0].images)


def test_clean_images_are_those_of_the_shards(site):
    whole = read_pixels(site, "shards/eval/00000")
    parts = [
        next(iter(CleanImages(site, ["shards/eval/00000"], part, 7)))
        for part in ("fit", "held-out", "test")
    ]
    assert sum(part.images.sum() for part in parts) == pytest.approx(
        float((whole.pixels / 255).sum()), rel=1e-4
    )


def test_training_images_are_a_sample_that_depends_on_their_names_alone(site):
    shards = [f"shards/train/{number:05d}" for number in range(6)]
    whole = list(TrainingImages(site, shards, 1.0, 7))
    assert sum(len(each.labels) for each in whole) == 6 * 20
    some = list(TrainingImages(site, shards, 0.5, 7))
    assert 30 < sum(len(each.labels) for each in some) < 90
    backwards = list(TrainingImages(site, shards[::-1], 0.5, 7))[::-1]
    assert all(torch.equal(one.images, other.images) for one, other in zip(some, backwards, strict=True))
    for sample, shard in zip(some, shards, strict=True):
        pixels = read_pixels(site, shard).pixels.flatten(1)
        shown = sample.images.mul(255).round().flatten(1)
        assert all((pixels == image).all(dim=1).any() for image in shown)
    assert list(TrainingImages(site, shards, 0.0, 7)) == []


def test_images_of_several_sources_come_one_after_another_as_often_as_asked(site):
    clean = CleanImages(site, ["shards/eval/00000"], "fit", 7)
    both = Together([clean, TrainingImages(site, ["shards/train/00000"], 1.0, 7)])
    expected = [len(next(iter(clean)).labels), 20]
    assert [[len(each.labels) for each in both] for _ in range(2)] == [expected, expected]


def test_images_of_another_shard_are_damaged(site):
    kept = every_kept(site)[0]
    wrong = replace(kept, epsilons=(0.1,))
    with pytest.raises(DamagedArtifact, match="does not hold its shard's images"):
        list(AttackedImages(site, [wrong], "plain", "fit", 7))
