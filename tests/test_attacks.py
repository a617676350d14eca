"""The contract every attack must meet, and APGD and AutoAttack held to closed forms and authors."""

import copy
import random
from dataclasses import FrozenInstanceError, fields, replace
from functools import cache

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import nn

from orchestrator.attacks import ATTACKS, parse_attack
from orchestrator.attacks.answer import Answer, misread
from orchestrator.attacks.apgd import ApgdCe, apgd
from orchestrator.attacks.attack import Threat, check_threat, distances, project
from orchestrator.attacks.auto_attack import AutoAttackStandard
from orchestrator.attacks.reference import Standing, fab_to, stages
from orchestrator.attacks.starts import random_start
from orchestrator.errors import StudyError, ThreatError, ThreatViolated

# The whole budget where a row of the table is fast enough, a smaller one where it is not.
SMALLER = {"apgd-ce": "apgd-ce:steps=10", "autoattack": "autoattack:steps=6,queries=25"}
ROWS = {name: parse_attack(SMALLER.get(name, name))[1] for name in ATTACKS}
# Radii at which some images of the scene fall and some do not, so that every stage has work.
THREATS = {"linf": Threat("linf", 4 / 255), "l2": Threat("l2", 0.35)}

each_attack = pytest.mark.parametrize("attack", ROWS.values(), ids=ROWS)
each_threat = pytest.mark.parametrize("threat", THREATS.values(), ids=THREATS)


