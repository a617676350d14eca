"""APGD held to its authors step by step, to closed forms, and to what it says it keeps."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from attack_scene import THREATS, Recorder, RowByRow, TwoClasses, scene
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import nn

from orchestrator.attacks.answer import Answer, misread
from orchestrator.attacks.attack import Points
from orchestrator.attacks.gradient.apgd import Apgd
from orchestrator.attacks.gradient.apgd_targeted import ApgdTargeted
from orchestrator.attacks.gradient.apgd_untargeted import _OBJECTIVES, ApgdUntargeted
from orchestrator.attacks.losses import cross_entropy, dlr, targeted_dlr
from orchestrator.attacks.source import Source
from orchestrator.attacks.starts import random_start
from orchestrator.attacks.targets import wrong_classes
from orchestrator.attacks.threat import Threat, distances
from orchestrator.attacks.walk import walk

EUCLIDEAN = {name: THREATS[name] for name in ("linf", "l2")}
each_threat = pytest.mark.parametrize("threat", EUCLIDEAN.values(), ids=EUCLIDEAN)


@pytest.fixture
def double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def bent(seed, classes=5, bend=0.3):
    """A model whose bends are sharp enough for steps to be halved some seven times, and its points."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(12, 3, 16, 16, generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 24), nn.Tanh(), nn.Linear(24, classes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(bend * torch.randn(parameter.shape, generator=generator))
        labels = model(images).argmax(dim=1)
        labels[:2] = (labels[:2] + 1) % classes
    return model, Points.of(images, labels, range(12))


def theirs(kind, model, steps, threat, **options):
    norm = threat.norm.replace("l", "L", 1)
    attack = kind(model, n_iter=steps, norm=norm, eps=threat.epsilon, device="cpu", **options)
    attack.init_hyperparam(torch.zeros(1, 3, 16, 16))
    return attack


@each_threat
@pytest.mark.parametrize(("batch", "steps"), [*product([5, 12], [1, 2, 10]), (12, 100)])
@pytest.mark.parametrize("loss", ["ce", "dlr", "targeted"])
@pytest.mark.usefixtures("double_by_default")
def test_apgd_follows_the_authors_example_by_example(threat, steps, loss, batch):
    # On sharp bends the ratio divides by next to nothing, and roundings grow.
    model, points = bent(seed=steps, bend=0.1 if loss == "dlr" else 0.3)
    if loss == "targeted":
        attack = theirs(APGDAttack_targeted, model, steps, threat)
        points = points.towards((points.labels + 2) % 5)
        attack.y_target = points.targets
        steps_of = Apgd(threat, steps, 0.75, targeted_dlr)
    else:
        attack = theirs(APGDAttack, model, steps, threat, loss=loss)
        steps_of = Apgd(threat, steps, 0.75, _OBJECTIVES[loss])
    start = random_start(points, threat)
    for _ in range(2):
        best, never_misread, best_loss, _ = attack.attack_single_run(
            points.images, points.labels, x_init=start
        )
        ended = []
        watched = _Watched(steps_of, ended)
        answer = Answer.unmoved(points.images)
        walk(Source([model], 12, batch=batch), replace(points, start=start), watched, answer, early=False)
        # Rows end in another order than they came in; they are told apart by their pixels.
        ended = [next(end for end in ended if torch.equal(end[0], image)) for image in points.images]
        ours, losses = (torch.stack([end[place] for end in ended]) for place in (1, 2))
        atol = 1e-6 if loss == "dlr" else 1e-8
        torch.testing.assert_close(ours, best, rtol=0, atol=atol)
        torch.testing.assert_close(losses, best_loss, rtol=1e-5 if loss == "dlr" else 1e-8, atol=1e-8)
        assert torch.equal(answer.misread, never_misread == 0)
        # Again from a start that is hard to improve on, where other branches are taken.
        start = best


class _Watched:
    """A walk that writes down where each row ended."""

    climbs = True

    def __init__(self, steps, ended):
        self.steps, self.ended = steps, ended
        self.begin, self.ask, self.loss = steps.begin, steps.ask, steps.loss

    def tell(self, state, seen):
        over = self.steps.tell(state, seen)
        for row in over.nonzero()[:, 0].tolist():
            self.ended.append((state.images[row], state.best[row], state.best_loss[row]))
        return over


@each_threat
@pytest.mark.parametrize("restarts", [1, 3])
def test_apgd_answers_the_highest_loss_and_the_highest_misread_it_visited(threat, restarts):
    here = scene(n=24, dtype=torch.float32).behind(lambda model: Recorder(RowByRow(model)))
    found = here.struck(ApgdUntargeted(steps=7, restarts=restarts), threat)
    shown, answered = torch.stack(here.model.shown, 1), torch.stack(here.model.answered, 1).double()
    assert shown.shape[1] == 8 * restarts
    assert len(torch.cat([shown[0, :1], shown[0, 8::8]]).unique(dim=0)) == restarts
    outcomes = set()
    for row, label in enumerate(here.labels):
        labels = label.expand(8 * restarts)
        losses = nn.functional.cross_entropy(answered[row], labels, reduction="none")
        wrong = misread(answered[row], labels)
        outcomes.add(bool(wrong.any()))
        assert torch.equal(found.best[row], shown[row, losses.argmax()])
        if wrong.any():
            losses = losses.where(wrong, -1.0)
        assert torch.equal(found.worst[row], shown[row, losses.argmax()])
    assert outcomes == {True, False}, "this scene is meant to have both kinds of image"


