"""The bench of the LoRA collapse: what it measures is what it says, and variants tune what they name."""

import math
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from collapse_measures import (
    Count,
    climb_in_band,
    covariance,
    energy_inside,
    low_band,
    low_share,
    patches,
    principal,
    row_space,
    share_inside,
)
from collapse_models import Scene, Variant, prepare, study_of, train

from orchestrator.attacks.threat import Threat
from orchestrator.models.keyed import KeyedModel
from orchestrator.models.stored import freeze
from orchestrator.presets import digits


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def waves(across: int) -> torch.Tensor:
    """One image of so many half-waves across, and none down."""
    row = torch.cos(math.pi * across * (torch.arange(32) + 0.5) / 32)
    return row.expand(1, 3, 32, 32).clone()


def test_an_update_that_reads_principal_components_alone_lies_inside_them() -> None:
    values = noise(500, 12) * torch.linspace(3, 1, 12)
    space = principal(covariance(values), 4)
    inside = noise(7, 4).double() @ space
    assert share_inside(row_space(inside, 4), space) == pytest.approx(1)
    assert energy_inside(inside, space) == pytest.approx(1)
    outside = inside - noise(7, 12).double()
    outside -= outside @ space.T @ space
    assert share_inside(row_space(outside, 4), space) == pytest.approx(0, abs=1e-9)
    assert energy_inside(outside, space) == pytest.approx(0, abs=1e-9)


def test_random_row_spaces_lie_inside_by_their_dimension() -> None:
    torch.manual_seed(0)
    space = row_space(torch.randn(20, 48), 12)
    shares = [share_inside(row_space(torch.randn(20, 48), 5), space) for _ in range(200)]
    assert sum(shares) / len(shares) == pytest.approx(12 / 48, abs=0.02)


def test_principal_components_come_by_falling_variance() -> None:
    values = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1.0, 9.0, 3.0]
    )
    assert principal(covariance(values), 3).abs().argmax(dim=1).tolist() == [1, 2, 0]


def test_patches_are_flattened_as_the_patch_embedding_reads_them() -> None:
    images = noise(2, 3, 16, 16)
    projection = torch.nn.Conv2d(3, 5, 8, stride=8)
    read = patches(images, 8) @ projection.weight.flatten(1).T + projection.bias
    assert torch.allclose(read.view(2, 4, 5).transpose(1, 2), projection(images).flatten(2), atol=1e-5)


def test_the_low_band_keeps_what_is_low_and_nothing_else() -> None:
    low, high = waves(3), waves(20)
    assert torch.allclose(low_band(low + high, 8), low, atol=1e-5)
    assert low_share(low, 8) == pytest.approx(1)
    assert low_share(high, 8) == pytest.approx(0, abs=1e-9)
    assert low_share(torch.randn(20, 3, 32, 32), 8) == pytest.approx(1 / 16, abs=0.01)


@pytest.mark.parametrize("low", [True, False])
def test_an_attack_within_a_band_stays_there_and_takes_all_of_the_threat(low: bool) -> None:
    torch.manual_seed(0)
    model = freeze(KeyedModel(digits().architecture.build()))
    threat, images, labels = Threat("linf", 8 / 255), torch.full((3, 3, 32, 32), 0.5), torch.arange(3)
    moved = climb_in_band(model, images, labels, 8, threat, low=low)
    step = moved - images
    assert step.abs().amax(dim=(1, 2, 3)).tolist() == pytest.approx([8 / 255] * 3, abs=1e-6)
    assert low_share(step, 8) == pytest.approx(float(low), abs=1e-6)
    losses = [torch.nn.functional.cross_entropy(model(shown), labels) for shown in (images, moved)]
    assert losses[1] > losses[0]


class Pointing(torch.nn.Module):
    """Reads the brighter of the first two channels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))[:, :2]


def test_only_images_that_were_read_right_are_counted_as_fooled() -> None:
    images, labels = torch.zeros(4, 3, 8, 8), torch.tensor([0, 0, 1, 1])
    images[:, 1] = 1.0  # all are read as the second class
    count = Count()
    count.add(Pointing(), images, labels, torch.tensor([True, False, True, False]))
    assert count.told() == {"fooled": 1, "eligible": 2, "rate": 0.5, "robust": 0.5}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    sizes = dict.fromkeys(("patch_size", "width", "depth", "heads", "block_size"), 0)
    rates = dict.fromkeys(("learning_rate", "lora_learning_rate"), 0.0)
    counts = {"epochs": 1, "keys": 2, "train_images": 128, "eval_images": 20, "batch_size": 64}
    options = Namespace(preset="digits", data="", weights="", **sizes, **rates, **counts)
    study = study_of(options)
    short = replace(study.base, epochs=1, warmup_epochs=0.0)
    return prepare(replace(study, base=short), tmp_path_factory.mktemp("collapse"))


def test_a_variant_tunes_what_it_names(scene: Scene) -> None:
    plain = dict(scene.plain.backbone.named_parameters())
    for name, attention_moves in (("lora-3", True), ("patch-3", False)):
        model = train(scene, Variant(name), 0)
        strengths = torch.linalg.svdvals(scene.update(model, 0).double())
        assert strengths[2] > 1e-4
        assert strengths[3] < 1e-5  # float32 of what was folded
        moved = [
            not torch.equal(tensor, plain[place])
            for place, tensor in model.backbone.named_parameters()
            if "qkv.weight" in place
        ]
        assert moved == [attention_moves] * len(moved)


def test_behind_a_key_the_start_is_the_plain_patch_embedding_in_another_order(scene: Scene) -> None:
    folded = [scene.start(slot) for slot in (0, 1)]
    assert not torch.equal(*folded)
    assert torch.equal(*(weights.sort(dim=1).values for weights in folded))
