"""Patches, turned images and recoloured ones: what they are, known answers, and what the house refuses."""

from dataclasses import replace

import pytest
import torch
from attack_scene import RowByRow, TwoClasses, scene
from torch import nn

from orchestrator.attacks import parse_attack
from orchestrator.attacks.answer import Found
from orchestrator.attacks.attack import Points
from orchestrator.attacks.patches import patch_sides, project_patch
from orchestrator.attacks.rendering import render, render_found, unmoved
from orchestrator.attacks.settling import settle
from orchestrator.attacks.source import Source
from orchestrator.attacks.threat import Ladder, Threat, check_threat, project
from orchestrator.attacks.unrestricted.colour import Colour
from orchestrator.attacks.unrestricted.patch import Patch
from orchestrator.attacks.unrestricted.spatial import Spatial
from orchestrator.errors import ThreatViolated
from orchestrator.transfer.climb import climb

LADDERS = {
    "patch": Ladder.parse("patch:1,2,4"),
    "spatial": Ladder.parse("spatial:0.005,0.01,0.05"),
    "colour": Ladder.parse("colour:8/255,32/255,64/255"),
}
SMALL = {
    "patch": Patch(places=2, scout=3, steps=8),
    "spatial": Spatial(tries=20, closer=10),
    "colour": Colour(steps=10),
}
each_kind = pytest.mark.parametrize("kind", LADDERS)


def some_images(n=4, size=12):
    generator = torch.Generator().manual_seed(n)
    return torch.rand(n, 3, size, size, generator=generator, dtype=torch.float64)


def moves_of(kind, images, epsilon, seed=0):
    generator = torch.Generator().manual_seed(seed)
    still = unmoved(images, kind)
    return epsilon * (2 * torch.rand(still.shape, generator=generator, dtype=still.dtype) - 1)


def attacked(attack, model, images, threat, label=0):
    """What an attack finds of images of one label, settled by the house, and which of them fell."""
    labels = torch.full((len(images),), label)
    source = Source([model], len(images), access=attack.access)
    found = settle(attack(source, Points.of(images, labels, range(len(images))), threat), images, threat)
    return found.worst, source.decisions(found.worst, torch.arange(len(images)), labels)


# Patches.


def test_a_patch_is_as_large_as_the_square_around_all_that_changed():
    images = some_images()
    moved = images.clone()
    moved[0, 0, 2, 3] += 1e-9
    moved[1, 1, 2, 3] = moved[1, 2, 6, 5] = 0.0
    moved[2, :, 0, 0] = moved[2, :, 11, 11] = 1.0
    assert patch_sides(moved, images).tolist() == [1, 5, 12, 0]
    check_threat(moved[:2], images[:2], Threat("patch", 5.0))
    with pytest.raises(ThreatViolated, match="moved an image by 5"):
        check_threat(moved[:2], images[:2], Threat("patch", 4.0))


def test_projection_keeps_the_square_that_holds_most_and_every_patch_that_fits():
    images = some_images()
    moved = images.clone()
    moved[0, :, 1:4, 1:4] = 1 - images[0, :, 1:4, 1:4].round()
    moved[0, 0, 9, 9] = 1 - images[0, 0, 9, 9].round()
    moved[1, :, 8, 8], moved[1, 0, 6, 6] = 1 - images[1, :, 8, 8].round(), images[1, 0, 6, 6] + 1e-12
    projected = project(moved, images, Threat("patch", 3.0))
    assert torch.equal(projected[0, :, :5, :5], moved[0, :, :5, :5])
    assert torch.equal(projected[0, :, 5:, 5:], images[0, :, 5:, 5:])
    assert torch.equal(projected[1], moved[1])
    wild = project_patch(images + torch.randn_like(images), images, 5)
    check_threat(wild, images, Threat("patch", 5.0))
    assert torch.equal(project_patch(wild, images, 5), wild)


