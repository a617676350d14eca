"""Strips: how a side of an image is cut at random, and what stands where once its strips are shuffled."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from orchestrator.attacks.noise import permutations, reseeded, uniform


@dataclass(frozen=True)
class Strips:
    """For every place along a side: the place seen there, and the strip that this one lies in."""

    source: Int[Tensor, "rows side"]
    """The place seen."""
    first: Int[Tensor, "rows side"]
    """The first place of its strip."""
    last: Int[Tensor, "rows side"]
    """The last place of its strip."""
    number: Int[Tensor, "rows side"]
    """Its strip's number, counted along the unshuffled side."""


def cut(seeds: Int[Tensor, " rows"], stream: int, side: int, strips: int, *, shuffled: bool) -> Strips:
    """A side cut at random between its places, every cut alike likely.

    Args:
        seeds: one per image.
        stream: of the draw.
        side: places along it.
        strips: how many; on a shorter side, one for each place.
        shuffled: whether strips are seen in another order than their own.
    """
    starts = _starts(seeds, stream, side, min(strips, side))
    ends = torch.cat([starts[:, 1:], torch.full_like(starts[:, :1], side)], dim=1)
    own_order = torch.arange(starts.shape[1], device=seeds.device).expand_as(starts)
    order = permutations(reseeded(seeds, 0), stream, starts.shape[1]) if shuffled else own_order
    lengths = (ends - starts).gather(1, order)
    laid_ends = lengths.cumsum(dim=1)
    places = torch.arange(side, device=seeds.device).expand(len(seeds), side).contiguous()
    seat = torch.searchsorted(laid_ends, places, right=True)
    number = order.gather(1, seat)
    first = starts.gather(1, number)
    within = places - (laid_ends - lengths).gather(1, seat)
    return Strips(first + within, first, ends.gather(1, number) - 1, number)


def _starts(seeds: Int[Tensor, " rows"], stream: int, side: int, strips: int) -> Int[Tensor, "rows strips"]:
    """Where strips start: 0 and distinct other places, ascending."""
    inner = uniform(seeds, stream, side - 1).argsort(dim=1)[:, : strips - 1] + 1
    return torch.cat([torch.zeros_like(seeds)[:, None], inner.sort(dim=1).values], dim=1)
