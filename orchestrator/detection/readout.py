"""Readout: what a model reads images as, and the fingerprints of the class it reads; no other is kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchestrator.detection.gather import Gather
from orchestrator.detection.neurons import NeuronLayout
from orchestrator.errors import WeightsError


@dataclass(frozen=True)
class Readout:
    """Some images as a model reads them."""

    classes: Int[Tensor, " images"]
    """The class of the largest logit; of tied ones the first."""
    rows: Int[Tensor, " images"]
    """The row of fingerprints of that class; -1 where there is none."""
    values: Float[Tensor, "images fingerprints"]
    """Those fingerprints; 0 where there are none."""
    pool: Float[Tensor, "images fingerprints"] | None
    """The fingerprints of the pool, where there is one."""

    @classmethod
    def joined(cls, parts: "Sequence[Readout]") -> "Readout":
        """Images that were read in several parts, in their order; at least one part."""
        pools = [part.pool for part in parts if part.pool is not None]
        columns = ((part.classes, part.rows, part.values) for part in parts)
        whole = [torch.cat(column) for column in zip(*columns, strict=True)]
        return cls(whole[0], whole[1], whole[2], torch.cat(pools) if pools else None)

    def to(self, device: torch.device | str) -> "Readout":
        """The same on another device."""
        pool = None if self.pool is None else self.pool.to(device)
        return Readout(self.classes.to(device), self.rows.to(device), self.values.to(device), pool)

    def part(self, chosen: Tensor) -> "Readout":
        """Some of the images."""
        pool = None if self.pool is None else self.pool[chosen]
        return Readout(self.classes[chosen], self.rows[chosen], self.values[chosen], pool)


@dataclass(frozen=True)
class Fingerprints:
    """Sets of neurons, so many for each row: a row is a class, or the pool of all classes."""

    layout: NeuronLayout
    members: Int[Tensor, "rows fingerprints neurons"]
    row_of: Int[Tensor, " classes_and_pool"]
    """The row of each class, last of all that of the pool; -1 where there is none."""

    @cached_property
    def gather(self) -> Gather:
        """What takes all of them."""
        return Gather(self.layout, self.members.flatten(0, 1))

    def read(self, model: nn.Module, images: Float[Tensor, "images 3 height width"], batch: int) -> Readout:
        """The images as a model reads them.

        Every pass has as many images, the last one being filled up: floats then round alike for an image
        whatever others it comes with.

        Args:
            model: in eval mode; it is left as it was found.
            images: in [0, 1].
            batch: images of a pass.

        Raises:
            WeightsError: the model does not fit the layout, or has another number of classes.
        """
        gather, parts = self.gather, [self._nothing(images)]
        with torch.no_grad(), gather.reading(model) as values:
            for some, count in full_passes(images, batch):
                logits = model(some)
                if logits.shape[1] != len(self.row_of) - 1:
                    raise WeightsError(
                        f"This model knows {logits.shape[1]} classes and its detector "
                        f"{len(self.row_of) - 1}. Fit a detector of this model."
                    )
                parts.append(self._read(logits[:count].argmax(dim=1), values.means()[:count]))
        return Readout.joined(parts)

    def to(self, device: torch.device | str) -> "Fingerprints":
        """The same on another device."""
        if self.members.device == torch.device(device):
            return self
        return Fingerprints(self.layout, self.members.to(device), self.row_of.to(device))

    def by_row(self, values: Float[Tensor, "images all"]) -> Float[Tensor, "images rows fingerprints"]:
        """Gathered values by the row and fingerprint they are of."""
        return values.view(len(values), *self.members.shape[:2])

    def _read(self, classes: Int[Tensor, " some"], values: Float[Tensor, "some all"]) -> Readout:
        rows = self.row_of.to(classes.device)
        own, pool, by_row = rows[classes], rows[-1], self.by_row(values)
        found = by_row[torch.arange(len(classes), device=classes.device), own.clamp_min(0)]
        found = torch.where((own >= 0)[:, None], found, 0.0)
        return Readout(classes, own, found, by_row[:, pool] if pool >= 0 else None)

    def _nothing(self, images: Tensor) -> Readout:
        none = torch.zeros(0, dtype=torch.int64, device=images.device)
        return self._read(none, images.new_zeros(0, self.members[..., 0].numel()))


def full_passes(
    images: Float[Tensor, "images 3 height width"], batch: int
) -> Iterator[tuple[Float[Tensor, "batch 3 height width"], int]]:
    """Images ``batch`` at a time, and how many of them count: the last are filled up with their first."""
    for start in range(0, len(images), batch):
        some = images[start : start + batch]
        filling = some[:1].expand(batch - len(some), -1, -1, -1)
        yield torch.cat([some, filling]), len(some)
