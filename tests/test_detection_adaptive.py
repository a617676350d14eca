"""Attackers who know the bank: survivors of local draws, and evasion of classifier and bank together."""

import numpy as np
import pytest
import torch
from detection_scene import Watched, watched

from orchestrator.attacks.attack import Points
from orchestrator.attacks.gradient.targeted_fgsm import TargetedFgsm
from orchestrator.attacks.source import Source
from orchestrator.attacks.threat import Threat, check_threat
from orchestrator.detection.evasion import Evasion, average_ratio, look_at, orthogonal
from orchestrator.detection.fit import fit_bank
from orchestrator.detection.survivors import stopped_by_static, stopped_in_draws, survival
from orchestrator.errors import StudyError

THREAT = Threat("linf", 16 / 255)


@pytest.fixture
def scene() -> Watched:
    return watched()


@pytest.fixture(scope="module")
def bank():
    scene = watched()
    return fit_bank(scene.model, scene.fit(), scene.feed)


def test_independent_draws_stop_survivors_as_often_as_anyone():
    generator = torch.Generator().manual_seed(0)
    stopped = torch.rand(2000, 12, generator=generator) < 0.3
    for found in survival(stopped, (0, 1, 5)):
        assert found.stopped.low <= 0.3 <= found.stopped.high
        assert found.passed == pytest.approx(0.7**found.earlier, abs=0.03)


def test_a_detector_that_draws_nothing_new_stops_no_survivor():
    stopped = (torch.arange(100) < 60)[:, None].expand(100, 8)
    before, after = survival(stopped, (0, 3))
    assert before.stopped.rate == 0.6
    assert (after.passed, after.stopped.rate) == (0.4, 0.0)


def test_shares_are_those_of_every_choice_of_draws_counted_out():
    stopped = torch.rand(9, 5, generator=torch.Generator().manual_seed(1)) < 0.4
    passed = caught = 0
    for image in stopped.tolist():
        for a, b, fresh in [
            (a, b, c) for a in range(5) for b in range(5) for c in range(5) if len({a, b, c}) == 3
        ]:
            passed += not image[a] and not image[b]
            caught += not image[a] and not image[b] and image[fresh]
    found = survival(stopped, (2,))[0]
    assert found.stopped.rate == pytest.approx(caught / passed)
    assert found.passed == pytest.approx(passed / (9 * 60))


def test_of_images_that_never_pass_nothing_is_said():
    found = survival(torch.ones(5, 4, dtype=torch.bool), (0, 1))
    assert found[0].stopped.rate == 1
    assert np.isnan(found[1].stopped.rate)
    with pytest.raises(StudyError, match="Of 4 draws, 4 cannot be passed"):
        survival(torch.ones(5, 4, dtype=torch.bool), (0, 4))


def test_fresh_draws_stop_some_of_what_passed_and_a_static_detector_none(scene, bank):
    shown = bank.read(scene.model, scene.attacked["test"].images)
    stopped = stopped_in_draws(bank, shown, 12, rate=0.05)
    found = survival(stopped, (0, 1, 5))
    assert found[0].stopped.rate > found[1].stopped.rate > found[2].stopped.rate > 0
    held_out = bank.read(scene.model, scene.clean["held-out"].images)
    static = stopped_by_static(bank, held_out, shown, rate=0.05)
    assert 0.1 < static.double().mean() < 0.9
    assert torch.equal(static, stopped_by_static(bank, held_out, shown, rate=0.05))
    clean = bank.read(scene.model, scene.clean["test"].images)
    assert stopped_by_static(bank, held_out, clean, rate=0.05).double().mean() < 0.15


def points_of(scene, count=40):
    clean = scene.clean["test"]
    images, labels = clean.images[:count], clean.labels[:count]
    # Towards the classes that have fingerprints of their own, or the pool.
    return Points.of(images, labels, range(count)).towards((labels + 1) % 3)


