"""The contract every attack must meet, the table of attacks, and threats."""

import random
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields, replace
from functools import cache

import jaxtyping
import numpy as np
import pytest
import torch
from attack_scene import THREATS, Recorder, Rounded, RowByRow, random_states, scaled, scene, scene_for

from orchestrator.attacks import ATTACKS, attack_from, attack_settings, parse_attack
from orchestrator.attacks.answer import Answer, misread
from orchestrator.attacks.attack import Points
from orchestrator.attacks.gradient.apgd_untargeted import ApgdUntargeted
from orchestrator.attacks.oracle.auto_attack import AutoAttackStandard
from orchestrator.attacks.settling import settle
from orchestrator.attacks.source import Source
from orchestrator.errors import StudyError, ThreatViolated

# The whole budget where a row of the table is fast enough, a smaller one where it is not.
SMALLER = {
    "apgd-ce": "apgd-ce:steps=10",
    "apgd-dlr": "apgd-dlr:steps=10",
    "apgd-t": "apgd-t:steps=6,targets=3",
    "fab-t": "fab-t:steps=12,targets=3",
    "targeted-fgsm": "targeted-fgsm:steps=12",
    "standard": "standard:steps=6,targets=3,queries=25",
    "square": "square:queries=60,rescaled=True",
    "autoattack": "autoattack:steps=6,queries=25",
    "hop-skip-jump": "hop-skip-jump:queries=200,probes=30",
    "di-fgsm": "di-fgsm:canvas=1.05,reach=2.0",
    "ti-fgsm": "ti-fgsm:kernel=3",
    "vmi-fgsm": "vmi-fgsm:steps=5,neighbours=3",
    "si-fgsm": "si-fgsm:steps=5,scales=3",
    "bsr": "bsr:copies=2,reach=2.0",
    "sia": "sia:copies=2,reach=2.0",
    "eot-keys": "eot-keys:steps=5,keys=4",
    "key-search": "key-search:tries=2,swaps=2,steps=5",
    "leaked-patch": "leaked-patch:steps=5",
    "invariant": "invariant:steps=5",
    "patch": "patch:places=3,scout=3,steps=10",
    "spatial": "spatial:tries=30,closer=10",
    "colour": "colour:steps=20",
}
# Who sees no gradient gets less far with as few questions as a test has time for.
REACH = {"gradients": 1, "logits": 12, "decisions": 6}


def _threat(attack, norm):
    return scaled(THREATS[norm], REACH[attack.access])


ROWS = {name: parse_attack(SMALLER.get(name, name))[1] for name in ATTACKS}


def _priced() -> Iterator[object]:
    """Every case with every number of classes at which it may cost something else than at another."""
    for name, attack in ROWS.items():
        for norm in sorted(attack.norms & THREATS.keys()):
            costs = {attack.calls(classes): classes for classes in (12, 4, 3, 2)}
            for classes in sorted({2, 12, *costs.values()}):
                yield pytest.param(attack, _threat(attack, norm), classes, id=f"{name}-{norm}-{classes}")


each_attack = pytest.mark.parametrize("attack", ROWS.values(), ids=ROWS)
each_case = pytest.mark.parametrize(
    ("attack", "threat"),
    [
        pytest.param(attack, _threat(attack, norm), id=f"{name}-{norm}")
        for name, attack in ROWS.items()
        for norm in THREATS
        if norm in attack.norms
    ],
)


def with_room(attack, threat, times=1.0):
    """The threat; larger for attacks that do not know the key, or hold back for other models."""
    held_back = bool(attack.needs) or attack in (ROWS["bsr"], ROWS["sia"])
    return scaled(threat, times * (8 if held_back else 1))


def a_threat(attack):
    return next(_threat(attack, norm) for norm in THREATS if norm in attack.norms)


@cache
def struck_once(attack, threat, dtype=torch.float64):
    """What an attack finds in its scene: the same for every test, as one of them holds it to."""
    return scene_for(attack, dtype=dtype).struck(attack, threat)


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """Half the time of a test; of all shapes and types there are others, over every case.

    Beartype also draws from `random` to pick the item of a list that it checks.
    """
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# The contract, over every row of ATTACKS.


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moved_images_are_inside_the_threat_and_keep_their_type(attack, threat, dtype):
    here = scene_for(attack, dtype=dtype)
    found = struck_once(attack, threat, dtype)
    settled = settle(found, here.images, threat)
    for moved, kept in ((found.worst, settled.worst), (found.best, settled.best)):
        if threat.norm in ("linf", "patch", "spatial", "colour"):
            assert torch.equal(kept, moved), "outside by a rounding"
        assert moved.dtype == dtype
        assert moved.shape == here.images.shape
        assert not moved.requires_grad