class RowByRow(nn.Module):
    """A model whose answer for an image has the same bytes in every batch, by construction."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return torch.cat([self.net(image[None]) for image in images])


class Recorder(nn.Module):
    """A model that remembers every image it was shown and every logit it answered."""

    def __init__(self, net):
        super().__init__()
        self.net, self.shown, self.answered = net, [], []

    def forward(self, images):
        assert len(images) > 0, "a model was shown an empty batch"
        self.shown.append(images.detach().clone())
        logits = self.net(images)
        self.answered.append(logits.detach().clone())
        return logits


class TwoClasses(nn.Module):
    """A hyperplane: class 1 where weight x - offset is positive."""

    def __init__(self, weight, offset):
        super().__init__()
        self.weight, self.offset = nn.Parameter(weight), offset

    def forward(self, images):
        lead = (images.flatten(1) * self.weight).sum(dim=1) - self.offset
        return torch.stack([-lead, lead], dim=1)


class Rounded(nn.Module):
    """A model whose logits are multiples of a step, so that exact ties are common."""

    def __init__(self, net, step):
        super().__init__()
        self.net, self.step = net, step

    def forward(self, images):
        logits = self.net(images)
        return logits + ((logits / self.step).round() * self.step - logits).detach()


@cache
def _trained(classes):
    generator = torch.Generator().manual_seed(classes)
    patterns = torch.randn(classes, 3, 16, 16, generator=generator, dtype=torch.float64)
    labels = torch.arange(24 * classes) % classes
    noise = torch.randn(len(labels), 3, 16, 16, generator=generator, dtype=torch.float64)
    images = (0.5 + 0.03 * patterns[labels] + 0.1 * noise).clamp(0, 1)
    with torch.random.fork_rng():
        torch.manual_seed(classes)
        net = nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.GELU(), nn.Linear(16, classes))
    net = net.double()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.003)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return net.eval(), images, labels


def scene(classes=10, n=12, dtype=torch.float64):
    """A trained model of its own, n images, their labels and one seed for each."""
    net, images, labels = _trained(classes)
    net = copy.deepcopy(net).to(dtype)
    return net, images[:n].to(dtype, copy=True), labels[:n].clone(), [1000 + i for i in range(n)]


def fallen(model, images, labels):
    with torch.no_grad():
        return misread(model(images), labels)


def random_states():
    numbers = np.random.get_state()
    return torch.get_rng_state().tolist(), numbers[1].tolist(), numbers[2:], random.getstate()


# The contract, over every row of ATTACKS.


@each_attack
@each_threat
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moved_images_are_inside_the_threat_and_keep_their_type(attack, threat, dtype):
    model, images, labels, seeds = scene(dtype=dtype)
    moved = attack(model, images, labels, threat, seeds)
    check_threat(moved, images, threat)
    if threat.norm == "linf":
        assert torch.equal(project(moved, images, threat), moved), "outside by a rounding"
    assert moved.dtype == dtype
    assert moved.shape == images.shape
    assert not moved.requires_grad


@each_attack
@each_threat
def test_source_reads_fewer_images_after_the_attack(attack, threat):
    model, images, labels, seeds = scene(n=24)
    before = fallen(model, images, labels).sum()
    after = fallen(model, attack(model, images, labels, threat, seeds), labels).sum()
    assert after >= before + 6


@each_attack
def test_labels_may_be_short_integers(attack):
    model, images, labels, seeds = scene()
    moved = attack(model, images, labels, THREATS["linf"], seeds)
    assert torch.equal(attack(model, images, labels.int(), THREATS["linf"], seeds), moved)


@each_attack
@each_threat
def test_same_seeds_give_the_same_bytes_whatever_the_global_state(attack, threat):
    model, images, labels, seeds = scene()
    first = attack(model, images, labels, threat, seeds)
    torch.rand(3), np.random.random(), random.random()
    assert torch.equal(attack(model, images, labels, threat, seeds), first)


@each_attack
@each_threat
def test_answer_for_an_image_depends_on_no_neighbour(attack, threat):
    model, images, labels, seeds = scene(n=9)
    model = RowByRow(model)
    together = attack(model, images, labels, threat, seeds)
    order = [5, 2, 8, 0, 7, 1, 4, 6, 3]
    shuffled = attack(model, images[order], labels[order], threat, [seeds[i] for i in order])
    assert torch.equal(shuffled, together[order])
    parts = [slice(0, 1), slice(1, 6), slice(6, 9)]
    split = [attack(model, images[p], labels[p], threat, seeds[p]) for p in parts]
    assert torch.equal(torch.cat(split), together)


@pytest.fixture
def without_type_checks():
    # Beartype draws from `random` to pick the item of a list that it checks.
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@each_attack
@pytest.mark.usefixtures("without_type_checks")
def test_model_images_and_process_are_left_as_they_were(attack):
    model, images, labels, seeds = scene()
    model[1].weight.requires_grad_(False)
    model[1].bias.grad = torch.full_like(model[1].bias, 3.0)
    model[2].train()
    seen = []
    model[3].register_forward_hook(lambda *_: seen.append(1))
    images.requires_grad_()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [(p.requires_grad, p.grad if p.grad is None else p.grad.clone()) for p in _params(model)]
    hooks = [dict(m._forward_hooks) for m in model.modules()]
    training = [m.training for m in model.modules()]
    states, settings = random_states(), repr(attack)
    given = images.detach().clone()

    attack(model, images, labels, THREATS["linf"], seeds)

    assert seen
    assert random_states() == states
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    for parameter, (requires_grad, grad) in zip(_params(model), flags, strict=True):
        assert parameter.requires_grad == requires_grad
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)
    assert [dict(m._forward_hooks) for m in model.modules()] == hooks
    assert [m.training for m in model.modules()] == training
    assert repr(attack) == settings
    assert torch.equal(images, given)
    assert images.grad is None


def _params(model):
    return list(model.parameters())


@each_attack
@pytest.mark.usefixtures("without_type_checks")
def test_process_is_left_as_it_was_when_the_model_breaks_down(attack):
    net, images, labels, seeds = scene()

    class Failing(Recorder):
        def forward(self, images):
            if len(self.shown) == 4:
                raise FloatingPointError("on purpose")
            return super().forward(images)

    states = random_states()
    with pytest.raises(FloatingPointError, match="on purpose"):
        attack(Failing(net), images, labels, THREATS["l2"], seeds)
    assert random_states() == states
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert torch.is_grad_enabled()


@each_attack
@each_threat
@pytest.mark.parametrize("classes", [2, 3, 4, 12])
def test_an_image_that_never_falls_costs_the_calls_that_were_foretold(attack, threat, classes):
    went_back = []

    def count_backward(_, given):
        if given[0].requires_grad:
            given[0].register_hook(lambda gradient: went_back.append(len(gradient)))

    net, images, labels, seeds = scene(classes, n=3)
    model = Recorder(net)
    model.register_forward_pre_hook(count_backward)
    unreachable = Threat(threat.norm, threat.epsilon / 1e4)
    attack(model, images, labels, unreachable, seeds)
    forwards = sum(len(shown) for shown in model.shown)
    assert (forwards / 3, sum(went_back) / 3) == attack.calls(classes)


@each_attack
@each_threat
def test_memory_layout_of_the_images_changes_nothing(attack, threat):
    model, images, labels, seeds = scene()
    moved = attack(model, images, labels, threat, seeds)
    layout = images.contiguous(memory_format=torch.channels_last)
    assert not layout.is_contiguous()
    assert torch.equal(attack(model, layout, labels, threat, seeds), moved)


@each_attack
@each_threat
@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_any_number_of_classes_from_two_can_be_attacked(attack, threat, classes):
    model, images, labels, seeds = scene(classes, n=12)
    before = fallen(model, images, labels).sum()
    strong = Threat(threat.norm, threat.epsilon * 2)
    moved = attack(model, images, labels, strong, seeds)
    check_threat(moved, images, strong)
    assert fallen(model, moved, labels).sum() > before


@each_attack
@each_threat
def test_empty_batch_comes_back_empty_and_is_not_shown_to_the_model(attack, threat):
    net, images, labels, _ = scene()
    model = Recorder(net)
    assert attack(model, images[:0], labels[:0], threat, []).shape == (0, 3, 16, 16)
    assert not model.shown


@each_attack
@pytest.mark.parametrize("seeds", [[1], list(range(40))], ids=["too few", "too many"])
def test_seeds_must_be_as_many_as_images(attack, seeds):
    model, images, labels, _ = scene()
    with pytest.raises((ValueError, IndexError)):
        attack(model, images, labels, THREATS["linf"], seeds)


@each_attack
@each_threat
def test_hyperplane_is_crossed_exactly_where_it_is_near_enough(attack, threat):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(768, generator=generator, dtype=torch.float64)
    model = TwoClasses(weight, float(weight.sum()) / 2)
    # The distance to a hyperplane in a norm is |w x - b| over the dual norm of w. Images far
    # from 0 and 1 have their whole ball to themselves.
    dual = weight.abs().sum() if threat.norm == "linf" else weight.norm()
    ratio = torch.tensor([0.2, 0.9, 0.98, 1.02, 1.1, 2.0], dtype=torch.float64).repeat(2)
    labels = torch.tensor([0, 1]).repeat_interleave(6)
    lead = (2 * labels - 1) * ratio * threat.epsilon * dual
    images = 0.5 + lead[:, None] * weight / weight.square().sum()
    images = images.reshape(-1, 3, 16, 16)
    longer = replace(attack, steps=100)
    moved = longer(model, images, labels, threat, list(range(12)))
    assert fallen(model, moved, labels).tolist() == (ratio < 1).tolist()


@each_attack
@each_threat
@pytest.mark.parametrize("answer_type", [torch.float32, torch.bfloat16])
def test_models_may_answer_in_a_shorter_type(attack, threat, answer_type):
    class Short(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, images):
            return self.net(images).to(answer_type)

    net, images, labels, seeds = scene(dtype=torch.float32)
    moved = attack(Short(net), images, labels, threat, seeds)
    check_threat(moved, images, threat)
    assert fallen(Short(net), moved, labels).sum() > fallen(Short(net), images, labels).sum()


@each_attack
@each_threat
def test_a_model_full_of_ties_falls_only_where_it_misreads(attack, threat):
    net, images, labels, seeds = scene(n=24)
    model = Recorder(Rounded(net, step=0.25 * net(images).std().item()))
    moved = attack(model, images, labels, threat, seeds)
    answered = torch.cat(model.answered)
    top = answered.topk(2).values
    assert (top[:, 0] == top[:, 1]).any(), "this scene is meant to have ties"
    assert fallen(model, moved, labels).sum() > fallen(model, images, labels).sum()


# APGD-CE.


@pytest.fixture
def double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@each_threat
@pytest.mark.parametrize("steps", [1, 10, 100])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.usefixtures("double_by_default")
def test_apgd_follows_the_authors_example_by_example(threat, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(12, 3, 16, 16, generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 24), nn.Tanh(), nn.Linear(24, 5))
    with torch.no_grad():
        # Bends sharp enough for steps to be halved some seven times.
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        labels = model(images).argmax(dim=1)
        labels[:2] = (labels[:2] + 1) % 5
    theirs = APGDAttack(
        model, n_iter=steps, norm=threat.norm.replace("l", "L", 1), eps=threat.epsilon, device="cpu"
    )
    theirs.init_hyperparam(images)
    start = random_start(images, threat, range(12))
    for _ in range(2):
        best, never_misread, best_loss, _ = theirs.attack_single_run(images, labels, x_init=start)
        ours = apgd(model, images, labels, threat, start, steps, 0.75)
        torch.testing.assert_close(ours.best, best, rtol=0, atol=1e-9)
        torch.testing.assert_close(ours.best_loss, best_loss, rtol=1e-9, atol=1e-9)
        assert torch.equal(ours.answer.misread, never_misread == 0)
        # Again from a start that is hard to improve on, where other branches are taken.
        start = best


@each_threat
@pytest.mark.parametrize("restarts", [1, 3])
def test_apgd_answers_the_highest_loss_among_the_misread_it_visited(threat, restarts):
    net, images, labels, seeds = scene(n=24, dtype=torch.float32)
    model = Recorder(RowByRow(net))
    attack = ApgdCe(steps=7, restarts=restarts)
    moved = attack(model, images, labels, threat, seeds)
    shown, answered = torch.stack(model.shown, 1), torch.stack(model.answered, 1).double()
    assert shown.shape[1] == 8 * restarts
    assert len(torch.cat([shown[0, :1], shown[0, 8::8]]).unique(dim=0)) == restarts
    outcomes = set()
    for row, label in enumerate(labels):
        losses = nn.functional.cross_entropy(answered[row], label.expand(8 * restarts), reduction="none")
        wrong = misread(answered[row], label.expand(8 * restarts))
        outcomes.add(bool(wrong.any()))
        if wrong.any():
            losses = losses.where(wrong, -1.0)
        assert torch.equal(moved[row], shown[row, losses.argmax()])
    assert outcomes == {True, False}, "this scene is meant to have both kinds of image"


def test_an_answer_prefers_misread_images_and_among_equals_the_higher_loss():
    answer = Answer.unmoved(torch.zeros(1, 3, 4, 4))
    offers = [(0.1, 5.0, False), (0.2, 1.0, True), (0.3, 0.5, True), (0.4, 9.0, False)]
    kept = []
    for value, loss, wrong in offers:
        image = torch.full((1, 3, 4, 4), value)
        answer.offer(image, torch.tensor([loss], dtype=torch.float64), torch.tensor([wrong]))
        kept.append(round(answer.images.mean().item(), 3))
    assert kept == [0.1, 0.2, 0.2, 0.2]


def test_apgd_climbs_where_the_loss_is_zero_in_float32():
    model, images, labels, seeds = scene(dtype=torch.float32)
    with torch.no_grad():
        for parameter in model[3].parameters():
            parameter.mul_(25 / model(images).topk(2).values.diff().abs().median())
        confident = nn.functional.cross_entropy(model(images), labels, reduction="none") == 0
    assert confident.sum() > 3
    moved = ApgdCe(steps=20)(model, images, labels, Threat("linf", 16 / 255), seeds)
    assert fallen(model, moved, labels)[confident].all()


@each_threat
def test_random_starts_lie_on_the_ball_and_come_from_their_own_seeds(threat):
    images = torch.full((3, 3, 16, 16), 0.5, dtype=torch.float64)
    starts = random_start(images, threat, [7, 8, 7])
    assert torch.equal(starts[0], starts[2])
    assert not torch.equal(starts[0], starts[1])
    expected = torch.full((3,), threat.epsilon, dtype=torch.float64)
    torch.testing.assert_close(distances(starts, images)[threat.norm], expected)
    single = random_start(images.float(), threat, [7, 8, 7])
    torch.testing.assert_close(single, starts.float(), rtol=0, atol=1e-7)


# AutoAttack.


@each_threat
def test_autoattack_leaves_alone_what_it_did_not_break(threat):
    model, images, labels, seeds = scene(n=24)
    labels[:3] = (labels[:3] + 1) % 10
    before = fallen(model, images, labels)
    moved = ROWS["autoattack"](model, images, labels, threat, seeds)
    was_moved = (moved != images).flatten(1).any(dim=1)
    assert torch.equal(was_moved, fallen(model, moved, labels) & ~before)
    assert 0 < was_moved.sum() < 24 - before.sum()
    assert torch.equal(moved[~was_moved], images[~was_moved])


@each_threat
@pytest.mark.parametrize(("classes", "scale"), [(4, 1.8), (10, 1)])
def test_autoattack_breaks_the_images_the_authors_break(threat, classes, scale):
    model, images, labels, seeds = scene(classes, n=24, dtype=torch.float32)
    labels = model(images).argmax(dim=1)
    weak = Threat(threat.norm, threat.epsilon * scale)
    ours = AutoAttackStandard(steps=20, queries=50)(model, images, labels, weak, seeds)
    common = {"norm": threat.norm.replace("l", "L", 1), "eps": weak.epsilon, "device": "cpu"}
    targets = {"n_target_classes": min(9, classes - 1)}
    broken = torch.zeros(24, dtype=torch.bool)
    with torch.random.fork_rng():
        for theirs in (
            APGDAttack(model, n_iter=20, **common),
            APGDAttack_targeted(model, n_iter=20, **targets, **common),
            FABAttack_PT(model, n_iter=20, targeted=True, **targets, **common),
            SquareAttack(model, n_queries=50, resc_schedule=False, **common),
        ):
            broken |= fallen(model, theirs.perturb(images, labels), labels)
    assert 0 < broken.sum() < 24
    assert torch.equal(fallen(model, ours, labels), broken)


STAGES = stages(10, steps=6, queries=30, windows_seed=0)
each_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)


def _standing(model, images, labels, threat, seeds):
    with torch.no_grad():
        ranking = model(images).argsort(dim=1, descending=True)
    return Standing(model=model, images=images, labels=labels, ranking=ranking, threat=threat, seeds=seeds)


@each_threat
@each_stage
def test_no_stage_lets_an_image_depend_on_its_neighbours(threat, stage):
    model, images, labels, seeds = scene(dtype=torch.float32)
    model = RowByRow(model)
    # Half-way between two classes, so that Square breaks some images early, others late or never.
    images = (images + images.roll(1, 0)) / 2
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    with torch.no_grad(), torch.random.fork_rng():
        together = stage(_standing(model, images, labels, threat, seeds))
        torch.rand(5)
        some = [7, 2, 9]
        own = [seeds[i] for i in some]
        apart = stage(_standing(model, images[some], labels[some], threat, own))
    assert torch.equal(apart, together[some])


@each_threat
@each_stage
def test_no_stage_takes_a_tie_or_a_distant_image_for_a_success(threat, stage):
    net, images, labels, seeds = scene(n=24, dtype=torch.float32)
    model = Recorder(Rounded(net, step=0.5))
    points = replace(_standing(net, images, labels, threat, seeds), model=model)
    assert torch.equal(points.ranking[:, 0], labels)
    with torch.no_grad(), torch.random.fork_rng():
        found = stage(points)
    check_threat(found, images, threat)
    if stage.func is fab_to:
        moved = (found != images).flatten(1).any(dim=1)
        assert torch.equal(moved, fallen(model, found, labels))
    else:
        whole = [i for i, shown in enumerate(model.shown) if len(shown) == len(images)]
        ever = torch.stack([misread(model.answered[i], labels) for i in whole]).any(dim=0)
        assert not (ever & ~fallen(model, found, labels)).any()


def test_a_tie_between_the_label_and_another_class_goes_to_the_label():
    class Given(nn.Module):
        def forward(self, images):
            return images[:, 0, 0, :4] * 1

    images = torch.rand(400, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    images = (images * 4).round()
    labels = torch.arange(400) % 4
    points = _standing(Given(), images, labels, THREATS["linf"], range(400))
    wrong = misread(points.logits(images), labels)
    top = points.logits(images).topk(2).values
    assert (top[:, 0] == top[:, 1]).sum() > 50
    assert torch.equal(points.logits_without_ties(images).argmax(dim=1) != labels, wrong)


def test_autoattack_answers_the_same_for_every_internal_batch():
    model, images, labels, seeds = scene(n=10)
    model = RowByRow(model)
    answers = [
        AutoAttackStandard(steps=4, queries=12, batch=batch)(model, images, labels, THREATS["l2"], seeds)
        for batch in (1, 3, 64)
    ]
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


@each_threat
def test_autoattack_lets_no_tie_pass_for_a_success(threat):
    class AllTied(nn.Module):
        def forward(self, images):
            return images.flatten(1).sum(dim=1, keepdim=True).expand(-1, 5) * 1.0

    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels, model = torch.tensor([0, 1, 3, 4]), Recorder(AllTied())
    moved = AutoAttackStandard(steps=3, queries=9)(model, images, labels, threat, range(4))
    assert torch.equal(moved, images)
    shown_to_square = model.shown[-11:-1]
    assert [len(shown) for shown in shown_to_square] == [4] * 10


def test_misread_is_strict():
    logits = torch.tensor([[1.0, 2.0], [2.0, 2.0], [2.0, 1.0], [1.0, float("nan")]])
    assert misread(logits, torch.tensor([0, 0, 0, 0])).tolist() == [True, False, False, False]


# The table and its notation.


@pytest.mark.parametrize(
    ("text", "slug", "attack"),
    [
        ("apgd-ce", "apgd-ce", ApgdCe()),
        ("apgd-ce:steps=100,rho=0.75", "apgd-ce", ApgdCe()),
        ("apgd-ce:steps=20", "apgd-ce-steps20", ApgdCe(steps=20)),
        ("apgd-ce:rho=0.5,restarts=2", "apgd-ce-restarts2-rho0.5", ApgdCe(restarts=2, rho=0.5)),
        (
            "autoattack:queries=200,steps=20",
            "autoattack-steps20-queries200",
            AutoAttackStandard(steps=20, queries=200),
        ),
    ],
)
def test_an_attack_is_written_as_its_name_and_what_differs(text, slug, attack):
    assert parse_attack(text) == (slug, attack)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pgd", "Attack 'pgd' is unknown. Known are apgd-ce, autoattack."),
        ("", "Attack '' is unknown"),
        ("apgd-ce:", "cannot be set by ''"),
        ("apgd-ce:step=5", "it has steps, restarts, rho"),
        ("apgd-ce:steps", "cannot be set by 'steps'"),
        ("apgd-ce:steps=5,steps=6", "each once"),
        ("apgd-ce:steps=many", "Setting steps of apgd-ce is 'many', not a whole number."),
        ("apgd-ce:rho=high", "not a number"),
        ("apgd-ce:steps=0", "at least 1"),
        ("apgd-ce:restarts=-1", "at least 1"),
        ("apgd-ce:rho=nan", "not in"),
        ("autoattack:batch=0", "at least 1"),
        ("autoattack:queries=0", "at least 1"),
        ("autoattack:steps=0", "at least 1"),
    ],
)
def test_a_wrong_attack_is_refused_with_a_sentence(text, sentence):
    with pytest.raises(StudyError, match=sentence):
        parse_attack(text)


@each_attack
def test_settings_of_an_attack_cannot_be_changed(attack):
    with pytest.raises(FrozenInstanceError):
        setattr(attack, fields(attack)[0].name, 3)


# Threats.


@given(st.integers(1, 255))
def test_a_threat_in_levels_survives_being_written_and_read(level):
    threat = Threat("linf", level / 255)
    assert Threat.parse(str(threat)) == threat
    assert str(threat) == f"linf:{level}/255"
    assert threat.slug == f"linf-{level}of255"


@given(st.sampled_from(["linf", "l2"]), st.decimals("0.001", 1, places=5))
def test_a_threat_in_decimals_survives_being_written_and_read(norm, epsilon):
    threat = Threat.parse(f"{norm}:{epsilon}")
    assert threat == Threat(norm, float(epsilon))
    assert Threat.parse(str(threat)) == threat
    assert not set(threat.slug) & set(":/ ")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("linf:8", "Did you mean linf:8/255"),
        ("linf:0", "not a positive number"),
        ("l2:-0.5", "not a positive number"),
        ("linf:8/0", "NORM:EPSILON"),
        ("linf", "NORM:EPSILON"),
        ("linf:", "NORM:EPSILON"),
        ("8/255", "NORM:EPSILON"),
    ],
)
def test_a_threat_nothing_can_obey_is_refused_with_a_sentence(text, sentence):
    with pytest.raises(ThreatError, match=sentence):
        Threat.parse(text)


def test_an_unknown_norm_is_refused():
    # The run-time check of types, on in tests, may see it before we do.
    with pytest.raises((ThreatError, TypeError)):
        Threat.parse("l1:0.5")


@given(
    norm=st.sampled_from(["linf", "l2"]),
    epsilon=st.floats(1e-3, 1),
    reach=st.floats(0, 3),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=60, deadline=None)
def test_projection_ends_inside_and_a_second_one_changes_nothing(norm, epsilon, reach, seed):
    generator, threat = torch.Generator().manual_seed(seed), Threat(norm, epsilon)
    images = torch.rand(3, 3, 4, 4, generator=generator, dtype=torch.float64)
    step = torch.randn(3, 3, 4, 4, generator=generator, dtype=torch.float64)
    once = project(images + reach * step, images, threat)
    check_threat(once, images, threat)
    torch.testing.assert_close(project(once, images, threat), once, rtol=0, atol=1e-12)


@each_threat
def test_projection_leaves_alone_what_is_inside(threat):
    images = torch.full((2, 3, 4, 4), 0.5)
    inside = images + 0.01
    torch.testing.assert_close(project(inside, images, threat), inside, rtol=0, atol=1e-7)


@each_threat
def test_leaving_the_threat_is_a_defect(threat):
    images = torch.full((2, 3, 16, 16), 0.5)
    check_threat(images, images, threat)
    outside = images.clone()
    outside[1] += 1.01 * threat.epsilon / (1 if threat.norm == "linf" else 768**0.5)
    with pytest.raises(ThreatViolated, match="moved an image by"):
        check_threat(outside, images, threat)


@pytest.mark.parametrize("value", [-0.001, 1.001, float("nan"), float("inf")])
def test_leaving_the_range_of_pixels_is_a_defect(value):
    images = torch.zeros(1, 3, 4, 4)
    moved = images.clone()
    moved[0, 0, 0, 0] = value
    with pytest.raises(ThreatViolated, match=r"left \[0, 1\]"):
        check_threat(moved, images, Threat("l2", 3.0))
