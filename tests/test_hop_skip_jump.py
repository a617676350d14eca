"""HopSkipJump against hyperplanes, whose distance is known, and the packing of questions into batches."""

from functools import partial
from itertools import count

import pytest
import torch
from attack_scene import Recorder, TwoClasses
from torch import nn

from orchestrator.attacks.answer import misread
from orchestrator.attacks.attack import Points
from orchestrator.attacks.query.dialogue import converse
from orchestrator.attacks.query.hop_skip_jump import HopSkipJump, _away, _step, _to_boundary
from orchestrator.attacks.source import Source
from orchestrator.attacks.threat import Threat, check_threat, distances, project
from orchestrator.errors import StudyError

THREATS = {"linf": Threat("linf", 4 / 255), "l2": Threat("l2", 0.2)}
each_threat = pytest.mark.parametrize("threat", THREATS.values(), ids=THREATS)


def plane(side=8):
    weight = torch.randn(3 * side * side, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return TwoClasses(weight, float(weight.sum()) / 2)


def beside(model, norm, away):
    """Images of class 1 at these distances from the hyperplane, and far from 0 and 1."""
    weight = model.weight.detach()
    # The distance to a hyperplane in a norm is its lead over the dual norm of its weight.
    dual = weight.abs().sum() if norm == "linf" else weight.norm()
    images = (
        0.5 + (torch.tensor(away, dtype=torch.float64) * dual)[:, None] * weight / weight.square().sum()
    )
    side = int((len(weight) / 3) ** 0.5)
    return Points.of(images.view(-1, 3, side, side), torch.ones(len(away)).long(), range(len(away)))


def answered(dialogue, model, labels):
    """What a part of a dialogue comes to, and everything that it asked."""
    asked, bits = [], None
    while True:
        try:
            asked.append(dialogue.send(bits))
        except StopIteration as end:
            return end.value, asked
        bits = misread(model(asked[-1]).detach(), labels.expand(len(asked[-1])))


@each_threat
def test_a_hyperplane_is_crossed_where_it_is_near_and_nowhere_beyond_the_threat(threat):
    model = plane()
    ratio = [0.3, 0.5, 0.6, 0.75, 1.02, 1.5]
    points = beside(model, threat.norm, [r * threat.epsilon for r in ratio])
    source = Source([model], 6, access="decisions")
    found = HopSkipJump(queries=2500)(source, points, threat).worst
    check_threat(found, points.images, threat)
    assert misread(model(found).detach(), points.labels).tolist() == [r < 1 for r in ratio]
    assert source.forwards[4:].tolist() == [2500] * 2
    assert (source.forwards[:4] < 2500).all()


@each_threat
def test_bisection_ends_at_the_boundary_on_its_misread_side(threat):
    model = plane()
    points = beside(model, threat.norm, [3 * threat.epsilon])
    far = 1 - points.images
    edge, asked = answered(_to_boundary(points.images, far, threat), model, points.labels)
    assert misread(model(edge).detach(), points.labels).all()
    lead = model(torch.cat([edge, far])).detach().diff(dim=1).abs()
    assert lead[0] < 1e-3 * lead[1]
    assert torch.equal(asked[0], project(far, points.images, threat)), "the threat itself is asked first"
    assert all(len(images) == 1 for images in asked)
    assert len(asked) < 20


@each_threat
def test_decisions_tell_the_way_across_the_boundary(threat):
    model = plane()
    points = beside(model, threat.norm, [0.0])
    ways = [
        answered(_away(points, points.images, threat.norm, tried, 0.01, count()), model, points.labels)
        for tried in (100, 3000)
    ]
    best = -model.weight.detach()
    best = best.sign() if threat.norm == "linf" else best / best.norm()
    agreement = [float((way.flatten() @ best) / (way.norm() * best.norm())) for way, _ in ways]
    # Of n directions in d numbers the expected cosine is about the root of x / (1 + x), x = 2n / πd.
    assert 0.3 < agreement[0] < 0.65
    assert agreement[1] > (0.8 if threat.norm == "linf" else 0.94)
    assert [sum(map(len, asked)) for _, asked in ways] == [100, 3000]
    assert {len(images) for images in ways[0][1]} == {16, 4}


@pytest.mark.parametrize("side", [1, -1])
def test_where_all_directions_agree_their_mean_is_the_way(side):
    class Always(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :1] * 0 + side * torch.tensor([[1.0, -1.0]], dtype=images.dtype)

    points = beside(plane(), "l2", [0.0])
    way, asked = answered(_away(points, points.images, "l2", 16, 0.01, count()), Always(), points.labels)
    mean = (asked[0] - points.images).mean(dim=0)
    torch.testing.assert_close(way[0], side * mean / mean.norm())


@pytest.mark.parametrize(("until", "end", "asked"), [(0.21, 0.2, 4), (0.0, 0.15, 24)])
def test_a_step_is_halved_until_it_is_misread_or_is_none(until, end, asked):
    class Dark(nn.Module):
        def forward(self, images):
            mean = images.flatten(1).mean(dim=1, keepdim=True)
            return torch.cat([until - mean, 0 * mean], dim=1)

    edge = torch.full((1, 3, 4, 4), 0.15, dtype=torch.float64)
    far, questions = answered(_step(edge, torch.ones_like(edge), 0.4), Dark(), torch.tensor([1]))
    torch.testing.assert_close(far, torch.full_like(edge, end))
    assert len(questions) == asked


@pytest.mark.parametrize("queries", [1, 2, 7, 150])
@pytest.mark.parametrize("batch", [1, 5, 64])
def test_every_question_is_asked_and_none_beyond_the_budget(queries, batch):
    model = Recorder(plane())
    # The first two are far from the boundary; the last is misread as it is.
    points = beside(model.net, "l2", [1.0, 1.0, -0.1])
    source = Source([model], 3, batch=batch, access="decisions")
    found = HopSkipJump(queries=queries, probes=20)(source, points, THREATS["l2"]).worst
    assert source.forwards.tolist() == [queries, queries, 1]
    assert torch.equal(found[2], points.images[2])
    assert max(len(shown) for shown in model.shown) <= batch


def test_questions_about_many_images_share_their_batches():
    model = Recorder(plane())
    points = beside(model.net, "l2", [1.0] * 32)
    source = Source([model], 32, batch=16, access="decisions")
    HopSkipJump(queries=100, probes=20)(source, points, THREATS["l2"])
    assert source.forwards.tolist() == [100] * 32
    assert len(model.shown) < 1.3 * 32 * 100 / 16


def test_a_misread_start_is_the_answer_to_the_second_question():
    model = plane()
    points = beside(model, "l2", [0.15, 0.15])
    start = beside(model, "l2", [-0.01, 0.1]).images
    points = Points.of(points.images, points.labels, range(2), start)
    source = Source([model], 2, access="decisions")
    found = HopSkipJump(queries=40)(source, points, THREATS["l2"]).worst
    assert torch.equal(found[0], start[0])
    assert source.forwards.tolist() == [2, 40]


def test_a_class_that_takes_all_noise_is_left_by_a_blend():
    class Grey(nn.Module):
        """Misreads images of medium contrast alone, as flat ones blended with noise are."""

        def forward(self, images):
            contrast = images.flatten(1).std(dim=1, keepdim=True)
            return torch.cat([0.1 - (contrast - 0.12).abs(), 0 * contrast], dim=1)

    images = torch.full((3, 3, 8, 8), 0.5)
    points = Points.of(images, torch.ones(3).long(), range(3))
    source = Source([Grey()], 3, access="decisions")
    found = HopSkipJump(queries=30)(source, points, Threat("linf", 0.2)).worst
    assert misread(Grey()(found), points.labels).all()


def test_what_falls_first_is_what_is_answered_and_later_questions_are_not_asked():
    def countdown(point):
        for step in range(1, 9):
            yield (point.images + 0.01 * step).repeat(2, 1, 1, 1)

    class Above(nn.Module):
        def forward(self, images):
            mean = images.flatten(1).mean(dim=1, keepdim=True)
            return torch.cat([0 * mean, mean - 0.545], dim=1)

    points = Points.of(torch.full((2, 3, 4, 4), 0.5), torch.zeros(2).long(), range(2))
    asking = partial(converse, points=points, begin=countdown, queries=100)
    source = Source([Above()], 2, batch=3, access="decisions")
    found = asking(source, threat=Threat("linf", 0.1))
    torch.testing.assert_close(found, points.images + 0.05)
    assert source.forwards.tolist() == [11, 11]
    # Misread, but outside: the dialogues end by themselves, and the nearest is brought inside.
    source = Source([Above()], 2, batch=3, access="decisions")
    found = asking(source, threat=Threat("linf", 0.02))
    torch.testing.assert_close(found, points.images + 0.02)
    assert distances(found, points.images)["linf"].max() < 0.0201
    assert source.forwards.tolist() == [17, 17]


@pytest.mark.parametrize("wrong", [{"queries": 0}, {"probes": 1}])
def test_too_few_questions_are_refused_with_a_sentence(wrong):
    with pytest.raises(StudyError, match="Give at least"):
        HopSkipJump(**wrong)
