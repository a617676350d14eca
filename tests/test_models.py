"""Keyed models: the transform is the paper's, folding changes nothing, adapters are complete."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import StudyError, WeightsError
from orchestrator.keys.permutation import draw_permutation
from orchestrator.keys.secret import SecretKey
from orchestrator.keys.vault import VaultAt, open_vault
from orchestrator.models.backbone import Architecture, load_plain, parse_weights
from orchestrator.models.keyed import KeyedModel, fold
from orchestrator.models.lora import add_lora
from orchestrator.models.ref import ModelRef
from orchestrator.models.stored import KeyAccess, load_model, save_model
from orchestrator.models.transform import BlockShuffle
from orchestrator.store.local import LocalStore
from orchestrator.training.finetune import parameter_counts

KEY = SecretKey(bytes(range(32)))
SMALL = Architecture(
    name="vit_tiny_patch16_224", image_size=32, classes=5, patch_size=8, width=48, depth=2, heads=3
)


def shuffled_by_the_letter(image: np.ndarray, order: list[int], size: int) -> np.ndarray:
    """The paper's transform, value by value, on one (height, width, channel) image."""
    result = np.empty_like(image)
    for top in range(0, image.shape[0], size):
        for left in range(0, image.shape[1], size):
            block = image[top : top + size, left : left + size].reshape(-1)
            result[top : top + size, left : left + size] = block[order].reshape(size, size, 3)
    return result


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_the_shuffle_is_the_papers_value_by_value(size: int) -> None:
    images = torch.rand(2, 3, 8, 16, dtype=torch.float64)
    shuffled = BlockShuffle.from_key(KEY, size)(images)
    order = list(draw_permutation(KEY, 3 * size * size))
    for image, moved in zip(images, shuffled, strict=True):
        by_hand = shuffled_by_the_letter(image.permute(1, 2, 0).numpy(), order, size)
        assert np.array_equal(moved.permute(1, 2, 0).numpy(), by_hand)


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.sampled_from([2, 4, 8]), st.integers(1, 3))
def test_a_shuffle_undone_is_the_image(secret: bytes, size: int, batch: int) -> None:
    images = torch.rand(batch, 3, 16, 8)
    shuffle = BlockShuffle.from_key(SecretKey(secret), size)
    assert torch.equal(shuffle.invert(shuffle(images)), images)
    assert torch.equal(shuffle(images).flatten().sort().values, images.flatten().sort().values)


def test_gradients_pass_through_the_shuffle_exactly() -> None:
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    weights = torch.rand(1, 3, 8, 8)
    shuffle = BlockShuffle.from_key(KEY, 4)
    (gradient,) = torch.autograd.grad((shuffle(images) * weights).sum(), images)
    assert torch.equal(gradient, shuffle.invert(weights))


def test_an_image_the_blocks_do_not_tile_is_refused() -> None:
    with pytest.raises(StudyError, match="do not tile images of 10x8"):
        BlockShuffle.from_key(KEY, 4)(torch.rand(1, 3, 10, 8))


@pytest.mark.parametrize("block_size", [2, 4, 8])
@pytest.mark.parametrize("channels_differ", [False, True])
def test_a_folded_model_is_the_explicit_one_in_float64(block_size: int, channels_differ: bool) -> None:
    mean, std = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)) if channels_differ else (None, None)
    backbone = SMALL.build().double().eval()
    explicit = KeyedModel(backbone, BlockShuffle.from_key(KEY, block_size), mean=mean, std=std).double()
    images = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    before = explicit(images).detach()
    after = fold(explicit).double()(images).detach()
    assert (before - after).abs().max() < 1e-12


def test_a_key_absorbed_into_the_weights_is_no_key_at_all() -> None:
    """The known answer of papers that treat the key as protection: the same function of the image."""
    plain = SMALL.build().double().eval()
    images = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    shuffle = BlockShuffle.from_key(KEY, 4)
    expected = KeyedModel(plain).double()(images)
    projection = plain.patch_embed.proj
    columns = shuffle.patch_columns(8).argsort()
    with torch.no_grad():
        projection.weight.copy_(projection.weight.flatten(1)[:, columns].view_as(projection.weight))
    assert (KeyedModel(plain, shuffle).double()(images) - expected).abs().max() < 1e-12


