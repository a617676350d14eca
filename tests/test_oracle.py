"""AutoAttack on its authors' code: theirs where they are right, ours where ties and batches matter."""

from dataclasses import replace

import pytest
import torch
from attack_scene import THREATS, Recorder, Rounded, RowByRow, scene
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import nn

from orchestrator.attacks.answer import misread
from orchestrator.attacks.attack import Points
from orchestrator.attacks.oracle.auto_attack import AutoAttackStandard
from orchestrator.attacks.oracle.loops import Standing, fab_to, stages
from orchestrator.attacks.source import Source
from orchestrator.attacks.targets import wrong_classes
from orchestrator.attacks.threat import Threat, check_threat

EUCLIDEAN = {name: THREATS[name] for name in ("linf", "l2")}
each_threat = pytest.mark.parametrize("threat", EUCLIDEAN.values(), ids=EUCLIDEAN)


@each_threat
def test_autoattack_leaves_alone_what_it_did_not_break(threat):
    here = scene(n=24)
    here.labels[:3] = (here.labels[:3] + 1) % 10
    before = here.fallen(here.images)
    moved = here.struck(AutoAttackStandard(steps=6, queries=25), threat).worst
    was_moved = (moved != here.images).flatten(1).any(dim=1)
    assert torch.equal(was_moved, here.fallen(moved) & ~before)
    assert 0 < was_moved.sum() < 24 - before.sum()
    assert torch.equal(moved[~was_moved], here.images[~was_moved])


@each_threat
@pytest.mark.parametrize(("classes", "scale"), [(4, 1.8), (10, 1)])
def test_autoattack_breaks_the_images_the_authors_break(threat, classes, scale):
    here = scene(classes, n=24, dtype=torch.float32)
    weak = Threat(threat.norm, threat.epsilon * scale)
    ours = here.struck(AutoAttackStandard(steps=20, queries=50), weak).worst
    common = {"norm": threat.norm.replace("l", "L", 1), "eps": weak.epsilon, "device": "cpu"}
    targets = {"n_target_classes": min(9, classes - 1)}
    broken = torch.zeros(24, dtype=torch.bool)
    with torch.random.fork_rng():
        for theirs in (
            APGDAttack(here.model, n_iter=20, **common),
            APGDAttack_targeted(here.model, n_iter=20, **targets, **common),
            FABAttack_PT(here.model, n_iter=20, targeted=True, **targets, **common),
            SquareAttack(here.model, n_queries=50, resc_schedule=False, **common),
        ):
            broken |= here.fallen(theirs.perturb(here.images, here.labels))
    assert 0 < broken.sum() < 24
    assert torch.equal(here.fallen(ours), broken)


STAGES = stages(10, steps=6, queries=30, windows_seed=0)
each_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)


def standing(here, threat):
    source = here.source()
    wrong = wrong_classes(source, here.points())
    rows = torch.arange(len(here.labels))
    return Standing(source=source, rows=rows, points=here.points(), wrong=wrong, threat=threat)


@each_threat
@each_stage
def test_no_stage_lets_an_image_depend_on_its_neighbours(threat, stage):
    here = scene(dtype=torch.float32).behind(RowByRow)
    # Half-way between two classes, so that Square breaks some images early, others late or never.
    here = replace(here, images=(here.images + here.images.roll(1, 0)) / 2)
    with torch.no_grad():
        here = replace(here, labels=here.model(here.images).argmax(dim=1))
    with torch.no_grad(), torch.random.fork_rng():
        together = stage(standing(here, threat))
        torch.rand(5)
        some = [7, 2, 9]
        apart = stage(standing(here.of(some), threat))
    assert torch.equal(apart, together[some])


@each_threat
@each_stage
def test_no_stage_takes_a_tie_or_a_distant_image_for_a_success(threat, stage):
    here = scene(n=24, dtype=torch.float32).behind(lambda model: Recorder(Rounded(model, step=0.5)))
    points = standing(here, threat)
    here.model.shown.clear(), here.model.answered.clear()
    with torch.no_grad(), torch.random.fork_rng():
        found = stage(points)
    check_threat(found, here.images, threat)
    if stage.func is fab_to:
        moved = (found != here.images).flatten(1).any(dim=1)
        assert torch.equal(moved, here.fallen(found))
    else:
        whole = [i for i, shown in enumerate(here.model.shown) if len(shown) == len(here.images)]
        ever = torch.stack([misread(here.model.answered[i], here.labels) for i in whole]).any(dim=0)
        assert not (ever & ~here.fallen(found)).any()


def test_a_tie_between_the_label_and_another_class_goes_to_the_label():
    class Given(nn.Module):
        def forward(self, images):
            return images[:, 0, 0, :4] * 1

    images = torch.rand(400, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    images = (images * 4).round()
    labels = torch.arange(400) % 4
    given = Points.of(images, labels, range(400))
    source = Source([Given()], 400, batch=400)
    points = Standing(
        source=source,
        rows=torch.arange(400),
        points=given,
        wrong=wrong_classes(source, given),
        threat=THREATS["linf"],
    )
    wrong = misread(points.logits(images), labels)
    top = points.logits(images).topk(2).values
    assert (top[:, 0] == top[:, 1]).sum() > 50
    assert torch.equal(points.logits_without_ties(images).argmax(dim=1) != labels, wrong)


@each_threat
def test_autoattack_lets_no_tie_pass_for_a_success(threat):
    class AllTied(nn.Module):
        def forward(self, images):
            return images.flatten(1).sum(dim=1, keepdim=True).expand(-1, 5) * 1.0

    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels, model = torch.tensor([0, 1, 3, 4]), Recorder(AllTied())
    points = Points.of(images, labels, range(4))
    moved = AutoAttackStandard(steps=3, queries=9)(Source([model], 4), points, threat).worst
    assert torch.equal(moved, images)
    shown_to_square = model.shown[-11:-1]
    assert [len(shown) for shown in shown_to_square] == [4] * 10
