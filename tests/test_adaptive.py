"""The adaptive attacks: shuffles row by row, keys that leak, and what no key can change."""

import copy
from dataclasses import replace

import pytest
import torch
from attack_scene import THREATS, Recorder, scene, vit_scene
from torch import nn

from orchestrator.attacks.adaptive.eot_keys import EotKeys
from orchestrator.attacks.adaptive.graft import Graft
from orchestrator.attacks.adaptive.guess import Guess
from orchestrator.attacks.adaptive.invariant import KeyInvariant, block_mean, low_pass
from orchestrator.attacks.adaptive.key_search import KeySearch
from orchestrator.attacks.adaptive.leaked_patch import LeakedPatch, matched_order
from orchestrator.attacks.attack import Points
from orchestrator.attacks.gradient.apgd_untargeted import ApgdUntargeted
from orchestrator.attacks.noise import permutations
from orchestrator.attacks.source import Knowledge, Source
from orchestrator.attacks.threat import Threat, project
from orchestrator.attacks.transfer.mi_fgsm import MomentumFgsm
from orchestrator.errors import StudyError
from orchestrator.keys.secret import SecretKey
from orchestrator.models.backbone import Architecture
from orchestrator.models.keyed import KeyedModel, fold
from orchestrator.models.transform import BlockShuffle, shuffle_rows

LINF, L2 = THREATS["linf"], THREATS["l2"]


def with_blocks(here, size):
    return replace(here, knowledge=replace(here.knowledge, block_size=size))


def keyed_scene(n=12):
    """A small keyed ViT, whatever its key, whose attacker takes blocks to be of 4 pixels."""
    return with_blocks(vit_scene(n=n), 4)


def grey(n=3, side=16, seed=5):
    """Images far from 0 and 1, which have their whole ball to themselves."""
    generator = torch.Generator().manual_seed(seed)
    return 0.3 + 0.4 * torch.rand(n, 3, side, side, generator=generator, dtype=torch.float64)