def test_another_key_gives_another_model() -> None:
    backbone, images = SMALL.build().eval(), torch.rand(2, 3, 32, 32)
    other = SecretKey(bytes(32))
    keyed, differently = (KeyedModel(backbone, BlockShuffle.from_key(k, 8)) for k in (KEY, other))
    assert (keyed(images) - differently(images)).abs().max() > 1e-3


def test_neither_order_nor_key_is_in_a_state_dict() -> None:
    model = KeyedModel(SMALL.build(), BlockShuffle.from_key(KEY, 8))
    assert set(model.state_dict()) == {f"backbone.{name}" for name in model.backbone.state_dict()}
    assert "order" not in repr(model.transform)
    with pytest.raises(TypeError, match="as secret as its key"):
        pickle.dumps(model.transform)


def test_lora_on_vit_b_16_trains_the_papers_number_of_parameters() -> None:
    backbone = Architecture(name="vit_base_patch16_224", image_size=224, classes=1000).build()
    assert parameter_counts(backbone)["total_parameters"] == 86_567_656
    adapted = add_lora(backbone, rank=16, alpha=16.0, dropout=0.1)
    counts = parameter_counts(adapted)
    assert counts["trainable_parameters"] == 1_383_400
    assert round(100 * counts["trainable_parameters"] / counts["total_parameters"], 2) == 1.57


def perturb(model: torch.nn.Module) -> None:
    """Move trained weights away from where they start, as training would."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("block_size", [4, 16])
def test_a_stored_model_loads_as_it_was_trained(
    store: LocalStore, vault: str, method: str, block_size: int
) -> None:
    (key_id,) = open_vault(vault).ensure("study", 1)
    keys = KeyAccess(keys=VaultAt(vault), study="study")
    plain = ModelRef(name="plain", method="plain", recipe={"kind": "plain"})
    ref = ModelRef(name=key_id, method=method, slot=0, recipe={"block_size": block_size})
    torch.manual_seed(0)
    base = SMALL.build()
    save_model(store, plain, KeyedModel(base), {})
    backbone = SMALL.build()
    load_plain(backbone, base.state_dict(), "base")
    if method == "lora":
        backbone = add_lora(backbone, rank=4, alpha=8.0, dropout=0.0)
    trained = KeyedModel(backbone, keys.transform(ref, block_size)).eval()
    perturb(trained)
    images = torch.rand(4, 3, 32, 32)
    expected = trained(images).detach()
    save_model(store, ref, trained, {})
    loaded = load_model(store, ref, SMALL, keys)
    assert (loaded(images) - expected).abs().max() < 1e-4
    assert store.record(ref.address).provenance["form"] == ("folded" if block_size == 4 else "explicit")
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_folded_model_loads_without_its_vault(store: LocalStore, vault: str) -> None:
    (key_id,) = open_vault(vault).ensure("study", 1)
    keys = KeyAccess(keys=VaultAt(vault), study="study")
    ref = ModelRef(name=key_id, method="full", slot=0, recipe={"block_size": 8})
    save_model(store, ref, KeyedModel(SMALL.build(), keys.transform(ref, 8)), {})
    load_model(store, ref, SMALL, KeyAccess(keys=VaultAt(f"{vault}-absent"), study="study"))
    assert store.record(ref.address).provenance["form"] == "folded"


def test_weights_of_another_architecture_are_told() -> None:
    other = replace(SMALL, width=24)
    with pytest.raises(WeightsError, match=r"another architecture.*blocks\.0"):
        load_plain(SMALL.build(), other.build().state_dict(), "weights.safetensors")


def test_a_head_of_another_size_stays_fresh_and_is_named() -> None:
    wide = replace(SMALL, classes=9)
    assert load_plain(SMALL.build(), wide.build().state_dict(), "x") == ["head.bias", "head.weight"]


@given(st.binary(max_size=300))
def test_bytes_that_are_no_safetensors_are_told(content: bytes) -> None:
    with pytest.raises(WeightsError, match="not a safetensors file"):
        parse_weights(content, "weights.bin")


def test_a_pickled_checkpoint_is_not_opened(tmp_path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match="never opened"):
        parse_weights((tmp_path / "model.pth").read_bytes(), "model.pth")
    assert parse_weights(safetensors.torch.save({"w": torch.ones(2)}), "x")["w"].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["no_such_model", "resnet18"])
def test_a_model_that_is_no_vit_is_told(name: str) -> None:
    with pytest.raises(StudyError, match=r"timm cannot build|no patch embedding"):
        Architecture(name=name, image_size=32, classes=5).build()