def test_the_gradient_of_the_bank_is_that_of_the_average_over_draws(scene, bank):
    points = points_of(scene, 4)
    look = look_at(scene.model, bank, points.images, points.targets)
    readout = bank.read(scene.model, points.images)
    rows = bank.fingerprints.row_of[points.targets]
    read = readout.classes == points.targets
    ratio = average_ratio(bank, readout.values, readout.rows)
    seeds = [torch.full((4,), 77 * draw) + torch.arange(4) for draw in range(800)]
    sampled = torch.stack([bank.scores(readout, of_draw, "ratio") for of_draw in seeds])
    error = sampled.std(dim=0) / len(seeds) ** 0.5
    assert ((sampled.mean(dim=0) - ratio).abs() < 4.5 * error).all()
    assert torch.allclose(look.ratio[read], ratio[read])
    # A small step along each gradient raises what it is the gradient of, by its own length.
    for gradient, name in ((look.to_clean, "ratio"), (look.to_target, "lead")):
        step = 1e-3 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
        ahead = look_at(scene.model, bank, points.images + step, points.targets)
        assert (getattr(ahead, name) > getattr(look, name)).all()
    assert len(rows) == 4


def test_what_is_orthogonal_leaves_the_other_loss_alone():
    one, other = torch.randn(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    left = orthogonal(one, other)
    torch.testing.assert_close((left * other).flatten(1).sum(dim=1), torch.zeros(5), atol=1e-5, rtol=0)
    assert torch.equal(orthogonal(one, torch.zeros_like(one)), one)


def test_evasion_fools_classifier_and_bank_together_inside_the_threat(scene, bank):
    points = points_of(scene)
    states, hooks = torch.get_rng_state(), [len(m._forward_hooks) for m in scene.model.modules()]
    wide = Threat("linf", 32 / 255)
    moved = Evasion(steps=20, rule="ratio")(scene.model, bank, points, wide)
    assert torch.equal(torch.get_rng_state(), states)
    assert [len(m._forward_hooks) for m in scene.model.modules()] == hooks
    assert all(p.grad is None for p in scene.model.parameters())
    check_threat(moved, points.images, wide)
    verdict = bank.judge(scene.model, moved, rate=0.05, seed=3)
    fooled = verdict.classes == points.targets
    assert fooled.double().mean() > 0.5
    unaware = TargetedFgsm(steps=20)(Source([scene.model], len(points)), points, wide).worst
    assert verdict.flag[fooled].double().mean() < 0.4
    ratios = [
        look_at(scene.model, bank, images, points.targets).ratio[fooled] for images in (moved, unaware)
    ]
    assert ratios[0].mean() > ratios[1].mean() + 3
    assert bank.judge(scene.model, unaware, rate=0.05, seed=3).flag.sum() > 2 * verdict.flag.sum()


def test_evasion_of_a_bank_that_minds_correlations_raises_the_score_that_judges(scene):
    fit = scene.fit(rule="shrunk-ratio")
    bank, points = fit_bank(scene.model, fit, scene.feed), points_of(scene)
    wide = Threat("linf", 32 / 255)
    knowing = Evasion(steps=20, rule="shrunk-ratio", draws=2)(scene.model, bank, points, wide)
    unaware = TargetedFgsm(steps=20)(Source([scene.model], len(points)), points, wide).worst
    verdicts = [bank.judge(scene.model, moved, rate=0.05, seed=3) for moved in (knowing, unaware)]
    fooled = [verdict.classes == points.targets for verdict in verdicts]
    assert fooled[0].double().mean() > 0.5
    stopped = [v.flag[f].double().mean() for v, f in zip(verdicts, fooled, strict=True)]
    assert stopped[0] < 0.5 * stopped[1]


def test_evasion_depends_on_no_neighbour(scene, bank):
    points = points_of(scene, 6)
    rows = torch.tensor([4, 1, 2])
    whole = Evasion(steps=4, rule="ratio")(scene.model, bank, points, THREAT)
    part = Evasion(steps=4, rule="ratio")(scene.model, bank, points.part(rows), THREAT)
    assert (whole[rows] - part).abs().mean() < 1e-3  # signs of gradients near 0 may flip by a rounding


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"step": 0.0}, {"step": 2.0}, {"lead": -1.0}, {"rule": "vote"}]
)
def test_settings_that_make_no_attack_are_refused(changes):
    with pytest.raises(StudyError, match="of Evasion is"):
        Evasion(**changes)
