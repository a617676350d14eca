"""What an attack is: moves images inside a threat. It never decides whether it succeeded.

The division of labour is foolbox's: the author of an attack moves pixels, the house projects, checks
and measures. A wrong attack can be weak, but it cannot lie.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orchestrator.attacks.answer import Found
from orchestrator.attacks.noise import reseeded
from orchestrator.attacks.source import Access, Source
from orchestrator.attacks.threat import Norm, Threat

Need = Literal["plain", "block-size", "examples", "shuffle", "vit"]


@dataclass(frozen=True)
class Points:
    """The images an attack is given, row by row."""

    images: Float[Tensor, "rows 3 height width"]
    """In [0, 1], float32 or float64; what is found has their type and device."""
    labels: Int[Tensor, " rows"]
    """The classes to move away from."""
    seeds: Int[Tensor, " rows"]
    """One per image: all that is drawn for an image comes from its own."""
    start: Float[Tensor, "rows 3 ..."] | None = None
    """Where to begin, inside the threat: what an attack under a smaller threat ended with. Moves, not
    images, where the house renders the threat's images."""
    targets: Int[Tensor, " rows"] | None = None
    """The classes to move towards, in a targeted attack."""

    @classmethod
    def of(
        cls,
        images: Float[Tensor, "rows 3 height width"],
        labels: Int[Tensor, " rows"],
        seeds: Sequence[int],
        start: Float[Tensor, "rows 3 ..."] | None = None,
    ) -> "Points":
        """Points of images in any memory layout and labels of any integer type.

        Raises:
            ValueError: there are not as many seeds as images.
        """
        if not len(seeds) == len(images) == len(labels):
            raise ValueError(
                f"There are {len(seeds)} seeds and {len(labels)} labels for {len(images)} images."
            )
        numbers = torch.tensor(list(seeds), dtype=torch.int64, device=images.device)
        return cls(images.detach().contiguous(), labels.long(), numbers, start)

    def __len__(self) -> int:
        return len(self.images)

    def part(self, rows: Int[Tensor, " some"]) -> "Points":
        """Some of the points."""
        start = None if self.start is None else self.start[rows]
        targets = None if self.targets is None else self.targets[rows]
        return Points(self.images[rows], self.labels[rows], self.seeds[rows], start, targets)

    def stage(self, number: int) -> "Points":
        """The same points with other seeds: for one of several runs that draw independently."""
        return replace(self, seeds=reseeded(self.seeds, number))

    def towards(self, targets: Int[Tensor, " rows"]) -> "Points":
        """The same points, to be moved towards these classes."""
        return replace(self, targets=targets)

    def slices(self, batch: int) -> list[Int[Tensor, " some"]]:
        """The rows of all points, ``batch`` at a time."""
        rows = torch.arange(len(self), device=self.images.device)
        return list(torch.split(rows, batch)) if len(self) else []


class Calls(NamedTuple):
    """Passes through a source of one model that one image costs, at most."""

    forwards: int
    backwards: int


@runtime_checkable
class Attack(Protocol):
    """Moves images inside a threat so that a source misreads them; frozen settings, no state.

    Every random choice about an image comes from that image's own seed, so the answer for an image
    does not depend on its batch, its neighbours or the worker.
    """

    norms: ClassVar[frozenset[Norm]]
    """Kinds of threat it is defined for, norms or not."""
    access: ClassVar[Access]
    """The most it asks of the source."""
    needs: ClassVar[frozenset[Need]]
    """What it must know besides, ``shuffle`` where it assumes keys that shuffle, and ``vit`` where it
    reaches into a timm ViT."""

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Images moved inside ``threat``; the models, their gradients and global RNG stay untouched."""
        ...

    def calls(self, classes: int) -> Calls:
        """What one image costs at most, on a model of ``classes`` classes that never falls."""
        ...