class Corner(nn.Module):
    """Class 1 where the mean of one corner is above a half; the rest of the image is not read."""

    def forward(self, images):
        lead = images[:, :, -3:, -3:].mean(dim=(1, 2, 3)) - 0.5
        return torch.stack([-lead, lead], dim=1)


def test_a_model_that_reads_one_corner_falls_to_a_patch_there():
    dark = 0.5 * some_images()
    worst, fell = attacked(SMALL["patch"], Corner(), dark, Threat("patch", 3.0))
    assert fell.all()
    changed = (worst != dark).any(dim=1)
    assert changed[:, -3:, -3:].all()
    assert changed.sum() == 4 * 9


def test_a_model_that_reads_all_of_an_image_stands_where_a_patch_is_too_small():
    """Of 144 pixels at 0.25, n² made white add n² × 0.75 / 144 to the mean: above a half from n = 7 on."""
    images = torch.full((2, 3, 12, 12), 0.25, dtype=torch.float64)
    weight = torch.full((432,), 1 / 432, dtype=torch.float64)
    falls = [
        attacked(SMALL["patch"], TwoClasses(weight, 0.5), images, Threat("patch", float(side)))[1].tolist()
        for side in (6, 7)
    ]
    assert falls == [[False, False], [True, True]]


def test_a_place_drawn_at_random_finds_what_gradients_hide():
    class Hidden(Corner):
        def forward(self, images):
            return super().forward((images * 4).round() / 4 + 0 * images)

    dark = 0.3 * some_images(n=8)
    attack = Patch(places=20, scout=1, steps=1)
    fell = attacked(attack, Hidden(), dark, Threat("patch", 9.0))[1]
    assert fell.any()


# Turned and shifted images.


@pytest.mark.parametrize("size", [(6, 6), (5, 7)])
def test_whole_shifts_and_right_angles_move_pixels_and_change_none(size):
    images = torch.rand(1, 3, *size, dtype=torch.float64)
    height, width = size

    def turned(down=0.0, right=0.0, quarters=0.0):
        move = torch.tensor([down / height, right / width, 0.3 * quarters], dtype=torch.float64)
        return render(images, move.view(1, 3, 1, 1), "spatial")

    shifted = torch.zeros_like(images)
    shifted[:, :, 2:, :-1] = images[:, :, :-2, 1:]
    torch.testing.assert_close(turned(down=2, right=-1), shifted)
    torch.testing.assert_close(turned(quarters=2), images.rot90(2, (2, 3)))
    if height == width:
        torch.testing.assert_close(turned(quarters=1), images.rot90(1, (2, 3)))


def test_a_tenth_is_three_pixels_of_32_and_thirty_degrees():
    images = torch.zeros(2, 3, 33, 33, dtype=torch.float64)
    images[:, :, 16, 26] = 1.0  # ten to the right of the centre
    moves = torch.tensor([[0.1, 0.0, 0.0], [0.0, 0.0, 0.1]], dtype=torch.float64)
    below, turned = render(images, moves.view(2, 3, 1, 1), "spatial")[:, 0]
    places = torch.arange(33.0, dtype=torch.float64)
    centre = [
        ((image * places[:, None]).sum() / image.sum(), (image * places).sum() / image.sum())
        for image in (below, turned)
    ]
    # Bilinear reading of one bright pixel moves its centre of gravity a little.
    assert [float(place) for place in centre[0]] == pytest.approx([19.3, 26], abs=0.15)
    assert [float(place) for place in centre[1]] == pytest.approx([16 - 5, 16 + 8.66], abs=0.15)


def test_a_model_that_sums_pixels_does_not_fall_to_turns_and_one_that_reads_places_does():
    """In the middle, nothing leaves the image: a turned blob has the same sum, at other places."""
    images = torch.zeros(2, 3, 16, 16, dtype=torch.float64)
    images[:, :, 4:12, 6:8] = 0.8
    threat = Threat("spatial", 0.15)
    share = images[0].sum() / 2
    total = TwoClasses(-torch.ones(768, dtype=torch.float64), -1.5 * float(share))
    assert not attacked(SMALL["spatial"], total, images, threat)[1].any()
    right = torch.zeros(3, 16, 16, dtype=torch.float64)
    right[:, :, 8:], right[:, :, :8] = 1.0, -1.0
    assert attacked(SMALL["spatial"], TwoClasses(right.flatten(), 0.0), images, threat)[1].all()


