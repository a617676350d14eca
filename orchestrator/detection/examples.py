"""Examples: images with their labels that a bank is fitted, calibrated or tested on; and who gets which."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Float, Int
from torch import Tensor

from orchestrator.seeds import derive_seed

Part = Literal["fit", "held-out", "test"]
SHARES: dict[Part, int] = {"fit": 5, "held-out": 3, "test": 2}
"""Of ten images, how many go where."""
# In how many equal parts training images fall, for a sample of them.
_PLACES = 2**32


@dataclass(frozen=True)
class Examples:
    """Some images, clean or attacked; small enough to be in memory at once."""

    images: Float[Tensor, "images 3 height width"]
    labels: Int[Tensor, " images"]
    """What they show, whatever they are read as."""
    originals: Float[Tensor, "images 3 height width"] | None = None
    """Of attacked images, what they were made from: those that were not moved are left out."""
    names: tuple[str, ...] = ()
    """Of the photographs, where they are known."""

    def part(self, rows: Tensor) -> "Examples":
        """Some of them."""
        originals = None if self.originals is None else self.originals[rows]
        names = tuple(self.names[row] for row in rows.tolist()) if self.names else ()
        return Examples(self.images[rows], self.labels[rows], originals, names)


def part_of(name: str, seed: int) -> Part:
    """Where an image goes, by its name alone: with all that is made from it, and whatever else there is.

    Half is for fitting, three tenths for thresholds, two tenths for tests.
    """
    place = derive_seed(seed, "detection", "part", name) % sum(SHARES.values())
    for part in get_args(Part):
        if place < SHARES[part]:
            break
        place -= SHARES[part]
    return part  # type: ignore[no-any-return]  # get_args is untyped


def rows_of(names: Sequence[str], part: Part, seed: int) -> list[int]:
    """The places of images that go there."""
    return [row for row, name in enumerate(names) if part_of(name, seed) == part]


def sampled(name: str, share: float, seed: int) -> bool:
    """Whether a training image is among a share of all, by its name alone: the same for every model."""
    return derive_seed(seed, "detection", "sampled", name) % _PLACES < share * _PLACES
