"""Threats: written and read, obeyed by projection, climbed as ladders."""

import pytest
import torch
from attack_scene import BALLS
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.attacks.threat import Ladder, Threat, check_threat, project
from orchestrator.errors import ThreatError, ThreatViolated

each_threat = pytest.mark.parametrize("threat", BALLS.values(), ids=BALLS)


@given(st.integers(1, 255))
def test_a_threat_in_levels_survives_being_written_and_read(level):
    threat = Threat("linf", level / 255)
    assert Threat.parse(str(threat)) == threat
    assert str(threat) == f"linf:{level}/255"
    assert threat.slug == f"linf-{level}of255"


@given(st.sampled_from(["linf", "l2", "l1"]), st.decimals("0.001", 1, places=5))
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
        ("patch:2.5", "no whole pixels"),
        ("patch:0", "not a positive number"),
        ("spatial:0.7", "more than 180°"),
        ("colour:8", "Did you mean colour:8/255"),
    ],
)
def test_a_threat_nothing_can_obey_is_refused_with_a_sentence(text, sentence):
    with pytest.raises(ThreatError, match=sentence):
        Threat.parse(text)


def test_an_unknown_norm_is_refused():
    # The run-time check of types, on in tests, may see it before we do.
    with pytest.raises((ThreatError, TypeError)):
        Threat.parse("l7:0.5")


@given(
    norm=st.sampled_from(["linf", "l2", "l1"]),
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
    outside[1] += 1.01 * threat.epsilon / {"linf": 1, "l2": 768**0.5, "l1": 768}[threat.norm]
    with pytest.raises(ThreatViolated, match="moved an image by"):
        check_threat(outside, images, threat)


@pytest.mark.parametrize("value", [-0.001, 1.001, float("nan"), float("inf")])
def test_leaving_the_range_of_pixels_is_a_defect(value):
    images = torch.zeros(1, 3, 4, 4)
    moved = images.clone()
    moved[0, 0, 0, 0] = value
    with pytest.raises(ThreatViolated, match=r"left \[0, 1\]"):
        check_threat(moved, images, Threat("l2", 3.0))


@pytest.mark.parametrize(
    ("text", "slug", "radii"),
    [
        ("linf:8/255", "linf-8of255", [8 / 255]),
        ("linf:1/255,2/255,0.5", "linf-1of255-2of255-0.5", [1 / 255, 2 / 255, 0.5]),
        ("l2:0.5,2", "l2-0.5-2", [0.5, 2.0]),
        ("patch:4,8", "patch-4-8", [4.0, 8.0]),
        ("spatial:0.05,0.1", "spatial-0.05-0.1", [0.05, 0.1]),
        ("colour:8/255,16/255", "colour-8of255-16of255", [8 / 255, 16 / 255]),
    ],
)
def test_a_ladder_is_written_as_its_radii(text, slug, radii):
    ladder = Ladder.parse(text)
    assert [threat.epsilon for threat in ladder.threats] == radii
    assert (str(ladder), ladder.slug) == (text, slug)
    assert Ladder.parse(str(ladder)) == ladder


@pytest.mark.parametrize("text", ["linf:2/255,1/255", "l2:1,1", "linf:1/255,", "linf:,1/255", "l7:1,2"])
def test_what_does_not_ascend_is_no_ladder(text):
    with pytest.raises((ThreatError, TypeError)):
        Ladder.parse(text)
