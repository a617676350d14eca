"""PNA-PatchOut and TGR: their gradients by hand, and a ViT that is left as it was found."""

import copy

import pytest
import torch
from attack_scene import THREATS, Recorder, scene, vit_scene
from torch import nn

from orchestrator.attacks.source import Source
from orchestrator.attacks.transfer.mi_fgsm import MomentumFgsm
from orchestrator.attacks.transfer.pna_patchout import PnaPatchOut, attention_held, some_patches
from orchestrator.attacks.transfer.tgr import TokenGradient, without_extreme_pairs, without_extreme_tokens
from orchestrator.errors import StudyError

LINF = THREATS["linf"]


def gradient_of(source, here):
    """The gradient a source gives at the images of a scene, and its logits."""

    def loss(logits):
        return nn.functional.cross_entropy(logits, here.labels, reduction="none")

    seen = source.look(here.images, torch.arange(len(here.labels)), here.labels, loss)
    return seen.gradient, seen.logits


class WrittenOut(nn.Module):
    """Attention by the letter, with its map, and what passes its three places, shown to a witness."""

    def __init__(self, attention, witness):
        super().__init__()
        self.attention, self.witness = attention, witness

    def forward(self, tokens, **_):
        own = self.attention
        batch, count, width = tokens.shape
        qkv = self.witness("qkv", own.qkv(tokens))
        queries, keys, values = (
            part.view(batch, count, own.num_heads, -1).transpose(1, 2) for part in qkv.split(width, dim=2)
        )
        scores = queries @ keys.transpose(2, 3) / (width / own.num_heads) ** 0.5
        mixed = self.witness("map", scores.softmax(dim=3)) @ values
        return own.proj(mixed.transpose(1, 2).reshape(batch, count, width))


class Witnessed(nn.Module):
    """A module whose output is shown to a witness."""

    def __init__(self, module, witness):
        super().__init__()
        self.module, self.witness = module, witness

    def forward(self, tokens):
        return self.witness("mlp", self.module(tokens))


def written_out(model, witness):
    model = copy.deepcopy(model)
    for block in model.backbone.blocks:
        block.attn, block.mlp = WrittenOut(block.attn, witness), Witnessed(block.mlp, witness)
    return model


def unfused(model):
    for block in model.backbone.blocks:
        block.attn.fused_attn = False
    return model


