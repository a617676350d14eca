"""Kept images: what attacks of the transfer matrix left in the store, as one model's detector meets it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.detection.examples import Examples, Part, part_of, rows_of, sampled
from orchestrator.detection.origin import Origin
from orchestrator.errors import DamagedArtifact
from orchestrator.models.backbone import parse_weights
from orchestrator.models.ensemble import member_names
from orchestrator.models.ref import PLAIN
from orchestrator.shards.shard import ImageBatch, read_pixels
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.parquet import told_as
from orchestrator.store.record import ArtifactRecord

_FILE = "images.safetensors"


@dataclass(frozen=True)
class KeptAttack:
    """The images of one attack on one source, one shard, up a ladder of threats."""

    address: str
    record: ArtifactRecord
    attack: str
    norm: str
    epsilons: tuple[float, ...]
    source: str
    """The source's label, e.g. ``plain`` or ``k-3f9a61c2d0e4.full``."""
    shard: str
    """Address of the images it moved."""

    def origin(self, target: str) -> Origin:
        """Whose images they are to a model of this label: made on itself, on another key's, or on plain."""
        names = member_names(self.source.rpartition(".")[0] or self.source)
        if target.partition(".")[0] in names and self._method(target):
            return "own key"
        return "plain" if self.source == PLAIN else "another key"

    def _method(self, target: str) -> bool:
        return target == PLAIN or self.source.rpartition(".")[2] == target.rpartition(".")[2]


def kept_attack(store: ArtifactStore, address: str) -> KeptAttack:
    """One attack whose images were kept.

    Raises:
        NotCommitted: they were not.
        DamagedArtifact: the record is not of kept images.
    """
    return _kept(address, store.record(address))


@dataclass(frozen=True)
class CleanImages:
    """Some shards' images of one part, one shard after another, as often as asked."""

    store: ArtifactStore
    shards: Sequence[str]
    part: Part
    seed: int
    device: torch.device | str = "cpu"

    def __iter__(self) -> Iterator[Examples]:
        for address in self.shards:
            batch = read_pixels(self.store, address, chosen=lambda n: part_of(n, self.seed) == self.part)
            yield _shown(batch, self.device)


@dataclass(frozen=True)
class TrainingImages:
    """A sample of training shards' images, one shard after another, as often as asked.

    They are for clean images to fit on alone: models read what they were trained on too well for
    thresholds and tests.
    """

    store: ArtifactStore
    shards: Sequence[str]
    share: float
    """Of all images, those that are taken."""
    seed: int
    device: torch.device | str = "cpu"

    def __iter__(self) -> Iterator[Examples]:
        for address in self.shards if self.share > 0 else ():
            batch = read_pixels(self.store, address, chosen=lambda n: sampled(n, self.share, self.seed))
            yield _shown(batch, self.device)


@dataclass(frozen=True)
class Together:
    """Images of several sources, one source after another, as often as asked."""

    sources: Sequence[Iterable[Examples]]

    def __iter__(self) -> Iterator[Examples]:
        for source in self.sources:
            yield from source


@dataclass(frozen=True)
class AttackedImages:
    """Kept attacks' images of one part under one threat or all, as a target is shown them."""

    store: ArtifactStore
    attacks: Sequence[KeptAttack]
    target: str
    """The target's label: it is shown what asks whether it fell, others what travels best."""
    part: Part
    seed: int
    device: torch.device | str = "cpu"
    epsilon: float | None = None
    """The threat; None takes all of them."""

    def __iter__(self) -> Iterator[Examples]:
        for kept in self.attacks:
            batch = read_pixels(self.store, kept.shard)
            rows = rows_of(batch.names, self.part, self.seed)
            clean, labels = batch.pixels.float() / 255, batch.labels[rows].to(self.device)
            names = tuple(batch.names[row] for row in rows)
            for epsilon, moved in zip(kept.epsilons, self._moved(kept, clean), strict=True):
                if self.epsilon not in (None, epsilon):
                    continue
                images, originals = moved[rows].to(self.device), clean[rows].to(self.device)
                yield Examples(images, labels, originals, names)

    def _moved(
        self, kept: KeptAttack, clean: Float[Tensor, "images 3 size size"]
    ) -> Float[Tensor, "threats images 3 size size"]:
        tensors = parse_weights(self.store.read(kept.address, _FILE, kept.record), kept.address)
        name = "worst" if kept.origin(self.target) == "own key" or "best" not in tensors else "best"
        moved = tensors.get(name, torch.empty(0))
        if moved.shape != (len(kept.epsilons), *clean.shape):
            raise DamagedArtifact(f"{kept.address} does not hold its shard's images. Delete it and rerun.")
        return moved.float()


def _shown(batch: ImageBatch, device: torch.device | str) -> Examples:
    return Examples((batch.pixels.float() / 255).to(device), batch.labels.to(device), names=batch.names)


def _kept(address: str, record: ArtifactRecord) -> KeptAttack:
    with told_as(DamagedArtifact, f"{address} holds no kept images", f"Delete {address} and rerun."):
        recipe, source = record.recipe, address.split("/")[2]
        return KeptAttack(
            address=address,
            record=record,
            attack=str(recipe["attack"]),
            norm=str(recipe["norm"]),
            epsilons=tuple(float(epsilon) for epsilon in recipe["epsilons"]),
            source=source,
            shard=str(record.provenance["shard"]),
        )