class Linear(nn.Module):
    """Two classes by a hyperplane through the middle grey; class 1 on the side of its weight."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images):
        lead = ((images - 0.5) * self.weight).flatten(1).sum(dim=1)
        return torch.stack([-lead, lead], dim=1)


# Shuffles of rows.


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_row_is_shuffled_as_its_own_key_would(size):
    images = grey()
    orders = permutations(torch.arange(3), 0, 3 * size * size)
    shuffled = shuffle_rows(images, orders, size)
    for row, order in enumerate(orders):
        assert torch.equal(shuffled[row : row + 1], BlockShuffle(size, order)(images[row : row + 1]))


def test_gradients_pass_through_the_shuffles_of_rows_exactly():
    images, weights = grey().requires_grad_(), grey(seed=6)
    orders = permutations(torch.arange(3), 0, 48)
    (gradient,) = torch.autograd.grad((shuffle_rows(images, orders, 4) * weights).sum(), images)
    for row, order in enumerate(orders):
        undone = BlockShuffle(4, order).invert(weights[row : row + 1])
        assert torch.equal(gradient[row : row + 1], undone)


# EOT over keys.


def test_a_step_of_eot_follows_the_mean_gradient_at_the_plain_image():
    here = keyed_scene(n=4)
    moved = here.struck(EotKeys(steps=1, keys=3, reach=1.0), LINF).best
    total = torch.zeros_like(here.images)
    for stream in range(3):
        orders = permutations(here.points().seeds, stream, 48)
        for row, order in enumerate(orders):
            image = here.images[row : row + 1].clone().requires_grad_()
            logits = here.model(BlockShuffle(4, order)(image))
            loss = nn.functional.cross_entropy(logits, here.labels[row : row + 1])
            total[row : row + 1] += torch.autograd.grad(loss, image)[0]
    wanted = project(here.images + LINF.epsilon * total.sign(), here.images, LINF)
    torch.testing.assert_close(moved, wanted, rtol=0, atol=1e-12)


def test_eot_on_a_model_that_no_key_changes_is_mi_fgsm():
    images = grey(6)
    model = Linear(block_mean(4)(grey(1, seed=9)[0:1] - 0.5))
    points = Points.of(images, torch.tensor([0, 1] * 3), range(6))
    pace = {"steps": 5, "reach": 2.0}
    source = Source([model], 6, knowledge=Knowledge(block_size=4))
    eot = EotKeys(keys=3, **pace)(source, points, L2)
    plain = MomentumFgsm(**pace)(Source([model], 6), points, L2)
    torch.testing.assert_close(eot.best, plain.best, rtol=0, atol=1e-9)
    assert source.forwards.tolist() == [15] * 6


def test_eot_shows_the_model_no_image_but_behind_shuffles_fresh_for_image_and_step():
    # No gradient: the images stay where they are, and only the shuffles differ.
    model = Recorder(Linear(torch.zeros(3, 16, 16, dtype=torch.float64)))
    images = grey(1).expand(5, -1, -1, -1)
    source = Source([model], 5, batch=2, knowledge=Knowledge(block_size=4))
    EotKeys(steps=2, keys=3)(source, Points.of(images, torch.zeros(5).long(), range(5)), LINF)
    shown = torch.cat([*model.shown, images[:1]])
    assert len(shown) == len(shown.unique(dim=0)) == 5 * 2 * 3 + 1
    assert (shown.flatten(1).sort(dim=1).values == images[0].flatten().sort().values).all()


# Key search.


def search(here, attack=None, **options):
    source = here.source(**options)
    attack = attack or KeySearch(tries=10, swaps=10, steps=3)
    return attack(source, here.points(), LINF), source


def test_search_among_few_keys_ends_in_a_white_box_attack():
    # A folded model behind no further shuffle is the keyed model itself: with blocks of one pixel
    # that is one of six orders.
    here = with_blocks(keyed_scene(), 1)
    found, source = search(here, KeySearch(tries=30, swaps=0, steps=3))
    wanted = here.struck(ApgdUntargeted(steps=3), LINF)
    assert torch.equal(found.best, wanted.best)
    images, labels = here.knowledge.examples
    read = (here.model(images).argmax(dim=1) == labels).double().mean().item()
    assert source.findings["estimate_accuracy"] == pytest.approx(read)


def test_swaps_improve_the_estimate_and_never_harm_it():
    here = with_blocks(keyed_scene(), 2)
    reached = [
        search(here, KeySearch(tries=3, swaps=swaps, steps=1))[1].findings["estimate_accuracy"]
        for swaps in (0, 10, 60)
    ]
    assert reached == sorted(reached)
    assert reached[0] < reached[2]


def test_passes_on_examples_are_added_up_apart_from_those_of_images():
    here = keyed_scene()
    _, source = search(here, KeySearch(tries=4, swaps=3, steps=2), batch=5)
    assert source.findings["example_forwards"] == 7 * len(here.knowledge.examples[1])
    assert source.forwards.tolist() == source.backwards.tolist() == [3] * 12
    assert set(source.findings) == {"example_forwards", "estimate_accuracy"}


def test_search_depends_on_its_own_seed_and_not_on_the_images():
    here = with_blocks(keyed_scene(), 2)
    whole, first = search(here)
    part, second = search(here.of(range(3, 6)))
    _, other = search(here, KeySearch(tries=10, swaps=10, steps=3, seed=1))
    assert first.findings["estimate_accuracy"] == second.findings["estimate_accuracy"]
    torch.testing.assert_close(part.best, whole.best[3:6], rtol=0, atol=1e-9)
    assert first.findings["estimate_accuracy"] != other.findings["estimate_accuracy"]


def test_the_key_of_each_model_of_an_ensemble_is_searched_by_itself():
    here = with_blocks(keyed_scene(), 1)
    other = copy.deepcopy(here.knowledge.plain)
    turned = Guess(BlockShuffle(1, torch.tensor([2, 0, 1])), other)
    attack = KeySearch(tries=30, swaps=0, steps=2)
    both = Source([here.model, turned], 12, knowledge=here.knowledge)
    found = attack(both, here.points(), LINF)
    white = ApgdUntargeted(steps=2)(Source([here.model, other], 12), here.points(), LINF)
    torch.testing.assert_close(found.best, white.best, rtol=0, atol=1e-9)


# A leaked patch embedding.

VIT = Architecture(
    name="vit_tiny_patch16_224", image_size=16, classes=5, patch_size=8, width=48, depth=1, heads=2
)


def tuned(plain, shuffle, *, noise=0.0):
    """A keyed copy of a plain model whose weights were moved a little, as by tuning."""
    backbone = copy.deepcopy(plain.backbone)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in backbone.parameters():
            change = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(noise * parameter.std(correction=0) * change)
    mean, std = plain.mean.flatten().tolist(), plain.std.flatten().tolist()
    return KeyedModel(backbone, shuffle, mean=tuple(mean), std=tuple(std)).to(plain.mean.dtype).eval()


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("folded", [True, False], ids=["folded", "explicit"])
@pytest.mark.parametrize("channels_differ", [False, True])
def test_a_key_is_read_off_lightly_tuned_weights_in_all_places(size, folded, channels_differ):
    mean, std = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)) if channels_differ else (None, None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = KeyedModel(VIT.build(), mean=mean, std=std)
    shuffle = BlockShuffle.from_key(SecretKey(bytes(range(32))), size)
    keyed = tuned(plain, shuffle, noise=0.3)
    order, correlation = matched_order(fold(keyed) if folded else keyed, plain, size)
    assert torch.equal(order, shuffle.order)
    assert 0.9 < correlation < 0.99


def test_a_key_is_read_off_a_model_that_was_trained_behind_it():
    here = keyed_scene(n=120)
    shuffle = BlockShuffle.from_key(SecretKey(bytes(range(32))), 4)
    keyed = tuned(here.knowledge.plain, shuffle).train()
    optimizer = torch.optim.Adam(keyed.parameters(), lr=0.01)
    for _ in range(15):
        optimizer.zero_grad()
        nn.functional.cross_entropy(keyed(here.images), here.labels).backward()
        optimizer.step()
    matched, _ = matched_order(fold(keyed), here.knowledge.plain, 4)
    assert (matched == shuffle.order).double().mean() > 0.9


def test_evidence_of_all_blocks_of_a_patch_is_summed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = KeyedModel(replace(VIT, width=6, heads=1).build())
    shuffle = BlockShuffle.from_key(SecretKey(bytes(range(32))), 2)
    keyed = fold(tuned(plain, shuffle, noise=0.7))
    matched, _ = matched_order(keyed, plain, 2)
    assert torch.equal(matched, shuffle.order)


@pytest.mark.parametrize("through", ["embedding", "key"])
def test_images_of_a_leaked_embedding_fool_the_keyed_model_which_was_never_asked(through):
    here = keyed_scene()
    keyed, labels, _ = lightly_tuned(here)
    keyed = Recorder(keyed)
    points = Points.of(here.images, labels, here.seeds)
    source = Source([keyed], 12, knowledge=here.knowledge)
    found = LeakedPatch(steps=10, through=through)(source, points, LINF)
    assert not keyed.shown
    assert replace(here, model=keyed, labels=labels).fallen(found.best).sum() >= 6
    assert set(source.findings) == {"matched_correlation"}
    assert 0.9 < source.findings["matched_correlation"] <= 1


def lightly_tuned(here):
    """A keyed copy of the scene's plain model, what it reads in the scene's images, and its shuffle."""
    shuffle = BlockShuffle.from_key(SecretKey(bytes(32)), 4)
    keyed = fold(tuned(here.knowledge.plain, shuffle, noise=0.02))
    with torch.no_grad():
        return keyed, keyed(here.images).argmax(dim=1), shuffle


@pytest.mark.parametrize("wrap", [lambda model: model, Recorder], ids=["bare", "wrapped"])
def test_a_graft_is_the_plain_body_behind_the_leaked_embedding(wrap):
    here = keyed_scene()
    plain = KeyedModel(here.knowledge.plain.backbone, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)).double()
    weights = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    grafted = Graft(here.model, wrap(plain))
    by_hand = copy.deepcopy(here.model)
    own, leaked = plain.backbone, here.model.backbone
    by_hand.backbone.load_state_dict(own.state_dict())
    by_hand.backbone.patch_embed.load_state_dict(leaked.patch_embed.state_dict())
    torch.testing.assert_close(grafted(here.images), by_hand(here.images), rtol=0, atol=1e-9)
    assert not torch.allclose(grafted(here.images), plain(here.images), atol=1e-2)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in plain.state_dict().items())


def test_an_attack_through_a_found_key_is_one_through_the_key():
    here = keyed_scene()
    keyed, labels, shuffle = lightly_tuned(here)
    points = Points.of(here.images, labels, here.seeds)
    source = Source([keyed], 12, knowledge=here.knowledge)
    found = LeakedPatch(steps=3, through="key")(source, points, LINF)
    true = Source([Guess(shuffle, here.knowledge.plain)], 12)
    wanted = MomentumFgsm(steps=3, reach=2.0)(true, points, LINF)
    assert torch.equal(found.best, wanted.best)


# The subspace that no key can change.


@pytest.mark.parametrize("span", [block_mean(4), low_pass(0.25)], ids=["block-mean", "low-pass"])
def test_a_span_is_an_orthogonal_projection(span):
    one, other = grey(2) - 0.5, grey(2, seed=6) - 0.5
    torch.testing.assert_close(span(span(one)), span(one), rtol=0, atol=1e-12)
    torch.testing.assert_close((span(one) * other).sum(), (one * span(other)).sum(), rtol=0, atol=1e-10)


def test_low_pass_keeps_slow_waves_and_drops_fast_ones():
    places = torch.arange(16, dtype=torch.float64) + 0.5
    waves = [torch.cos(torch.pi / 16 * number * places) for number in range(16)]
    for down, across in ((0, 0), (3, 2), (3, 3), (4, 0), (2, 5), (15, 15)):
        image = (waves[down][:, None] * waves[across][None]).expand(1, 3, 16, 16)
        kept = low_pass(0.25)(image)
        wanted = image if max(down, across) < 4 else torch.zeros_like(image)
        torch.testing.assert_close(kept, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])
def test_what_block_means_add_is_added_behind_every_key(threat):
    here = replace(keyed_scene(), images=0.3 + 0.4 * keyed_scene().images)
    found = here.struck(KeyInvariant(steps=6), threat)
    added = found.best - here.images
    assert added.abs().max() > 0.3 * threat.epsilon / (1 if threat.norm == "linf" else 27)
    for number in range(3):
        shuffle = BlockShuffle.from_key(SecretKey(bytes([number] * 32)), 4)
        behind = shuffle(found.best) - shuffle(here.images)
        torch.testing.assert_close(behind, added, rtol=0, atol=1e-14)


@pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])
def test_what_low_pass_adds_has_low_frequencies_and_one_grey(threat):
    here = replace(keyed_scene(), images=0.3 + 0.4 * keyed_scene().images)
    found = here.struck(KeyInvariant(subspace="low-pass", keep=0.25, steps=6), threat)
    added = found.best - here.images
    assert added.any()
    torch.testing.assert_close(low_pass(0.25)(added), added, rtol=0, atol=1e-14)
    assert not torch.allclose(block_mean(4)(added), added, rtol=0, atol=1e-4)


def test_a_step_in_a_subspace_has_its_full_length():
    here = replace(keyed_scene(), images=0.3 + 0.4 * keyed_scene().images).behind(Recorder)
    here.struck(KeyInvariant(subspace="low-pass", keep=0.25, steps=4, reach=1.0), LINF)
    added = (here.model.shown[1] - here.images).abs().flatten(1).amax(dim=1)
    torch.testing.assert_close(added, torch.full_like(added, LINF.epsilon / 4), rtol=1e-9, atol=0)


def test_block_means_reach_the_corner_of_a_linear_model():
    weight = grey(1, seed=9)[0:1] - 0.5
    images = grey(6)
    labels = torch.tensor([0, 1] * 3)
    source = Source([Linear(weight)], 6, knowledge=Knowledge(block_size=4))
    found = KeyInvariant(steps=8)(source, Points.of(images, labels, range(6)), LINF)
    towards = (1 - 2 * labels).double()[:, None, None, None]
    wanted = images + LINF.epsilon * towards * block_mean(4)(weight).sign()
    torch.testing.assert_close(found.best, wanted, rtol=0, atol=1e-12)


def test_a_subspace_attack_keeps_to_it_from_any_start():
    here = replace(keyed_scene(), images=0.3 + 0.4 * keyed_scene().images)
    start = here.struck(ApgdUntargeted(steps=2), Threat("linf", LINF.epsilon / 2)).best
    found = KeyInvariant(steps=2)(here.source(), here.points(start=start), LINF)
    added = found.best - here.images
    torch.testing.assert_close(block_mean(4)(added), added, rtol=0, atol=1e-14)


# What they must know.


@pytest.mark.parametrize(
    ("attack", "knowledge", "sentence"),
    [
        (EotKeys(), {"block_size": 0}, "must know the block size"),
        (KeySearch(), {"block_size": 0}, "must know the block size"),
        (KeySearch(), {"examples": None}, "labelled images of the attacker's own"),
        (LeakedPatch(), {"block_size": 0}, "must know the block size"),
        (LeakedPatch(), {"plain": None}, "public plain model"),
        (LeakedPatch(), {"block_size": 3}, "do not tile patches of 8 px"),
        (LeakedPatch(), {"block_size": 16}, "do not tile patches of 8 px"),
        (LeakedPatch(), {"plain": scene().model}, "which a Sequential does not have"),
        (KeyInvariant(), {"block_size": 0}, "must know the block size"),
        (KeyInvariant(), {"block_size": 5}, "do not tile images of 16x16"),
    ],
)
def test_an_attacker_who_knows_too_little_is_told(attack, knowledge, sentence):
    here = keyed_scene()
    with pytest.raises(StudyError, match=sentence):
        replace(here, knowledge=replace(here.knowledge, **knowledge)).struck(attack, LINF)


def test_a_plain_model_of_another_shape_is_refused():
    here = keyed_scene()
    other = replace(here, knowledge=replace(here.knowledge, plain=KeyedModel(VIT.build()).double()))
    with pytest.raises(StudyError, match="another shape"):
        other.struck(LeakedPatch(), LINF)


@pytest.mark.parametrize(
    ("attack", "settings"),
    [
        (EotKeys, {"keys": 0}),
        (EotKeys, {"reach": 0.0}),
        (KeySearch, {"tries": 0}),
        (KeySearch, {"swaps": -1}),
        (KeySearch, {"seed": -1}),
        (LeakedPatch, {"steps": 0}),
        (KeyInvariant, {"keep": 0.0}),
        (KeyInvariant, {"momentum": -0.1}),
    ],
)
def test_settings_outside_their_range_are_refused(attack, settings):
    with pytest.raises(StudyError, match=next(iter(settings))):
        attack(**settings)