@each_case
def test_source_reads_fewer_images_after_the_attack(attack, threat):
    here = scene_for(attack, n=24)
    before = here.fallen(here.images).sum()
    found = here.struck(attack, with_room(attack, threat))
    assert here.fallen(found.worst).sum() >= before + 3
    assert here.fallen(found.best).sum() > before


@each_case
@pytest.mark.usefixtures("without_type_checks")
def test_the_worst_of_an_image_is_misread_wherever_its_best_is(attack, threat):
    here = scene_for(attack, n=24)
    found = here.struck(attack, threat)
    assert not (here.fallen(found.best) & ~here.fallen(found.worst)).any()


@each_attack
def test_labels_may_be_short_integers(attack):
    here = scene_for(attack)
    short = replace(here, labels=here.labels.int())
    found = short.struck(attack, a_threat(attack))
    assert torch.equal(found.worst, struck_once(attack, a_threat(attack)).worst)


@each_case
@pytest.mark.usefixtures("without_type_checks")
def test_same_seeds_give_the_same_bytes_whatever_the_global_state(attack, threat):
    first = struck_once(attack, threat)
    torch.rand(3), np.random.random(), random.random()
    second = scene_for(attack).struck(attack, threat)
    assert torch.equal(second.worst, first.worst)
    assert torch.equal(second.best, first.best)


@each_case
@pytest.mark.usefixtures("without_type_checks")
def test_answer_for_an_image_depends_on_no_neighbour_and_no_batch(attack, threat):
    here = scene_for(attack, n=9).behind(RowByRow)
    # A model that an attack builds for itself may round otherwise in another batch.
    atol = 1e-9 if "plain" in attack.needs else 0.0

    def same(some, others):
        torch.testing.assert_close(some, others, rtol=0, atol=atol)

    whole = here.source(attack)
    together = attack(whole, here.points(), threat)
    order = [5, 2, 8, 0, 7, 1, 4, 6, 3]
    shuffled = here.of(order).struck(attack, threat, batch=4)
    same(shuffled.worst, together.worst[order])
    same(shuffled.best, together.best[order])
    forwards = []
    for part, batch in ((slice(0, 1), 64), (slice(1, 6), 2), (slice(6, 9), 3)):
        source = here.of(part).source(attack, batch=batch)
        found = attack(source, here.of(part).points(), threat)
        same(found.worst, together.worst[part])
        same(found.best, together.best[part])
        forwards += source.forwards.tolist()
    assert forwards == whole.forwards.tolist()


@each_attack
@pytest.mark.usefixtures("without_type_checks")
def test_model_images_and_process_are_left_as_they_were(attack):
    here = scene_for(attack)
    model, modules = here.model, list(here.model.modules())
    some = list(model.parameters())[:2]
    some[0].requires_grad_(False)
    some[1].grad = torch.full_like(some[1], 3.0)
    modules[-1].train()
    seen = []
    modules[-1].register_forward_hook(lambda *_: seen.append(1))
    here.images.requires_grad_()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [(p.requires_grad, p.grad if p.grad is None else p.grad.clone()) for p in model.parameters()]
    hooks = [(dict(m._forward_hooks), dict(m._backward_hooks), dict(m._forward_pre_hooks)) for m in modules]
    attributes = [{k: v for k, v in vars(m).items() if isinstance(v, bool | int | float)} for m in modules]
    states, written = random_states(), repr(attack)
    given = here.images.detach().clone()

    here.struck(attack, a_threat(attack))

    assert seen or "plain" in attack.needs, "an attack on the public model alone"
    assert random_states() == states
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    for parameter, (requires_grad, grad) in zip(model.parameters(), flags, strict=True):
        assert parameter.requires_grad == requires_grad
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)
    assert list(model.modules()) == modules
    assert hooks == [
        (dict(m._forward_hooks), dict(m._backward_hooks), dict(m._forward_pre_hooks)) for m in modules
    ]
    assert attributes == [
        {k: v for k, v in vars(m).items() if isinstance(v, bool | int | float)} for m in modules
    ]
    assert repr(attack) == written
    assert torch.equal(here.images, given)
    assert here.images.grad is None


@each_attack
@pytest.mark.usefixtures("without_type_checks")
def test_process_is_left_as_it_was_when_the_model_breaks_down(attack):
    class Failing(Recorder):
        def forward(self, images):
            if len(self.shown) == 4:
                raise FloatingPointError("on purpose")
            return super().forward(images)

    if "plain" in attack.needs:
        pytest.skip("asks the public model, never its source")
    here = scene_for(attack)
    hooks = [dict(m._forward_hooks) for m in here.model.modules()]
    states = random_states()
    with pytest.raises(FloatingPointError, match="on purpose"):
        here.behind(Failing).struck(attack, a_threat(attack))
    assert random_states() == states
    assert [dict(m._forward_hooks) for m in here.model.modules()] == hooks
    assert all(p.grad is None for p in here.model.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("attack", "threat", "classes"), list(_priced()))
