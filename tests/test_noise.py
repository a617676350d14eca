"""Noise of images: as random as it must be, and each image's own."""

import torch

from orchestrator.attacks.noise import integers, normal, permutations, reseeded, uniform

SEEDS = torch.tensor([3, 4, 5, -9, 2**62])


def test_numbers_of_an_image_do_not_depend_on_its_neighbours():
    together = uniform(SEEDS, 5, 3, 7)
    assert torch.equal(uniform(SEEDS[[4, 1]], 5, 3, 7), together[[4, 1]])
    # More numbers of the same stream begin with the same ones.
    assert torch.equal(uniform(SEEDS, 5, 30)[:, :21].view(5, 3, 7), together)


def test_seeds_streams_and_places_give_different_numbers():
    drawn = torch.stack([uniform(SEEDS, stream, 64) for stream in range(40)])
    assert len(drawn.flatten().unique()) == drawn.numel()
    assert not torch.equal(uniform(reseeded(SEEDS, 0), 0, 8), uniform(SEEDS, 0, 8))
    assert len(torch.cat([reseeded(SEEDS, stage) for stage in range(50)]).unique()) == 250


def test_uniform_numbers_fill_their_range_evenly_and_do_not_follow_one_another():
    seeds = torch.arange(2000)
    for numbers in (uniform(seeds, 0, 50), uniform(torch.zeros(1, dtype=torch.long), 3, 100_000)):
        assert 0 <= numbers.min() < 1e-4
        assert 1 - 1e-4 < numbers.max() < 1
        counts = torch.histc(numbers, 64, 0, 1)
        expected = numbers.numel() / 64
        assert ((counts - expected).square() / expected).sum() < 110  # χ², 63 degrees: p < 0.0003
        flat = numbers.flatten() - 0.5
        assert (flat[1:] * flat[:-1]).mean().abs() < 0.0015
    # Nor do the first numbers of neighbouring seeds.
    first = uniform(seeds, 0, 1)[:, 0] - 0.5
    assert (first[1:] * first[:-1]).mean().abs() < 0.008


def test_normal_numbers_have_the_moments_of_a_normal():
    numbers = normal(torch.arange(400), 1, 500)
    assert abs(numbers.mean()) < 0.01
    assert abs(numbers.std() - 1) < 0.01
    assert abs((numbers**4).mean() - 3) < 0.1
    assert torch.isfinite(numbers).all()


def test_integers_and_permutations_are_what_they_say():
    drawn = integers(torch.arange(300), 2, 5, 40)
    assert drawn.unique().tolist() == [0, 1, 2, 3, 4]
    orders = permutations(torch.arange(600), 0, 4)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(4).expand(600, 4))
    assert len(orders.unique(dim=0)) == 24
