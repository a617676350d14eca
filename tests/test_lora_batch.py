"""Several LoRA models in one batch: the same logits as each by itself, the shared weights held once."""

import copy

import pytest
import torch
from test_models import SMALL, perturb

from orchestrator.errors import StudyError, WeightsError
from orchestrator.keys.vault import VaultAt, open_vault
from orchestrator.models.keyed import KeyedModel, as_folded
from orchestrator.models.lora import add_lora, merge_adapter
from orchestrator.models.lora_batch import LoraBatch, load_lora_batch, shares_base
from orchestrator.models.ref import ModelRef
from orchestrator.models.stored import KeyAccess, load_model, save_model

RANKS = {"blocks.0.attn.qkv": (3, 5), "blocks.1.attn.qkv": (2, 0)}


def adapters(backbone, ranks=RANKS, models=3):
    """Adapters of random numbers, by turns of the ranks given for each layer."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return 0.2 * torch.randn(*shape, generator=generator, dtype=torch.float64)

    own = backbone.state_dict()
    whole = ["patch_embed.proj.weight", "patch_embed.proj.bias", "head.weight", "head.bias"]
    states = []
    for model in range(models):
        state = {name: own[name].double() + drawn(*own[name].shape) for name in whole}
        for layer, of_models in ranks.items():
            rank = of_models[model % len(of_models)]
            outputs, inputs = own[f"{layer}.weight"].shape
            if rank:
                state |= {
                    f"{layer}.down": drawn(rank, inputs),
                    f"{layer}.up": (model + 1) * drawn(outputs, rank),
                }
        states.append(state)
    return states


@pytest.fixture
def plain():
    torch.manual_seed(1)
    return SMALL.build().double().eval()


@pytest.mark.parametrize("models", [1, 2, 5])
def test_every_model_answers_as_by_itself(plain, models):
    states = adapters(plain, models=models)
    images = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    apart = [as_folded(merge_adapter(copy.deepcopy(plain), state, "x")).double() for state in states]
    expected = torch.stack([model(images) for model in apart]).detach()
    together = LoraBatch(plain, states)
    assert together(images).shape == (models, 4, 5)
    torch.testing.assert_close(together(images), expected, rtol=0, atol=1e-9)
    assert models == 1 or (expected[0] - expected[1]).abs().max() > 0.1


def test_gradients_by_the_images_are_the_sum_of_all_models(plain):
    states = adapters(plain)
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    apart = [as_folded(merge_adapter(copy.deepcopy(plain), state, "x")).double() for state in states]
    (expected,) = torch.autograd.grad(sum(model(images).square().sum() for model in apart), images)
    together = LoraBatch(plain, states)
    (found,) = torch.autograd.grad(together(images).square().sum(), images)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert not any(parameter.requires_grad for parameter in together.parameters())
    assert not together.training


def test_shared_weights_are_held_once(plain):
    states = adapters(plain, {"blocks.0.attn.qkv": (2,), "blocks.1.attn.qkv": (2,)}, models=8)
    own = sum(tensor.nbytes for state in states for tensor in state.values())
    whole = sum(
        plain.state_dict()[name].nbytes for name in states[0] if "down" not in name and "up" not in name
    )
    base = sum(tensor.nbytes for tensor in plain.parameters())
    together = LoraBatch(plain, states)
    assert together.bytes == base - whole + own
    assert together.bytes_apart == 8 * base
    assert together.bytes < 0.4 * together.bytes_apart


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"blocks.9.attn.qkv.down": torch.zeros(2, 48)}, r"no adapter of this model \(blocks.9"),
        ({"head.bias": None}, r"no adapter of this model \(head.bias"),
        ({"norm.weight": torch.ones(48)}, "holds norm.weight whole"),
    ],
)
def test_what_is_no_adapter_of_the_base_is_told(plain, change, sentence):
    state = {k: v for k, v in (adapters(plain)[0] | change).items() if v is not None}
    with pytest.raises(WeightsError, match=sentence):
        LoraBatch(plain, [state])


@pytest.fixture
def fleet(store, vault):
    """A plain model, two folded LoRA models of other ranks and alphas, and one whose key is apart."""
    ids = open_vault(vault).ensure("study", 3)
    keys = KeyAccess(keys=VaultAt(vault), study="study")
    torch.manual_seed(0)
    base = SMALL.build()
    save_model(store, ModelRef(name="plain", method="plain", recipe={}), KeyedModel(base), {})
    refs = []
    for slot, (rank, alpha, block_size) in enumerate([(4, 8.0, 4), (2, 7.0, 8), (4, 8.0, 16)]):
        ref = ModelRef(name=ids[slot], method="lora", slot=slot, recipe={"block_size": block_size})
        adapted = add_lora(copy.deepcopy(base), rank=rank, alpha=alpha, dropout=0.0)
        trained = KeyedModel(adapted, keys.transform(ref, block_size)).eval()
        perturb(trained)
        save_model(store, ref, trained, {})
        refs.append(ref)
    return keys, refs


def test_stored_models_load_as_one(store, fleet):
    keys, refs = fleet
    assert [shares_base(store, ref) for ref in refs] == [True, True, False]
    together = load_lora_batch(store, refs[:2], SMALL)
    images = torch.rand(4, 3, 32, 32)
    apart = torch.stack([load_model(store, ref, SMALL, keys)(images) for ref in refs[:2]])
    torch.testing.assert_close(together(images), apart, rtol=0, atol=1e-5)
    in_double = together.double()(images.double())
    exact = torch.stack([load_model(store, ref, SMALL, keys).double()(images.double()) for ref in refs[:2]])
    # What is left is the rounding of the merged float32 weights.
    torch.testing.assert_close(in_double, exact, rtol=0, atol=1e-5)


def test_a_model_that_shares_no_base_is_told(store, fleet):
    _, refs = fleet
    with pytest.raises(StudyError, match=f"{refs[2].label} cannot be read in one batch"):
        load_lora_batch(store, refs, SMALL)
    with pytest.raises(StudyError, match="No model"):
        load_lora_batch(store, [], SMALL)
