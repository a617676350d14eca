"""Training with the key in the patch embedding is training behind the key, in another order of columns."""

import pytest
import torch

from orchestrator.keys.secret import SecretKey
from orchestrator.models.backbone import Architecture
from orchestrator.models.keyed import KeyedModel
from orchestrator.models.lora import add_lora
from orchestrator.models.stored import weights_of
from orchestrator.models.training_form import TrainingForm
from orchestrator.models.transform import BlockShuffle
from orchestrator.training.recipe import Recipe
from orchestrator.training.step import Step, make_optimizer

TINY = Architecture(
    name="vit_tiny_patch16_224", image_size=16, classes=3, patch_size=8, width=12, depth=1, heads=2
)
# Channels that are normalised alike, and those of ImageNet, which are not.
ALIKE, UNLIKE = ((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RECIPE = Recipe(learning_rate=0.01, clip_norm=0.5)


def keyed(method: str, block_size: int, normalised: tuple) -> KeyedModel:
    torch.manual_seed(1)
    backbone = TINY.build()
    backbone.pretrained_cfg |= dict(zip(("mean", "std"), normalised, strict=True))
    if method == "lora":
        backbone = add_lora(backbone, rank=3, alpha=6.0, dropout=0.0)
    return KeyedModel(backbone, BlockShuffle.from_key(SecretKey(bytes(32)), block_size)).double()


def train(model: torch.nn.Module, backbone: torch.nn.Module) -> None:
    step = Step(model, make_optimizer(backbone, RECIPE, layered=False), RECIPE, TINY.classes)
    generator = torch.Generator().manual_seed(2)
    for number in range(4):
        images = torch.rand(6, 3, 16, 16, generator=generator, dtype=torch.float64)
        step((images, torch.arange(6) % 3), seed=number)


@pytest.mark.parametrize("normalised", [ALIKE, UNLIKE], ids=["alike", "unlike"])
@pytest.mark.parametrize("block_size", [2, 8, 16])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_trained_model_is_the_same(method: str, block_size: int, normalised: tuple) -> None:
    behind = keyed(method, block_size, normalised)
    start = {name: tensor.clone() for name, tensor in behind.state_dict().items()}
    train(behind, behind.backbone)
    form = TrainingForm(keyed(method, block_size, normalised), TINY.image_size)
    train(form, form.backbone)
    finished = form.finished()
    for name, tensor in behind.state_dict().items():
        torch.testing.assert_close(finished.state_dict()[name], tensor, rtol=1e-6, atol=1e-9)
    moved = [name for name, tensor in start.items() if not torch.equal(behind.state_dict()[name], tensor)]
    assert any("patch_embed" in name for name in moved)
    (one, form_of_one), (other, form_of_other) = (weights_of(m, method) for m in (behind, finished))
    assert form_of_one == form_of_other == ("explicit" if block_size == 16 else "folded")
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-6, atol=1e-9)


def test_a_model_put_into_its_training_form_and_back_is_the_same_to_the_bit() -> None:
    model = keyed("full", 4, UNLIKE)
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    before, logits = {n: t.clone() for n, t in model.state_dict().items()}, model(images)
    form = TrainingForm(model, TINY.image_size)
    assert form.carried
    torch.testing.assert_close(form(images), logits)
    back = form.finished().state_dict()
    assert all(torch.equal(back[name], tensor) for name, tensor in before.items())