@pytest.mark.usefixtures("without_type_checks")
def test_an_image_that_never_falls_costs_the_calls_that_were_foretold(attack, threat, classes):
    went_back = []

    def count_backward(_, given):
        if given[0].requires_grad:
            given[0].register_hook(lambda gradient: went_back.append(len(gradient)))

    here = scene_for(attack, classes, n=3)
    model = Recorder(here.model)
    model.register_forward_pre_hook(count_backward)
    unreachable = scaled(threat, 1e-4)
    source = replace(here, model=model).source(attack, batch=2)
    attack(source, here.points(), unreachable)
    examples = int(source.findings.get("example_forwards", 0))
    assert source.forwards.tolist() == [attack.calls(classes).forwards] * 3
    assert source.backwards.tolist() == [attack.calls(classes).backwards] * 3
    most = max(2, len(here.knowledge.examples[1]) if examples else 0)
    assert all(len(shown) <= most for shown in model.shown)
    if not attack.needs & {"plain", "examples"}:  # those ask other models too
        assert sum(len(shown) for shown in model.shown) == source.forwards.sum()
        assert sum(went_back) == source.backwards.sum()


@each_attack
def test_an_attack_without_gradients_takes_none(attack):
    went_back = []

    def count_backward(_, given):
        went_back.append(given[0].requires_grad)

    here = scene_for(attack)
    model = Recorder(here.model)
    model.register_forward_pre_hook(count_backward)
    source = replace(here, model=model).source(attack)
    attack(source, here.points(), a_threat(attack))
    assert bool(source.backwards.sum()) == (attack.access == "gradients")
    if "plain" not in attack.needs:  # such an attack never asks its source
        assert any(went_back) == (attack.access == "gradients")


def test_a_source_refuses_more_than_it_gives():
    here = scene()
    with pytest.raises(ThreatViolated, match="given logits alone asked for gradients"):
        here.points(), ApgdUntargeted(steps=1)(here.source(access="logits"), here.points(), THREATS["linf"])
    with pytest.raises(ThreatViolated, match="given decisions alone asked for logits"):
        here.source(access="decisions").logits(here.images, torch.arange(12))


@each_case
@pytest.mark.usefixtures("without_type_checks")
def test_memory_layout_of_the_images_changes_nothing(attack, threat):
    here = scene_for(attack)
    layout = replace(here, images=here.images.contiguous(memory_format=torch.channels_last))
    assert not layout.images.is_contiguous()
    assert torch.equal(layout.struck(attack, threat).worst, struck_once(attack, threat).worst)


@each_case
@pytest.mark.parametrize("classes", [2, 3, 4])  # all other tests have ten
def test_any_number_of_classes_from_two_can_be_attacked(attack, threat, classes):
    here = scene_for(attack, classes, n=12)
    strong = with_room(attack, threat, 2.0)
    found = here.struck(attack, strong)
    settle(found, here.images, strong)
    assert here.fallen(found.worst).sum() > here.fallen(here.images).sum()


@each_case
def test_empty_batch_comes_back_empty_and_is_not_shown_to_the_model(attack, threat):
    here = scene_for(attack).of([])
    source = here.behind(Recorder).source(attack)
    found = attack(source, here.points(), threat)
    assert found.worst.shape == found.best.shape == (0, 3, 16, 16)
    assert not source.forwards.sum()


@pytest.mark.parametrize("seeds", [[1], list(range(40))], ids=["too few", "too many"])
def test_seeds_must_be_as_many_as_images(seeds):
    here = scene()
    with pytest.raises(ValueError, match="seeds"):
        Points.of(here.images, here.labels, seeds)


@each_case
def test_an_attack_that_starts_where_another_ended_stays_inside(attack, threat):
    here = scene_for(attack)
    start = here.struck(attack, scaled(threat, 0.5)).reached
    found = attack(here.source(attack), here.points(start=start), threat)
    settled = settle(found, here.images, threat)  # raises where anything is outside
    assert settled.worst.shape == here.images.shape


@each_case
@pytest.mark.parametrize("answer_type", [torch.float32, torch.bfloat16])
def test_models_may_answer_in_a_shorter_type(attack, threat, answer_type):
    class Short(Recorder):
        def forward(self, images):
            return super().forward(images).to(answer_type)

    here, threat = scene_for(attack, dtype=torch.float32).behind(Short), with_room(attack, threat)
    found = here.struck(attack, threat)
    settle(found, here.images, threat)
    assert here.fallen(found.worst).sum() > here.fallen(here.images).sum()


