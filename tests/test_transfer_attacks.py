"""Transfer attacks: what each comes to where its idea is taken out, and what its views show."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from attack_scene import THREATS, Recorder, scene

from orchestrator.attacks import parse_attack
from orchestrator.attacks.attack import Points
from orchestrator.attacks.losses import cross_entropy
from orchestrator.attacks.starts import steepest
from orchestrator.attacks.threat import Threat, project
from orchestrator.attacks.transfer.bsr import BlockShuffleRotate
from orchestrator.attacks.transfer.di_fgsm import DiverseInputsFgsm
from orchestrator.attacks.transfer.sia import StructureInvariant
from orchestrator.attacks.transfer.strips import cut
from orchestrator.attacks.transfer.ti_fgsm import blurred, weights
from orchestrator.errors import StudyError

LINF, L2 = THREATS["linf"], THREATS["l2"]
each_threat = pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])
each_view = pytest.mark.parametrize(
    "attack",
    [DiverseInputsFgsm(probability=1.0, canvas=1.5), BlockShuffleRotate(blocks=3), StructureInvariant()],
    ids=["di-fgsm", "bsr", "sia"],
)


def struck(text, threat, here=None, **options):
    here = here or scene()
    return here.struck(parse_attack(text)[1], threat, **options).best


def gradient_at(here, shown):
    shown = shown.clone().requires_grad_()
    cross_entropy(here.model(shown), here.labels).sum().backward()
    here.model.zero_grad()
    return shown.grad


def some_points(height=16, width=16, rows=5):
    generator = torch.Generator().manual_seed(3)
    images = 0.1 + 0.8 * torch.rand(rows, 3, height, width, generator=generator, dtype=torch.float64)
    return Points.of(images, torch.zeros(rows, dtype=torch.long), range(rows))


# What is left of an attack without its idea.


@each_threat
@pytest.mark.parametrize(
    ("with_it", "without"),
    [
        ("mi-fgsm:momentum=0.0", "i-fgsm"),
        ("ni-fgsm:momentum=0.0", "i-fgsm"),
        ("si-fgsm:scales=1", "ni-fgsm"),
        ("vmi-fgsm:neighbours=0", "mi-fgsm"),
        ("vmi-fgsm:neighbours=3,steps=1", "mi-fgsm:steps=1"),
        ("ti-fgsm:kernel=1", "mi-fgsm"),
        ("di-fgsm:probability=0.0", "mi-fgsm"),
        ("di-fgsm:canvas=1.0,probability=1.0", "mi-fgsm"),
        ("bsr:copies=1", "mi-fgsm"),
        ("bsr:blocks=1,degrees=0.0,copies=3", "mi-fgsm"),
        ("sia:copies=1", "mi-fgsm"),
    ],
)
def test_without_its_idea_an_attack_is_the_one_it_grew_from(with_it, without, threat):
    torch.testing.assert_close(struck(with_it, threat), struck(without, threat), rtol=0, atol=1e-12)


@each_threat
@pytest.mark.parametrize(
    ("with_it", "without"),
    [
        ("mi-fgsm", "i-fgsm"),
        ("ni-fgsm", "mi-fgsm"),
        ("si-fgsm", "ni-fgsm"),
        ("vmi-fgsm:neighbours=2", "mi-fgsm"),
        ("ti-fgsm", "mi-fgsm"),
        ("di-fgsm", "mi-fgsm"),
        ("bsr:copies=2", "mi-fgsm"),
        ("bsr:copies=2,degrees=0.0", "bsr:copies=2"),
        ("sia:copies=2", "mi-fgsm"),
    ],
)
def test_every_idea_makes_a_difference_to_every_image(with_it, without, threat):
    moved = struck(with_it, threat) - struck(without, threat)
    assert (moved.flatten(1).abs().amax(dim=1) > 1e-4 * threat.epsilon).all()


# The loop.


@each_threat
def test_one_step_is_the_steepest_of_the_whole_reach(threat):
    here = scene()
    for reach in (1.0, 0.3):
        step = reach * threat.epsilon * steepest(gradient_at(here, here.images), threat)
        moved = struck(f"mi-fgsm:steps=1,reach={reach}", threat)
        torch.testing.assert_close(moved, project(here.images + step, here.images, threat))


@each_threat
def test_steps_follow_the_decayed_sum_of_scaled_gradients(threat):
    here, momentum = scene(), 0.0
    current = here.images
    for _ in range(3):
        gradient = gradient_at(here, current)
        momentum = 0.7 * momentum + gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
        step = 0.6 * threat.epsilon * steepest(momentum, threat)
        current = project(current + step, here.images, threat)
    moved = struck("mi-fgsm:steps=3,reach=1.8,momentum=0.7", threat)
    torch.testing.assert_close(moved, current, rtol=0, atol=1e-12)


def test_an_image_without_a_gradient_keeps_its_momentum_and_harms_no_other():
    class OneBlindSpot(Recorder):
        def forward(self, images):
            seen = len(self.shown)
            blind = torch.tensor([seen != 1] + [True] * (len(images) - 1)).to(images)[:, None]
            return super().forward(images) * blind

    here = scene()
    blinded = struck("mi-fgsm:steps=2", LINF, here.behind(OneBlindSpot))
    once = steepest(gradient_at(here, here.images[:])[:1], LINF) * LINF.epsilon
    torch.testing.assert_close(blinded[:1], project(here.images[:1] + once, here.images[:1], LINF))
    assert torch.equal(blinded[1:], struck("mi-fgsm:steps=2", LINF)[1:])


def test_a_climb_begins_where_it_is_told():
    here, threat = scene(), Threat("linf", LINF.epsilon / 2)
    start = struck("i-fgsm", threat)
    attack = parse_attack("i-fgsm:steps=1,reach=0.25")[1]
    found = attack(here.source(), here.points(start=start), LINF).best
    step = 0.25 * LINF.epsilon * steepest(gradient_at(here, start), LINF)
    torch.testing.assert_close(found, project(start + step, here.images, LINF))


# Looks.


def test_models_are_shown_nothing_outside_the_range_of_pixels():
    here = scene()
    here = replace(here, images=here.images.round()).behind(Recorder)
    settings = {"ni": "", "si": ",scales=2", "vmi": ",neighbours=2", "di": ",probability=1.0"}
    for name, rest in settings.items():
        struck(f"{name}-fgsm:steps=2{rest}", LINF, here)
    for name in ("bsr", "sia"):
        struck(f"{name}:steps=2,copies=3", LINF, here)
    shown = torch.cat(here.model.shown)
    assert shown.min() >= 0
    assert shown.max() <= 1


@each_threat
def test_the_second_look_of_nesterov_is_a_step_ahead(threat):
    here = scene().behind(Recorder)
    struck("ni-fgsm:steps=2", threat, here)
    first = gradient_at(scene(), here.images)
    momentum = first / first.abs().mean(dim=(1, 2, 3), keepdim=True)
    size = threat.epsilon / 2
    moved = project(here.images + size * steepest(first, threat), here.images, threat)
    reach = size if threat.norm == "linf" else size / 768**0.5
    torch.testing.assert_close(here.model.shown[1], (moved + reach * momentum).clamp(0, 1))


def test_scales_halve_the_image_and_gradients_are_taken_to_the_image_itself():
    here = scene().behind(Recorder)
    moved = struck("si-fgsm:steps=1,scales=3", LINF, here)
    total = 0
    for shown, share in zip(here.model.shown, (1, 0.5, 0.25), strict=True):
        assert torch.equal(shown, here.images * share)
        total = total + share * gradient_at(scene(), shown)
    torch.testing.assert_close(moved, project(here.images + LINF.epsilon * total.sign(), here.images, LINF))


@each_threat
def test_neighbours_lie_within_their_radius_and_each_is_another(threat):
    here = scene()
    here = replace(here, images=here.images.clamp(0.2, 0.8)).behind(Recorder)
    struck("vmi-fgsm:steps=2,neighbours=4", threat, here)
    assert len(here.model.shown) == 6  # none at the last step
    apart = torch.stack(here.model.shown[1:5]) - here.images
    if threat.norm == "linf":
        assert (apart.abs().amax(dim=(2, 3, 4)) > 1.4 * threat.epsilon).all()
        assert apart.abs().max() <= 1.5 * threat.epsilon
    else:
        expected = torch.full(apart.shape[:2], 1.5 * threat.epsilon, dtype=torch.float64)
        torch.testing.assert_close(apart.flatten(2).norm(dim=2), expected)
    assert len(apart.flatten(0, 1).unique(dim=0)) == apart.shape[0] * apart.shape[1]


def test_variance_tuning_adds_what_the_neighbours_of_the_last_image_said():
    here = scene().behind(Recorder)
    moved = struck("vmi-fgsm:steps=2,neighbours=2,momentum=0.0", LINF, here)
    start, one, other, second = here.model.shown
    plain = scene()
    around = (gradient_at(plain, one) + gradient_at(plain, other)) / 2
    tuned = gradient_at(plain, second) + around - gradient_at(plain, start)
    expected = project(second + LINF.epsilon / 2 * tuned.sign(), here.images, LINF)
    torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize("kernel", [1, 3, 5, 15])
def test_a_blur_is_a_convolution_with_a_gaussian_of_unit_sum(kernel):
    bell = torch.tensor(weights(kernel), dtype=torch.float64)
    assert bell.sum().item() == pytest.approx(1)
    assert torch.equal(bell, bell.flip(0))
    if kernel > 1:
        assert (bell[0] / bell[kernel // 2]).item() == pytest.approx(torch.e**-4.5)
    gradient = some_points(12, 20).images
    square = (bell[:, None] * bell).expand(3, 1, -1, -1)
    expected = F.conv2d(gradient, square, padding=kernel // 2, groups=3)
    torch.testing.assert_close(blurred(gradient, bell.tolist()), expected)


# Views.


@each_view
@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20)])
@pytest.mark.parametrize("stream", [0, 1])
def test_gradients_through_a_view_are_those_of_finite_differences(attack, height, width, stream):
    points = some_points(height, width, rows=2)
    view = attack.view(points, stream)
    images = points.images.clone().requires_grad_()
    assert torch.autograd.gradcheck(view, (images,), fast_mode=True)


@each_view
def test_every_image_has_a_view_of_its_own_in_every_stream(attack):
    points = some_points()
    alike = replace(points, images=points.images[:1].expand(5, -1, -1, -1).contiguous())
    seen = torch.cat([attack.view(alike, stream)(alike.images) for stream in range(3)])
    assert len(seen.unique(dim=0)) == 15
    assert torch.equal(attack.view(alike, 1)(alike.images), seen[5:10])


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("di-fgsm:steps=4,probability=1.0,canvas=1.5", []),
        ("bsr:steps=3,copies=3", [0, 3, 6]),
        ("sia:steps=3,copies=3", [0, 3, 6]),
    ],
)
def test_every_look_of_a_climb_is_through_a_view_of_its_own_but_the_plain_ones(text, plain):
    here, close = scene().behind(Recorder), Threat("linf", 1e-6)
    struck(text, close, here)
    shown = torch.stack(here.model.shown)
    alike = (shown - here.images).abs().amax(dim=(1, 2, 3, 4)) < 1e-5
    assert alike.nonzero()[:, 0].tolist() == plain
    views = shown[~alike]
    apart = (views[:, None] - views).abs().flatten(2).amax(dim=2)
    assert (apart[~torch.eye(len(views), dtype=torch.bool)] > 1e-2).all()


@pytest.mark.parametrize("canvas", [1.1, 2.0])
def test_a_diverse_input_is_the_whole_image_shrunk_with_black_around(canvas):
    points = some_points(32, 32, rows=100)
    bright = replace(points, images=torch.full_like(points.images, 0.7))
    seen = DiverseInputsFgsm(probability=0.5, canvas=canvas).view(bright, 0)(bright.images)
    assert set(seen.unique().tolist()) <= {0.0, *(0.7 + n * 2**-53 for n in range(-4, 5))}
    area = (seen[:, 0] > 0).double().mean(dim=(1, 2)).sqrt()
    assert (area.min().item(), area.max().item()) == (pytest.approx(1 / canvas, abs=0.04), 1)
    # Half are looked at as they are; a little shrunk, no pixel may be lost.
    assert 0.35 < (area == 1).double().mean() < 0.75
    corners = (seen[:, 0, 0, 0] > 0).double().mean(), (seen[:, 0, -1, -1] > 0).double().mean()
    assert max(corners) < 0.9, "the image moves about"


def test_a_diverse_input_of_half_the_size_shows_every_part_of_the_image():
    points = some_points(8, 8, rows=40)
    ramp = torch.linspace(0.1, 0.9, 8, dtype=torch.float64).expand(40, 3, 8, 8)
    seen = DiverseInputsFgsm(probability=1.0, canvas=2.0).view(points, 0)(ramp.contiguous())
    rows = seen[:, 0].amax(dim=1)
    for row in rows:
        content = row[row > 0]
        assert (content.diff() > 0).all()
        assert content[0] < 0.3
        assert content[-1] > 0.7


@pytest.mark.parametrize("stream", [0, 1])
def test_blocks_shuffled_and_not_turned_show_every_pixel_once(stream):
    points = some_points(9, 14, rows=20)
    view = BlockShuffleRotate(blocks=3, degrees=0.0).view(points, stream)
    seen = view(points.images)
    assert torch.equal(seen.flatten(2).sort(dim=2).values, points.images.flatten(2).sort(dim=2).values)
    assert (seen != points.images).flatten(1).any(dim=1).all()
    # Shuffled are whole strips, alike on all channels.
    marked = torch.arange(9 * 14, dtype=torch.float64).view(1, 1, 9, 14).expand(20, 3, 9, 14) / 126
    places = (view(marked.contiguous()) * 126).round()
    neighbours = (places.diff(dim=3) == 1).double().mean(dim=(1, 2, 3))
    assert (neighbours > 0.5).all()
    assert torch.equal(places[:, 0], places[:, 2])


def test_turned_blocks_show_nothing_of_other_blocks():
    points = some_points(16, 16, rows=30)
    dark = replace(points, images=torch.zeros_like(points.images))
    attack = BlockShuffleRotate(blocks=1, degrees=45.0)
    dark.images[:, :, 4:12, 4:12] = 1.0
    seen = attack.view(dark, 0)(dark.images)
    # The bright square is turned about the centre it shares with its block: it keeps its middle.
    assert (seen[:, :, 7:9, 7:9] == 1).all()
    assert (seen[:, :, 0, :] == 0).all()
    turned = (seen != dark.images).flatten(1).any(dim=1)
    assert turned.all()
    assert 60 < seen[:, 0].sum(dim=(1, 2)).mean() < 68


def test_a_block_of_a_structure_is_changed_in_each_of_seven_ways():
    rows = 300
    points = some_points(6, 8, rows=rows)
    points = replace(points, images=points.images[:1].expand(rows, -1, -1, -1).contiguous())
    seen = StructureInvariant(blocks=1).view(points, 0)(points.images)
    image = points.images[0]
    named = {
        "down": [image.roll(n, 1) for n in range(1, 6)],
        "across": [image.roll(n, 2) for n in range(1, 8)],
        "mirrored": [image.flip(1)],
        "swapped": [image.flip(2)],
        "turned": [image.flip(1, 2)],
    }
    counts = {
        name: sum(torch.equal(one, other) for one in seen for other in others)
        for name, others in named.items()
    }
    ratio = seen / image
    dimmed = (ratio.flatten(1).std(dim=1) < 1e-12) & (ratio[:, 0, 0, 0] < 0.999)
    apart = (seen - image).abs().flatten(1).amax(dim=1)
    noisy = (apart <= 16 / 255) & (apart > 14 / 255) & ~dimmed
    counts |= {"dimmed": int(dimmed.sum()), "noisy": int(noisy.sum())}
    assert all(rows / 14 < count < rows / 4 for count in counts.values()), counts
    unmoved = int((seen == image).flatten(1).all(dim=1).sum())
    assert sum(counts.values()) + unmoved >= rows - 2


def test_every_block_of_a_structure_is_changed_apart():
    points = some_points(24, 24, rows=40)
    seen = StructureInvariant(blocks=3).view(points, 5)(points.images)
    changed = (seen != points.images).any(dim=1)
    assert 0.5 < changed.double().mean() < 1
    # One change for the whole image would leave a row either wholly alone or wholly changed.
    assert (changed.flatten(1).any(dim=1)).all()


@pytest.mark.parametrize(("side", "strips"), [(16, 1), (16, 2), (9, 9), (2, 5)])
def test_strips_cover_a_side_once_and_stay_whole(side, strips):
    seeds = torch.arange(50)
    kept = cut(seeds, 3, side, strips, shuffled=False)
    moved = cut(seeds, 3, side, strips, shuffled=True)
    places = torch.arange(side).expand(50, side)
    assert torch.equal(kept.source, places)
    assert torch.equal(moved.source.sort(dim=1).values, places)
    for laid in (kept, moved):
        assert ((laid.first <= laid.source) & (laid.source <= laid.last)).all()
        assert (laid.number.amax(dim=1) == min(strips, side) - 1).all()
        seams = (laid.source.diff(dim=1) != 1).sum(dim=1)
        assert (seams < strips).all()
    if 1 < strips < side:
        assert len(kept.number.sum(dim=1).unique()) > side / 2, "cut anywhere"
        assert not torch.equal(moved.source, places)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mi-fgsm:steps=0", "at least 1"),
        ("ni-fgsm:reach=0.0", "at least 0.001"),
        ("di-fgsm:momentum=-1.0", "at least 0"),
        ("di-fgsm:probability=1.5", r"one in \[0, 1\]"),
        ("di-fgsm:canvas=0.9", "at least 1"),
        ("ti-fgsm:kernel=4", "Give an odd width"),
        ("si-fgsm:scales=0", "at least 1"),
        ("vmi-fgsm:neighbours=-1", "at least 0"),
        ("bsr:copies=0", "at least 1"),
        ("bsr:degrees=-1.0", "at least 0"),
        ("sia:blocks=0", "at least 1"),
    ],
)
def test_a_setting_nothing_can_come_of_is_refused_with_a_sentence(text, sentence):
    with pytest.raises(StudyError, match=sentence):
        parse_attack(text)
