"""Square's windows: how large after how many queries, where, and the bumps that ℓ2 puts in them."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Iterations, of 10,000, after which the share of pixels in a window is halved (appendix A of the paper).
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
Sides = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """One square of pixels for every row."""

    top: Int[Tensor, " rows"]
    left: Int[Tensor, " rows"]
    side: Int[Tensor, " rows"]

    @classmethod
    def at(
        cls,
        places: Float[Tensor, "rows 2"],
        side: Int[Tensor, " rows"],
        height: int,
        width: int,
    ) -> "Window":
        """The windows of these sides at uniform numbers' places, wherever they fit."""
        top = (places[:, 0] * (height - side + 1)).long()
        return cls(top, (places[:, 1] * (width - side + 1)).long(), side)

    def offsets(self, height: int, width: int) -> tuple[Int[Tensor, "rows h 1"], Int[Tensor, "rows 1 w"]]:
        """Of every pixel, the row and column inside the window; out of [0, side) where it is outside."""
        down = torch.arange(height, device=self.top.device) - self.top[:, None]
        right = torch.arange(width, device=self.top.device) - self.left[:, None]
        return down[:, :, None], right[:, None, :]

    def mask(self, height: int, width: int) -> Bool[Tensor, "rows 1 height width"]:
        """Which pixels are inside."""
        side = self.side[:, None, None]
        down, right = self.offsets(height, width)
        inside: Tensor = (down >= 0) & (down < side) & (right >= 0) & (right < side)
        return inside[:, None]


def halvings(iterations: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """How often the window's share of all pixels has been halved by this iteration."""
    after = torch.tensor(_HALVED_AFTER, device=iterations.device)
    return (iterations[:, None] > after).sum(dim=1)


def window_sides(height: int, width: int, p_init: float, *, bumpy: bool) -> Sides:
    """The side of the window after no halving, one, two …; of bumps, odd and at least 3."""
    sides = []
    for halved in range(len(_HALVED_AFTER) + 1):
        side = max(round((p_init / 2**halved * height * width) ** 0.5), 3 if bumpy else 1)
        side += bumpy and side % 2 == 0
        sides.append(min(side, height, width))
    return tuple(sides)


def bump(side: int) -> Float[Tensor, "side side"]:
    """η of the paper (§3.4): two halves of opposite sign, each falling off from its centre; length 1."""
    upper = _half(side // 2, side)
    both = torch.cat([upper / upper.norm().clamp_min(1e-30), -_unit(_half(side - side // 2, side))])
    return _unit(both)


@lru_cache(maxsize=8)
def bumps(sides: Sides, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "kinds most most"]:
    """The bump of every side, in the corner of a canvas that holds the largest."""
    canvas = torch.zeros(len(sides), max(sides), max(sides), dtype=torch.float64)
    for kind, side in enumerate(sides):
        canvas[kind, :side, :side] = bump(side)
    return canvas.to(device, dtype)


def bumps_in(
    window: Window,
    kinds: Int[Tensor, " rows"],
    turned: Bool[Tensor, " rows"],
    canvas: Float[Tensor, "kinds most most"],
    height: int,
    width: int,
) -> Float[Tensor, "rows 1 height width"]:
    """Each row's bump, turned on its side or not, in its window; 0 outside."""
    down, right = window.offsets(height, width)
    most = canvas.shape[-1] - 1
    down, right = down.clamp(0, most), right.clamp(0, most)
    aside = turned[:, None, None]
    bumped = canvas[kinds[:, None, None], torch.where(aside, right, down), torch.where(aside, down, right)]
    return bumped[:, None] * window.mask(height, width)


def _half(height: int, width: int) -> Float[Tensor, "height width"]:
    """Rings around the middle; ring r is worth the sum of 1/k² from k = r + 1 to the last ring."""
    rings = max(height, width) // 2 + 1
    worth = (1 / torch.arange(1, rings + 1, dtype=torch.float64) ** 2).flip(0).cumsum(0).flip(0)
    down = (torch.arange(height) - height // 2).abs()
    right = (torch.arange(width) - width // 2).abs()
    return worth[torch.maximum(down[:, None], right[None])]


def _unit(values: Float[Tensor, "height width"]) -> Float[Tensor, "height width"]:
    scaled: Tensor = values / values.norm().clamp_min(1e-30)
    return scaled
