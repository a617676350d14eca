"""Key transforms beside the shuffle: they do what they say, fold if they can, and make a whole study."""

import copy
import pickle

import numpy as np
import pytest
import torch

from conftest import run_locally, small_study
from orchestrator.errors import StudyError
from orchestrator.keys.bits import draw_bits
from orchestrator.keys.permutation import draw_permutation
from orchestrator.keys.secret import SecretKey
from orchestrator.keys.vault import VaultAt, open_vault
from orchestrator.models.backbone import Architecture, load_plain
from orchestrator.models.from_key import transform_from_key
from orchestrator.models.keyed import KeyedModel, fold, folded_patch_weights, unfolded_patch_weights
from orchestrator.models.lora import add_lora
from orchestrator.models.negative_positive import NegativePositive
from orchestrator.models.pixel_cipher import PixelCipher
from orchestrator.models.ref import ModelRef
from orchestrator.models.stored import KeyAccess, load_model, save_model
from orchestrator.pipeline.asked import recall_plan
from orchestrator.pipeline.plan import make_plan, plan_images
from orchestrator.store.local import LocalStore
from orchestrator.store.record import recipe_digest

KEY = SecretKey(bytes(range(32)))
NAMES = ("shuffle", "negative-positive", "ffx")
NEW = NAMES[1:]
SMALL = Architecture(
    name="vit_tiny_patch16_224", image_size=32, classes=5, patch_size=8, width=48, depth=2, heads=3
)
# Of the settings of small_study(), before there were other transforms.
SHUFFLED = "73c2482cba16a36d401582c85eecbb715dc2f6a4f0920484ced5a6ffaaaf9496"
UNLIKE = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}


def photographs(count: int, size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random 8-bit images in [0, 1]."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator).to(dtype) / 255


def by_the_letter(name: str, image: np.ndarray, size: int) -> np.ndarray:
    """The paper's transform, value by value, on one 8-bit (height, width, channel) image."""
    bits, table, result = draw_bits(KEY, 3 * size * size), draw_permutation(KEY, 256), image.copy()
    for row, column, channel in np.ndindex(image.shape):
        if bits[((row % size) * size + column % size) * 3 + channel]:
            value = image[row, column, channel]
            result[row, column, channel] = 255 - value if name == "negative-positive" else table[value]
    return result


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_transform_is_the_papers_value_by_value(name: str, size: int) -> None:
    images = photographs(1, 8)
    expected = by_the_letter(name, (images[0] * 255).round().int().permute(1, 2, 0).numpy(), size)
    got = transform_from_key(name, KEY, size)(images)[0].permute(1, 2, 0) * 255
    assert np.array_equal(got.round().int().numpy(), expected)
    torch.testing.assert_close(got, got.round(), rtol=0, atol=1e-4)
    assert (expected != (images[0] * 255).round().int().permute(1, 2, 0).numpy()).any()


@pytest.mark.parametrize("name", NAMES)
def test_the_inverse_gives_the_images_back(name: str) -> None:
    images, transform = photographs(2, 16), transform_from_key(name, KEY, 8)
    there = transform(images)
    assert 0 <= there.min() <= there.max() <= 1
    torch.testing.assert_close(transform.invert(there), images, rtol=0, atol=1e-7)


def test_the_gradient_changes_its_sign_with_the_value_and_passes_straight_through_the_cipher() -> None:
    images, weights = photographs(1, 8).requires_grad_(), torch.rand(1, 3, 8, 8)
    for name, expected in (
        ("negative-positive", NegativePositive.from_key(KEY, 4)(torch.zeros(1, 3, 8, 8)) * -2 + 1),
        ("ffx", torch.ones(1, 3, 8, 8)),
    ):
        transform = transform_from_key(name, KEY, 4)
        (gradient,) = torch.autograd.grad((transform(images) * weights).sum(), images)
        assert torch.equal(gradient, weights * expected)


def test_the_cipher_rounds_where_it_encrypts_and_nowhere_else() -> None:
    cipher, images = PixelCipher.from_key(KEY, 2), photographs(1, 8)
    moved = (images + 0.3 / 255).clamp(0, 1)
    changed = cipher(moved) != cipher(images)
    encrypted = cipher(torch.zeros(1, 3, 8, 8)) != 0  # the table of this key moves 0
    assert not (changed & encrypted).any()
    assert torch.equal(cipher(moved)[~encrypted], moved[~encrypted])
    assert torch.equal(cipher(images - 2)[encrypted], cipher(torch.zeros_like(images))[encrypted])


@pytest.mark.parametrize("block_size", [2, 8])
def test_a_folded_negative_is_the_explicit_one_in_float64(block_size: int) -> None:
    explicit = KeyedModel(
        SMALL.build().eval(), NegativePositive.from_key(KEY, block_size), **UNLIKE
    ).double()
    images = photographs(4, 32, torch.float64)
    logits = explicit(images)
    projection = explicit.backbone.patch_embed.proj
    weight, bias = projection.weight.detach().clone(), projection.bias.detach().clone()
    back = unfolded_patch_weights(explicit, *folded_patch_weights(explicit, weight, bias))
    torch.testing.assert_close(back, (weight, bias), rtol=0, atol=1e-12)
    assert (KeyedModel(explicit.backbone, **UNLIKE).double()(images) - logits).abs().max() > 1e-3
    folded = fold(explicit)
    assert folded.transform is None
    assert (folded(images) - logits).abs().max() < 1e-12


def test_what_does_not_fold_is_refused() -> None:
    for transform, words in (
        (PixelCipher.from_key(KEY, 8), "FFX is not linear"),
        (NegativePositive.from_key(KEY, 16), "do not tile patches of 8 px"),
    ):
        assert not transform.folds(8)
        with pytest.raises(StudyError, match=words):
            fold(KeyedModel(SMALL.build(), transform))


@pytest.mark.parametrize("name", NAMES)
def test_a_transform_shows_its_block_size_and_nothing_else(name: str) -> None:
    transform = transform_from_key(name, KEY, 4)
    model = KeyedModel(SMALL.build(), transform)
    assert repr(transform) == f"{type(transform).__name__}(block_size=4)"
    assert set(model.state_dict()) == {f"backbone.{key}" for key in model.backbone.state_dict()}
    for ship in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="as secret as its key"):
            ship(transform)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(
    ("name", "block_size", "form"),
    [("negative-positive", 4, "folded"), ("negative-positive", 16, "explicit"), ("ffx", 4, "explicit")],
)
def test_a_stored_model_loads_as_it_was_trained(store, vault, method, name, block_size, form) -> None:
    (key_id,) = open_vault(vault).ensure("study", 1)
    keys = KeyAccess(keys=VaultAt(vault), study="study")
    recipe = {"block_size": block_size, "transform": name}
    ref = ModelRef(name=key_id, method=method, slot=0, recipe=recipe)
    torch.manual_seed(0)
    base, backbone = SMALL.build(), SMALL.build()
    save_model(store, ModelRef(name="plain", method="plain", recipe={}), KeyedModel(base), {})
    load_plain(backbone, base.state_dict(), "base")
    if method == "lora":
        backbone = add_lora(backbone, rank=4, alpha=8.0, dropout=0.0)
    trained = KeyedModel(backbone, keys.transform(ref, block_size)).eval()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.05 * torch.randn_like(parameter) * parameter.requires_grad
    images = photographs(4, 32)
    expected = trained(images).detach()
    save_model(store, ref, trained, {})
    assert store.record(ref.address).provenance["form"] == form
    assert (load_model(store, ref, SMALL, keys)(images) - expected).abs().max() < 1e-4


