"""The ℓ1 ball: its projection by the condition that defines it, and APGD on it held to its authors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack import autopgd_base
from pyautoattack.autopgd_base import APGDAttack, L1_projection
from torch import nn

from orchestrator.attacks.answer import Answer
from orchestrator.attacks.attack import Points
from orchestrator.attacks.gradient.apgd_l1 import ApgdL1
from orchestrator.attacks.gradient.apgd_untargeted import ApgdUntargeted
from orchestrator.attacks.l1 import project_l1
from orchestrator.attacks.losses import cross_entropy
from orchestrator.attacks.source import Source
from orchestrator.attacks.starts import random_start
from orchestrator.attacks.threat import Threat, check_threat, distances
from orchestrator.attacks.walk import walk


def farthest_along(way, images, epsilon):
    """The highest product of ``way`` with a step inside the ball and the box: the best pixels first."""
    room = torch.where(way > 0, 1 - images, images).flatten(1)
    steep, order = way.abs().flatten(1).sort(dim=1, descending=True)
    room = room.gather(1, order)
    taken = (epsilon - (room.cumsum(dim=1) - room)).clamp_min(0).minimum(room)
    return (steep * taken).sum(dim=1)


@given(
    epsilon=st.floats(0.01, 30),
    reach=st.sampled_from([0.0, 0.01, 0.3, 3.0]),
    grid=st.sampled_from([0, 2, 5]),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=150, deadline=None)
def test_the_projection_is_the_nearest_point_of_ball_and_box(epsilon, reach, grid, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(4, 3, 4, 5, generator=generator, dtype=torch.float64)
    moved = images + reach * torch.randn(images.shape, generator=generator, dtype=torch.float64)
    if grid:
        # Pixels on the walls, equal steps, and pixels that are not moved.
        images, moved = (images * grid).round() / grid, (moved * grid).round() / grid
    found = project_l1(moved, images, epsilon)
    check_threat(found, images, Threat("l1", epsilon))
    # A point of a convex set is nearest exactly where no other point of it lies further on the way out.
    way = moved - found
    reached = (way * (found - images)).flatten(1).sum(dim=1)
    assert (farthest_along(way, images, epsilon) - reached).max() <= 1e-9 * (1 + reach) * (1 + epsilon)
    again = project_l1(found, images, epsilon)
    torch.testing.assert_close(again, found, rtol=0, atol=1e-12)


@given(epsilon=st.floats(0.5, 20), reach=st.floats(0.05, 2), seed=st.integers(0, 2**20))
@settings(max_examples=50, deadline=None)
def test_the_projection_is_the_authors(epsilon, reach, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(5, 3, 8, 8, generator=generator)
    step = reach * torch.randn(images.shape, generator=generator)
    # In float32, where their sums drift by some 1e-5.
    theirs = images + step + L1_projection(images, step, epsilon)
    ours = project_l1(images + step, images, epsilon)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_a_large_image_in_float32_stays_inside_the_ball():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 224, 224, generator=generator)
    for reach in (0.001, 0.1, 10.0):
        moved = images + reach * torch.randn(images.shape, generator=generator)
        found = project_l1(moved, images, 12.0)
        check_threat(found, images, Threat("l1", 12.0))
        assert (distances(found, images)["l1"] > 11.99).all()


@pytest.fixture
def authors_without_rounding(monkeypatch):
    """The authors' loop in float64, with a projection and a count of moved pixels free of rounding.

    Theirs works in float32, and ``x + (y - x) - (y - x)`` need not be x again, so that their count takes
    in pixels that are moved by a rounding alone.
    """
    torch.set_default_dtype(torch.float64)

    def nearest(images, step, epsilon):
        return project_l1(images + step, images, epsilon) - images - step

    def count(step):
        return (step.abs() > 1e-12).flatten(1).sum(dim=1)

    monkeypatch.setattr(autopgd_base, "L1_projection", nearest)
    monkeypatch.setattr(autopgd_base, "L0_norm", count)
    yield
    torch.set_default_dtype(torch.float32)


def _objective(logits, labels, targets):
    return cross_entropy(logits, labels)


@pytest.mark.parametrize("steps", [1, 10, 100])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.usefixtures("authors_without_rounding")
def test_apgd_follows_the_authors_example_by_example(steps, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(12, 3, 16, 16, generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 24), nn.Tanh(), nn.Linear(24, 5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        labels = model(images).argmax(dim=1)
        labels[:2] = (labels[:2] + 1) % 5
    threat = Threat("l1", 6.0)
    theirs = APGDAttack(model, n_iter=steps, norm="L1", eps=threat.epsilon, device="cpu")
    theirs.init_hyperparam(images)
    points = Points.of(images, labels, range(12))
    # A start where many pixels move and one where few do; then one that is hard to improve on.
    start = random_start(points, threat)
    start[6:] = project_l1(
        images[6:] + 0.5 * torch.rand(6, 3, 16, 16, generator=generator), images[6:], 6.0
    )
    for _ in range(2):
        best, never_misread, best_loss, _ = theirs.attack_single_run(images, labels, x_init=start)
        answer = Answer.unmoved(images)
        here = Points.of(images, labels, range(12), start)
        source = Source([model], 12, batch=5)
        walk(source, here, ApgdL1(threat, steps, _objective), answer, early=False)
        torch.testing.assert_close(answer.best, best, rtol=0, atol=1e-9)
        torch.testing.assert_close(answer.best_loss, best_loss, rtol=1e-9, atol=1e-9)
        assert torch.equal(answer.misread, never_misread == 0)
        start = best


class Watched(nn.Module):
    """A linear model that remembers what it was shown."""

    def __init__(self, net):
        super().__init__()
        self.net, self.shown = net, []

    def forward(self, images):
        self.shown.append(images.detach().clone())
        return self.net(images)


def test_a_run_comes_from_wide_balls_and_offers_nothing_seen_outside():
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(3, 3, 8, 8, generator=generator, dtype=torch.float64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        labels = net(images).argmax(dim=1)
    model, threat = Watched(net), Threat("l1", 0.5)
    source = Source([model], 3)
    found = ApgdUntargeted(steps=20)(source, Points.of(images, labels, range(3)), threat)
    reached = torch.stack([distances(shown, images)["l1"] for shown in model.shown]).amax(dim=1)
    torch.testing.assert_close(reached[:6], torch.full_like(reached[:6], 1.5))
    torch.testing.assert_close(reached[6:12], torch.full_like(reached[6:12], 1.0))
    assert (reached[12:] < 0.5 + 1e-9).all()
    assert source.backwards.tolist() == [21] * 3
    check_threat(found.best, images, threat)
    model.shown.clear()
    warm = Points.of(images, labels, range(3), images.clone())
    ApgdUntargeted(steps=20)(source, warm, threat)
    assert torch.equal(model.shown[0], images), "a start that is given is where a run begins"