@each_case
@pytest.mark.usefixtures("without_type_checks")
def test_a_model_full_of_ties_falls_only_where_it_misreads(attack, threat):
    here = scene_for(attack, n=24)
    step = 0.25 * here.model(here.images).std().item()
    tied = here.behind(lambda model: Recorder(Rounded(model, step=step)))
    found = tied.struck(attack, with_room(attack, threat))
    if "plain" in attack.needs:
        return  # it never asks its source
    answered = torch.cat(tied.model.answered)
    top = answered.topk(2).values
    assert (top[:, 0] == top[:, 1]).any(), "this scene is meant to have ties"
    assert tied.fallen(found.worst).sum() > tied.fallen(tied.images).sum()


@each_attack
def test_an_ensemble_is_attacked_by_its_mean_and_counts_every_member(attack):
    here, threat = scene_for(attack, n=6), a_threat(attack)
    twice = Source([here.model, here.model], 6, knowledge=here.knowledge, access=attack.access)
    once = here.source(attack)
    found, alone = attack(twice, here.points(), threat), attack(once, here.points(), threat)
    torch.testing.assert_close(found.best, alone.best, rtol=0, atol=1e-9)
    assert twice.forwards.tolist() == (2 * once.forwards).tolist()
    assert twice.backwards.tolist() == (2 * once.backwards).tolist()


# What all attacks stand on.


def test_an_answer_keeps_the_misread_of_highest_loss_and_the_highest_of_all():
    answer = Answer.unmoved(torch.zeros(2, 3, 4, 4))
    rows = torch.tensor([1])
    offers = [(0.1, 5.0, False), (0.2, 1.0, True), (0.3, 0.5, True), (0.4, 9.0, False)]
    kept = []
    for value, loss, wrong in offers:
        image = torch.full((1, 3, 4, 4), value)
        answer.offer(rows, image, torch.tensor([loss], dtype=torch.float64), torch.tensor([wrong]))
        kept.append([round(images[1].mean().item(), 3) for images in (answer.worst, answer.best)])
    assert kept == [[0.1, 0.1], [0.2, 0.1], [0.2, 0.1], [0.2, 0.4]]
    assert not answer.worst[0].any()
    assert answer.misread.tolist() == [False, True]


def test_misread_is_strict():
    logits = torch.tensor([[1.0, 2.0], [2.0, 2.0], [2.0, 1.0], [1.0, float("nan")]])
    assert misread(logits, torch.tensor([0, 0, 0, 0])).tolist() == [True, False, False, False]


# The table and its notation.


@pytest.mark.parametrize(
    ("text", "slug", "attack"),
    [
        ("apgd-ce", "apgd-ce", ApgdUntargeted()),
        ("apgd-ce:steps=100,rho=0.75", "apgd-ce", ApgdUntargeted()),
        ("apgd-ce:steps=20", "apgd-ce-steps20", ApgdUntargeted(steps=20)),
        ("apgd-ce:rho=0.5,restarts=2", "apgd-ce-restarts2-rho0.5", ApgdUntargeted(restarts=2, rho=0.5)),
        ("apgd-ce:early=True", "apgd-ce-earlyTrue", ApgdUntargeted(early=True)),
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
        ("pgd", "Attack 'pgd' is unknown. Known are apgd-ce, "),
        ("", "Attack '' is unknown"),
        ("apgd-ce:", "cannot be set by ''"),
        ("apgd-ce:step=5", "it has loss, steps, restarts, rho"),
        ("apgd-ce:steps", "cannot be set by 'steps'"),
        ("apgd-ce:steps=5,steps=6", "each once"),
        ("apgd-ce:steps=many", "Setting steps of apgd-ce is 'many', not a whole number."),
        ("apgd-ce:rho=high", "not a number"),
        ("apgd-ce:steps=0", "at least 1"),
        ("apgd-ce:restarts=-1", "at least 1"),
        ("apgd-ce:rho=nan", "in \\(0, 1\\]"),
        ("apgd-ce:early=yes", "not True or False"),
        ("apgd-ce:loss=hinge", "not one of ce, dlr"),
        ("autoattack:queries=0", "at least 1"),
        ("autoattack:steps=0", "at least 1"),
    ],
)
def test_a_wrong_attack_is_refused_with_a_sentence(text, sentence):
    with pytest.raises(StudyError, match=sentence):
        parse_attack(text)


@each_attack
def test_an_attack_survives_being_written_down(attack):
    assert attack_from(attack_settings(attack)) == attack


@each_attack
def test_settings_of_an_attack_cannot_be_changed(attack):
    with pytest.raises(FrozenInstanceError):
        setattr(attack, fields(attack)[0].name, 3)