def test_a_study_that_shuffles_keeps_its_identity_and_another_has_its_own(tmp_path) -> None:
    plain, keyed = {}, {}
    for name in NAMES:
        study = small_study(transform=name, controls=1)
        assert ("transform" in study.fixed()) == (name != "shuffle")
        plan = make_plan(study, plan_images(study), ["k-0", "k-1"], str(tmp_path), VaultAt(""))
        plain[name], keyed[name] = plan.models[0].digest, plan.models[1].digest
        rekeyed = [
            model.recipe.get("transform", "shuffle") for model in plan.models if "twin" in model.recipe
        ]
        assert rekeyed == ([] if name == "ffx" else [name])
    assert recipe_digest(small_study().fixed()) == SHUFFLED
    assert len(set(plain.values())) == 1
    assert len(set(keyed.values())) == 3


@pytest.mark.parametrize("attack", ["eot-keys", "key-search", "leaked-patch", "invariant"])
@pytest.mark.parametrize("name", NEW)
def test_attacks_on_shuffles_refuse_other_transforms(attack: str, name: str) -> None:
    with pytest.raises(StudyError, match=f"{attack} is made for keys that shuffle.*{name}"):
        small_study(transform=name, attacks=("apgd-ce:steps=3", attack))


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("name", NEW)
def test_a_whole_study_ends_in_the_same_matrix_again(name: str, method: str, tmp_path) -> None:
    store, vault = LocalStore(tmp_path / "store" / "small"), str(tmp_path / "vault")
    study = small_study(transform=name, method=method, controls=1, train_images=64, eval_images=10)
    run, _ = run_locally(study, store, vault)
    assert run.ending.failures == []
    matrix = store.read("matrix", "matrix.parquet")
    keyed = [model for model in recall_plan(store).models if model.name.startswith("k-")]
    forms = {store.record(model.address).provenance["form"] for model in keyed}
    assert forms == {"explicit" if name == "ffx" else "folded"}
    assert f"| transform | {name} |" in store.read("report", "report.md").decode()
    assert ("straight through it" in store.read("report", "report.md").decode()) == (name == "ffx")
    for made in ("matrix", "outcomes"):
        store.delete(made)
    again, _ = run_locally(study, store, vault)
    assert again.ending.failures == []
    assert store.read("matrix", "matrix.parquet") == matrix
