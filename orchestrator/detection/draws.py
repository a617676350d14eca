"""Draws: which fingerprints judge an image, fresh for each, from a seed that nobody else knows."""

import secrets
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from orchestrator.attacks.noise import uniform
from orchestrator.seeds import derive_seed


def draw_seeds(numbers: Sequence[int], seed: int | None) -> Int[Tensor, " images"]:
    """One seed for each image: it depends on the image's number and the secret alone, on no neighbour.

    Args:
        numbers: of the images; the same number under the same seed gives the same draw.
        seed: for tests and thresholds; otherwise one is taken from the operating system and forgotten.
    """
    root = secrets.randbits(63) if seed is None else seed
    return torch.tensor([derive_seed(root, "draw", number) for number in numbers], dtype=torch.int64)


def draw(
    seeds: Int[Tensor, " images"], kept: Int[Tensor, " images"], fingerprints: int, count: int
) -> tuple[Int[Tensor, "images drawn"], Bool[Tensor, "images drawn"]]:
    """Places of the fingerprints drawn for each image without repetition, and which of them are real.

    Args:
        seeds: of the images.
        kept: how many fingerprints the class of each image has, the first ones of its row.
        fingerprints: places of a row.
        count: how many to draw; a class with fewer has all of them drawn.
    """
    order = uniform(seeds, 0, fingerprints)
    real = torch.arange(fingerprints, device=seeds.device) < kept[:, None]
    # Numbers are below 1, so what is not real comes last.
    places = torch.where(real, order, 2.0).argsort(dim=1, stable=True)[:, :count]
    return places, real.gather(1, places)