@each_threat
@pytest.mark.parametrize("attack", [ApgdUntargeted(steps=20), ApgdTargeted(steps=20, targets=3)])
def test_an_early_end_finds_the_same_images_fallen_for_less(threat, attack):
    here = scene(n=24).behind(RowByRow)
    whole, early = here.source(), here.source(batch=7)
    late = attack(whole, here.points(), threat)
    soon = replace(attack, early=True)(early, here.points(), threat)
    fell = here.fallen(late.worst)
    assert torch.equal(here.fallen(soon.worst), fell)
    assert 0 < fell.sum() < 24
    assert (early.forwards[~fell] == whole.forwards[~fell]).all()
    assert early.forwards[fell].sum() < 0.5 * whole.forwards[fell].sum()


def test_an_image_that_falls_leaves_its_place_to_the_next():
    shown = []

    class Watched(RowByRow):
        def forward(self, images):
            shown.append(len(images))
            return super().forward(images)

    here = scene(n=24).behind(Watched)
    source = here.source(batch=7)
    fell = here.fallen(ApgdUntargeted(steps=20, early=True)(source, here.points(), THREATS["linf"]).worst)
    asked = shown[: shown.index(24)]
    assert sum(asked) == source.forwards.sum()
    # Every batch is full until nobody waits any more; only then does it shrink.
    assert 3 < fell.sum() < 24
    assert asked == sorted(asked, reverse=True)
    assert asked[0] == 7
    assert len(asked) < 0.8 * 4 * 21, "four batches one after another, of 21 looks each, take more"


@each_threat
def test_targets_are_the_wrong_classes_likeliest_first(threat):
    here = scene(n=8)
    ranked = wrong_classes(here.source(batch=3), here.points())
    logits = here.model(here.images)
    for row, label in enumerate(here.labels.tolist()):
        expected = [c for c in logits[row].argsort(descending=True).tolist() if c != label]
        assert ranked[row].tolist() == expected


def test_apgd_climbs_where_the_loss_is_zero_in_float32():
    here = scene(dtype=torch.float32)
    with torch.no_grad():
        gaps = here.model(here.images).topk(2).values.diff().abs()
        for parameter in here.model[3].parameters():
            parameter.mul_(25 / gaps.median())
        logits = here.model(here.images)
    confident = nn.functional.cross_entropy(logits, here.labels, reduction="none") == 0
    assert confident.sum() > 3
    found = here.struck(ApgdUntargeted(steps=20), Threat("linf", 16 / 255))
    assert here.fallen(found.worst)[confident].all()


@each_threat
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_hyperplane_is_crossed_exactly_where_it_is_near_enough(threat, loss):
    model, points, ratio = hyperplane(threat)
    source = Source([model], 12)
    found = ApgdUntargeted(loss=loss)(source, points, threat)
    with torch.no_grad():
        fallen = misread(model(found.worst), points.labels)
    assert fallen.tolist() == (ratio < 1).tolist()


def hyperplane(threat):
    """Images on both sides of a hyperplane, and their distance to it in radii of the threat."""
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
    return model, Points.of(images.reshape(-1, 3, 16, 16), labels, range(12)), ratio


@each_threat
def test_random_starts_lie_on_the_ball_and_come_from_their_own_seeds(threat):
    images = torch.full((3, 3, 16, 16), 0.5, dtype=torch.float64)
    points = Points.of(images, torch.zeros(3, dtype=torch.long), [7, 8, 7])
    starts = random_start(points, threat)
    assert torch.equal(starts[0], starts[2])
    assert not torch.equal(starts[0], starts[1])
    assert not torch.equal(starts, random_start(points.stage(1), threat))
    expected = torch.full((3,), threat.epsilon, dtype=torch.float64)
    torch.testing.assert_close(distances(starts, images)[threat.norm], expected)
    single = random_start(replace(points, images=images.float()), threat)
    torch.testing.assert_close(single, starts.float(), rtol=0, atol=1e-7)


def test_ratios_do_not_change_with_scale_or_shift_and_cross_entropy_does():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 7, generator=generator, dtype=torch.float64)
    labels, targets = torch.arange(6), (torch.arange(6) + 3) % 7
    changed = 40 * logits - 11
    torch.testing.assert_close(dlr(changed, labels), dlr(logits, labels))
    torch.testing.assert_close(
        targeted_dlr(changed, labels, targets), targeted_dlr(logits, labels, targets)
    )
    assert not torch.allclose(cross_entropy(changed, labels), cross_entropy(logits, labels))
