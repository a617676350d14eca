"""FAB-T held to its authors step by step, its hyperplane to exact optima, its answers to the threat."""

import math

import jaxtyping
import pytest
import torch
from attack_scene import BALLS, Recorder, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.fab_pt import FABAttack_PT
from torch import nn

from orchestrator.attacks.answer import Answer, misread
from orchestrator.attacks.attack import Points
from orchestrator.attacks.gradient.fab import FabTargeted
from orchestrator.attacks.gradient.hyperplane import step_onto
from orchestrator.attacks.source import Source
from orchestrator.attacks.targets import wrong_classes
from orchestrator.attacks.threat import Threat, check_threat, distances

each_threat = pytest.mark.parametrize("threat", BALLS.values(), ids=BALLS)
each_norm = pytest.mark.parametrize("norm", ["linf", "l2", "l1"])


def bent(seed, classes=5):
    """A model that bends between an image and its boundary, and points it reads right."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(12, 3, 8, 8, generator=generator, dtype=torch.float64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 24), nn.Tanh(), nn.Linear(24, classes)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        labels = net(images).argmax(dim=1)
    return net, Points.of(images, labels, range(12))


@pytest.fixture
def without_type_checks():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def double_by_default(monkeypatch):
    # The authors' loop casts its images by name.
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@each_norm
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.usefixtures("double_by_default")
def test_fab_looks_at_every_image_the_authors_look_at(norm, rank):
    net, points = bent(seed=rank)
    author = Recorder(net)
    theirs = FABAttack_PT(author, norm=norm.replace("l", "L", 1), n_iter=40, targeted=True, device="cpu")
    theirs.target_class = rank + 1
    nearest = theirs.attack_single_run(points.images, points.labels, is_targeted=True)
    ours = Recorder(net)
    source, nothing_inside = Source([ours], 12), Threat(norm, 1e-9)
    answer, wrong = Answer.unmoved(points.images), wrong_classes(source, points)
    FabTargeted(steps=40, targets=1).cross(source, points, nothing_inside, answer, wrong[:, rank - 1 :])
    assert len(ours.shown) == 1 + 2 * 40
    # They ask for the label and for the target class before they start.
    torch.testing.assert_close(
        torch.stack(ours.shown[1:]), torch.stack(author.shown[2:]), rtol=0, atol=1e-8
    )
    judged = torch.stack(ours.shown[2::2])
    fallen = torch.stack([misread(logits, points.labels) for logits in ours.answered[2::2]])
    assert fallen.any(dim=0).sum() > 6, "this scene is meant to be crossed"
    assert not fallen.all(), "and not at every step"
    lengths = torch.stack([distances(image, points.images)[norm] for image in judged])
    best = lengths.where(fallen, math.inf).argmin(dim=0)
    met = fallen.any(dim=0)
    torch.testing.assert_close(judged[best, range(12)][met], nearest[met], rtol=0, atol=1e-8)


@each_norm
@given(seed=st.integers(0, 2**20), height=st.floats(-3, 3))
@settings(max_examples=40, deadline=None)
def test_the_step_onto_a_hyperplane_arrives_inside_the_box_by_the_shortest_way(norm, seed, height):
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(6, 20, generator=generator, dtype=torch.float64)
    points[:, :3] = points[:, :3].round()
    weights = torch.randn(6, 20, generator=generator, dtype=torch.float64)
    weights[:, 5] = 0
    heights = torch.full((6,), height, dtype=torch.float64)
    step = step_onto(points, weights, heights, norm)
    moved = points + step
    assert moved.min() >= -1e-12
    assert moved.max() <= 1 + 1e-12
    assert (step[:, 5] == 0).all()
    towards_zero = torch.where(weights * height > 0, -points, 1 - points) * (weights != 0)
    reach = (weights * towards_zero).sum(dim=1).abs()
    met = (heights + (weights * step).sum(dim=1)).abs() < 1e-9
    assert torch.equal(met, reach >= abs(height))
    torch.testing.assert_close(step[~met], towards_zero[~met])
    # No other way to the plane inside the box is shorter.
    order = {"linf": math.inf, "l2": 2, "l1": 1}[norm]
    for other in _other_ways(points, weights, step, generator)[:, met]:
        assert (other.norm(order, dim=1) >= step[met].norm(order, dim=1) - 1e-9).all()


def _other_ways(points, weights, step, generator):
    """Steps that end on the same plane: small moves within it, kept where they stay in [0, 1]."""
    moves = 0.05 * torch.randn(50, 6, 20, generator=generator, dtype=torch.float64)
    moves -= (moves * weights).sum(-1, keepdim=True) / weights.square().sum(-1, keepdim=True) * weights
    ways = step + moves
    inside = ((points + ways >= 0) & (points + ways <= 1)).all(-1, keepdim=True)
    return torch.where(inside, ways, step.expand_as(ways))


@each_threat
def test_fab_keeps_only_what_is_inside_the_threat_though_it_walks_outside(threat):
    here = scene(n=24).behind(Recorder)
    found = here.struck(FabTargeted(steps=10, targets=3), threat)
    visited = torch.stack([shown for shown in here.model.shown if len(shown) == 24])
    assert (distances(visited[2], here.images)[threat.norm] > threat.epsilon).any()
    check_threat(found.worst, here.images, threat)
    check_threat(found.best, here.images, threat)
    fallen = here.fallen(found.worst)
    assert 3 < fallen.sum() < 24


@each_threat
@pytest.mark.usefixtures("without_type_checks")
def test_fab_given_up_early_breaks_as_much_and_looks_less(threat):
    here = scene(n=24)
    whole, less = here.source(), here.source()
    broken = here.fallen(FabTargeted()(whole, here.points(), threat).worst)
    assert torch.equal(here.fallen(FabTargeted(give_up=True)(less, here.points(), threat).worst), broken)
    assert less.forwards[~broken].sum() < 0.5 * whole.forwards[~broken].sum()
