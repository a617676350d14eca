"""Moved images kept, losslessly, from the attack until the last target is there to read them."""

from collections.abc import Iterable

import safetensors.torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.errors import DamagedArtifact
from orchestrator.models.backbone import parse_weights
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.record import ArtifactRecord, FileEntry, library_versions
from orchestrator.transfer.work import AttackUnit, WorkUnit

_FILE, _TENSOR, _PREFIX = "images.safetensors", "images", "moved"


def save_moved(
    store: ArtifactStore, unit: AttackUnit, images: Float[Tensor, "images 3 size size"], seconds: float
) -> None:
    """Commit the images an attack made, in the fp32 it made them in."""
    content = safetensors.torch.save({_TENSOR: images.cpu().contiguous()})
    record = ArtifactRecord(
        recipe=unit.recipe,
        files={_FILE: FileEntry.of(content)},
        provenance={"seconds": seconds, "versions": library_versions()},
    )
    store.commit(unit.address, record, {_FILE: content})


def read_moved(
    store: ArtifactStore, unit: AttackUnit, like: Float[Tensor, "images 3 size size"]
) -> tuple[Float[Tensor, "images 3 size size"], float] | None:
    """The images, on the device of ``like``, and the seconds their attack took; None where they are gone.

    Raises:
        StaleArtifact: another attack, source or shard made them.
        DamagedArtifact: they are not images of this shard.
    """
    if not store.has(unit.address):
        return None
    record = store.record(unit.address, unit.recipe)
    tensors = parse_weights(store.read(unit.address, _FILE, record), unit.address)
    images = tensors.get(_TENSOR)
    if images is None or images.shape != like.shape or images.dtype != like.dtype:
        raise DamagedArtifact(f"{unit.address} does not hold this shard's images. Delete it and rerun.")
    return images.to(like.device), record.told("seconds", float, unit.address)


def drop_moved(store: ArtifactStore, unit: AttackUnit) -> None:
    """Remove images that all targets have read."""
    store.delete(unit.address)


def kept_moved(store: ArtifactStore, pending: Iterable[WorkUnit]) -> set[str]:
    """Addresses of kept images that pending units will read; those no unit waits for are removed."""
    wanted = {unit.attack_unit.address for unit in pending}
    kept = set(store.addresses(_PREFIX))
    for address in kept - wanted:
        store.delete(address)
    return kept & wanted