def test_later_tries_find_a_narrow_way_that_even_tries_miss():
    """The lead rises towards one angle and shift, and is above 0 within 0.9° and 0.2 px of them."""
    generator = torch.Generator().manual_seed(3)
    smooth = nn.functional.interpolate(
        torch.rand(1, 3, 4, 4, generator=generator, dtype=torch.float64), size=16, mode="bicubic"
    ).clamp(0, 1)
    aim = torch.tensor([0.031, -0.052, 0.067], dtype=torch.float64).view(1, 3, 1, 1)
    wanted = render(smooth, aim, "spatial")
    near = torch.tensor([0.0125 / 4, 0.0, 0.003], dtype=torch.float64).view(1, 3, 1, 1)
    radius = (render(smooth, aim + near, "spatial") - wanted).flatten(1).norm()

    class Near(nn.Module):
        def forward(self, images):
            lead = 3 * (radius - (images - wanted).flatten(1).norm(dim=1))
            return torch.stack([-lead, lead], dim=1)

    images, threat = smooth.expand(6, -1, -1, -1), Threat("spatial", 0.1)
    even = attacked(Spatial(tries=200, closer=0), Near(), images, threat)[1].sum()
    closer = attacked(Spatial(tries=120, closer=80), Near(), images, threat)[1].sum()
    assert closer == 6
    assert even < 3


# Recoloured images.


def test_pixels_of_one_colour_stay_of_one_colour_and_move_no_further_than_allowed():
    generator = torch.Generator().manual_seed(0)
    palette = torch.rand(5, 3, generator=generator)
    images = palette[torch.randint(5, (2, 144), generator=generator)].mT.reshape(2, 3, 12, 12)
    epsilon = 16 / 255
    moved = render(images, moves_of("colour", images, epsilon), "colour")
    assert (moved - images).abs().max() <= epsilon + 1e-6
    assert (moved - images).abs().max() > 0.3 * epsilon
    for before, after in zip(images, moved, strict=True):
        pairs = torch.cat([before, after]).flatten(1).T.unique(dim=0)
        assert len(pairs) == 5


def test_shades_of_a_channel_keep_their_order_up_to_an_eighth():
    ramp = torch.linspace(0, 1, 144, dtype=torch.float64)
    images = torch.full((1, 3, 12, 12), 0.37, dtype=torch.float64)
    images[:, 1] = ramp.view(12, 12)
    for seed in range(20):
        moves = moves_of("colour", images, 1.0, seed).sign() / 8
        drawn = render(images, moves, "colour")[0, 1].flatten()
        assert (drawn.diff() >= -1e-12).all()


def test_the_change_at_a_knot_is_the_knots_own_and_between_knots_their_mean():
    images = torch.zeros(1, 3, 1, 2, dtype=torch.float64)
    images[0, :, 0, 0] = torch.tensor([0.25, 0.5, 0.75])
    images[0, :, 0, 1] = torch.tensor([0.25, 0.5, 0.875])
    moves = unmoved(images, "colour")
    moves[0, 2, 1, 2 * 5 + 3], moves[0, 2, 1, 2 * 5 + 4] = 0.1, 0.04
    step = (render(images, moves, "colour") - images)[0, 2, 0]
    torch.testing.assert_close(step, torch.tensor([0.1, 0.07], dtype=torch.float64))