@pytest.mark.parametrize("change", [lambda model: model, unfused], ids=["fused", "unfused"])
def test_pna_takes_the_gradient_with_every_attention_map_held(change):
    here = vit_scene()
    change(here.model)
    held = written_out(here.model, lambda place, tensor: tensor.detach() if place == "map" else tensor)
    wanted, logits = gradient_of(Source([held], 12), here)
    with attention_held(here.source()):
        gradient, same = gradient_of(here.source(), here)
    whole, _ = gradient_of(here.source(), here)
    torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(same, logits, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(gradient, whole, rtol=1e-2)


def test_pna_on_all_patches_is_mi_fgsm_with_attention_held():
    here = vit_scene()
    pna = here.struck(PnaPatchOut(patches=1.0, steps=4), LINF)
    with attention_held(here.source()):
        held = here.struck(MomentumFgsm(steps=4), LINF)
    assert torch.equal(pna.best, held.best)
    assert not torch.equal(pna.best, here.struck(MomentumFgsm(steps=4), LINF).best)


def test_a_step_of_patchout_moves_the_drawn_patches_alone():
    here = vit_scene()
    moved = here.struck(PnaPatchOut(steps=1, patches=0.5), LINF).best != here.images
    drawn = some_patches(here.points(), 0, 8, 0.5)
    assert not (moved & ~drawn).any()
    assert (moved.any(dim=1, keepdim=True) == drawn).double().mean() > 0.99


def test_patchout_shows_the_perturbation_on_the_drawn_patches_alone():
    here = vit_scene().behind(Recorder)
    here.struck(PnaPatchOut(steps=3, patches=0.5), LINF)
    for step, shown in enumerate(here.model.shown):
        drawn = some_patches(here.points(), step, 8, 0.5)
        assert not ((shown != here.images) & ~drawn).any()
    assert (here.model.shown[2] != here.images).any()


def test_patches_are_drawn_for_each_image_and_step_and_are_as_many_as_told():
    points = vit_scene(n=12).points()
    draws = torch.stack([some_patches(points, step, 4, 0.66)[:, 0, ::4, ::4] for step in range(3)])
    assert (draws.flatten(2).sum(dim=2) == round(0.66 * 16)).all()
    assert len(draws.flatten(0, 1).flatten(1).unique(dim=0)) > 30
    assert some_patches(points, 0, 8, 0.01)[:, 0, ::8, ::8].flatten(1).sum(dim=1).tolist() == [1] * 12


def tokens_by_hand(gradient, scale):
    result = scale * gradient.clone()
    for image, given in zip(result, gradient, strict=True):
        for channel in range(given.shape[1]):
            image[given[:, channel].argmax(), channel] = 0
            image[given[:, channel].argmin(), channel] = 0
    return result


def pairs_by_hand(gradient, scale):
    result = scale * gradient.clone()
    for image, given in zip(result, gradient, strict=True):
        for head in range(len(given)):
            for place in (given[head].argmax(), given[head].argmin()):
                image[head, place // given.shape[2], :] = 0
                image[head, :, place % given.shape[2]] = 0
    return result


def test_extreme_tokens_are_found_in_each_image_by_itself():
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(3, 7, 5, generator=generator)
    maps = torch.randn(3, 2, 7, 6, generator=generator)
    assert torch.equal(without_extreme_tokens(tokens, 0.5), tokens_by_hand(tokens, 0.5))
    assert torch.equal(without_extreme_pairs(maps, 0.25), pairs_by_hand(maps, 0.25))


def test_tgr_damps_the_map_the_qkv_and_the_mlp_of_every_block():
    def witness(place, tensor):
        rule, scale = {
            "map": (pairs_by_hand, 0.25),
            "qkv": (tokens_by_hand, 0.75),
            "mlp": (tokens_by_hand, 0.5),
        }[place]
        tensor.register_hook(lambda gradient: rule(gradient, scale))
        return tensor

    here = vit_scene()
    wanted, logits = gradient_of(Source([written_out(here.model, witness)], 12), here)
    with TokenGradient().damped(here.source()):
        gradient, same = gradient_of(here.source(), here)
    torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(same, logits, rtol=1e-9, atol=1e-9)
    moved = here.struck(TokenGradient(steps=1), LINF).best
    with TokenGradient().damped(here.source()):
        assert torch.equal(moved, here.struck(MomentumFgsm(steps=1), LINF).best)


each_way = pytest.mark.parametrize(
    "during", [attention_held, TokenGradient().damped], ids=["pna-patchout", "tgr"]
)


@each_way
def test_every_model_of_an_ensemble_is_changed_and_each_once(during):
    here = vit_scene()
    other = copy.deepcopy(here.model)
    with torch.no_grad():
        other.backbone.blocks[0].attn.qkv.weight.mul_(1.1)
    alone = []
    for model in (here.model, other):
        source = Source([model], 12)
        with during(source):
            alone.append(gradient_of(source, here)[0])
    both = Source([here.model, other, other], 12, combine="gradients")
    with during(both):
        gradient, _ = gradient_of(both, here)
    torch.testing.assert_close(gradient, (alone[0] + 2 * alone[1]) / 3, rtol=1e-9, atol=1e-12)


@each_way
def test_a_model_is_left_as_it_was_when_something_breaks_inside(during):
    here = vit_scene()
    modules = list(here.model.modules())

    def state():
        return [(dict(m._forward_hooks), vars(m).get("fused_attn")) for m in modules]

    before = state()
    inside = []

    def break_down():
        with during(here.source()):
            inside.append(state())
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        break_down()
    assert inside != [before]
    assert state() == before


@pytest.mark.parametrize("attack", [PnaPatchOut(), TokenGradient()], ids=["pna-patchout", "tgr"])
def test_a_source_that_is_no_vit_is_refused_in_a_sentence(attack):
    with pytest.raises(StudyError, match="timm vision transformer"):
        scene().struck(attack, LINF)


def test_settings_outside_their_range_are_refused():
    for settings in ({"patches": 0.0}, {"patches": 1.5}, {"steps": 0}, {"momentum": -1.0}):
        with pytest.raises(StudyError, match=next(iter(settings))):
            PnaPatchOut(**settings)
    for settings in ({"attention": 0.0}, {"qkv": 2.0}, {"mlp": -0.5}, {"reach": 0.0}):
        with pytest.raises(StudyError, match=next(iter(settings))):
            TokenGradient(**settings)