def test_a_model_that_reads_tint_falls_to_colours_and_one_that_compares_places_does_not():
    images = torch.full((2, 3, 12, 12), 0.45, dtype=torch.float64)
    tint = torch.zeros(3, 12, 12, dtype=torch.float64)
    tint[0], tint[2] = 1 / 144, -1 / 144
    threat = Threat("colour", 32 / 255)
    assert attacked(SMALL["colour"], TwoClasses(tint.flatten(), 0.1), images, threat)[1].all()
    halves = torch.zeros(3, 12, 12, dtype=torch.float64)
    halves[:, :, 6:], halves[:, :, :6] = 1.0, -1.0
    places = TwoClasses(halves.flatten(), 1e-6)
    assert not attacked(SMALL["colour"], places, images, threat)[1].any()
    pixels = parse_attack("apgd-ce:steps=5")[1]
    assert attacked(pixels, places, images, Threat("linf", 1 / 255))[1].all()


# What the house makes of them.


@each_kind
def test_a_ladder_falls_rung_by_rung_and_a_rung_begins_where_the_last_one_ended(kind):
    here, ladder = scene(n=12).behind(RowByRow), LADDERS[kind]
    source = here.source(SMALL[kind], batch=5)
    moved = climb(SMALL[kind], source, here.points(), ladder)
    fell = torch.stack([here.fallen(worst) for worst in moved.worst])
    assert (fell[1:] | ~fell[:-1]).all()
    assert fell[0].sum() < fell[2].sum()
    for rung, threat in enumerate(ladder.threats):
        found = Found(moved.worst[rung], moved.best[rung])
        if kind != "patch":
            found = replace(found, worst_moves=moved.worst_moves[rung], best_moves=moved.best_moves[rung])
        settle(found, here.images, threat)
    early = climb(replace(SMALL[kind], early=True), here.source(SMALL[kind]), here.points(), ladder)
    assert (early.forwards[-1] <= moved.forwards[-1]).all()
    assert early.forwards[-1].sum() < moved.forwards[-1].sum()


@pytest.mark.parametrize("kind", ["spatial", "colour"])
def test_a_move_of_nothing_leaves_an_image_to_the_bit(kind):
    images = some_images().float()
    moves = moves_of(kind, images, 0.1).float()
    moves[1] = 0
    drawn = render(images, moves, kind)
    assert torch.equal(drawn[1], images[1])
    assert (drawn != images).flatten(1).any(dim=1).tolist() == [True, False, True, True]


@pytest.mark.parametrize("kind", ["spatial", "colour"])
def test_the_house_draws_for_itself_and_refuses_what_moves_do_not_make(kind):
    images, threat = some_images(), Threat(kind, 0.1)
    inside = moves_of(kind, images, 0.1)
    found = render_found(Found.same(inside), images, kind)
    assert torch.equal(settle(found, images, threat).worst, found.worst)
    lies = {
        "moves do not make": replace(found, best=(found.best + 1e-3).clamp(0, 1)),
        "does not tell its moves": Found(found.worst, found.best),
        "not with finite": replace(found, worst_moves=inside * torch.inf),
        "of shape": replace(found, worst_moves=inside.flatten(1)),
        "moved an image by 0.2": render_found(Found.same(0.2 * inside.sign()), images, kind),
    }
    for sentence, lie in lies.items():
        with pytest.raises(ThreatViolated, match=sentence):
            settle(lie, images, threat)
    with pytest.raises(ThreatViolated, match="rendered"):
        check_threat(found.worst, images, threat)
    with pytest.raises(ThreatViolated, match="rendered"):
        project(found.worst, images, threat)


def test_a_source_of_part_of_the_rows_draws_those_rows():
    images, seen = some_images(6), []

    class Watched(nn.Module):
        def forward(self, shown):
            seen.append(shown.detach().clone())
            return shown.flatten(1)[:, :2]

    source = Source([Watched()], 6)
    moves = moves_of("spatial", images, 0.1)
    drawing = source.through(lambda shown, rows: render(images[rows], shown, "spatial"))
    few = drawing.part(torch.tensor([4, 1, 3])).part(torch.tensor([2, 0]))
    few.logits(moves[[3, 4]], torch.tensor([0, 1]))
    assert torch.equal(seen[0], render(images, moves, "spatial")[[3, 4]])
    assert source.forwards.tolist() == [0, 0, 0, 1, 1, 0]
    assert source.draw is None
