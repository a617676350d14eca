"""Moved images in the store, losslessly: until the last target has read them, half-way, or for good."""

from collections.abc import Iterable, Mapping
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.attacks.rendering import RENDERED
from orchestrator.errors import DamagedArtifact
from orchestrator.models.backbone import parse_weights
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.record import ArtifactRecord, FileEntry, library_versions
from orchestrator.transfer.climb import Moved
from orchestrator.transfer.held import Pixels
from orchestrator.transfer.work import AttackUnit, WorkUnit

_FILE, _KEPT, _PARTIAL, _FOR_GOOD = "images.safetensors", "moved", "partial", "adversarial"
_MOVES = ("worst_moves", "best_moves")
_TENSORS = ("worst", "best", "forwards", "backwards", "read_as", *_MOVES)


def save_moved(
    store: ArtifactStore, unit: AttackUnit, moved: Moved, told: Mapping[str, Any], rows: str = ""
) -> None:
    """Commit the images an attack made, in the fp32 it made them in.

    Args:
        store: the study's.
        unit: the attack.
        moved: all its images, or those of some rows.
        told: what is to be known of the attack beside its images.
        rows: a name for those rows; empty for all.
    """
    _save(store, _place(unit, rows), unit.recipe, _tensors(moved), told)


def read_moved(
    store: ArtifactStore, unit: AttackUnit, like: Float[Tensor, "images 3 size size"], rows: str = ""
) -> tuple[Moved, ArtifactRecord] | None:
    """The images, on the device of ``like``, and their record; None where they are gone.

    Those of all rows may also be there for good.

    Raises:
        StaleArtifact: another attack, source or shard made them.
        DamagedArtifact: they are not images of this shard.
    """
    places = [_place(unit, rows), *([] if rows else [unit.for_good])]
    address = next((place for place in places if store.has(place)), None)
    if address is None:
        return None
    record = store.record(address, unit.recipe)
    tensors = parse_weights(store.read(address, _FILE, record), address)
    tensors.setdefault("best", tensors.get("worst", torch.empty(0)))
    for name, (dtype, shape) in _expected(unit, like).items():
        if 0 in shape[2:]:  # left out of the file
            tensors[name] = torch.zeros(shape, dtype=dtype)
        found = tensors.get(name)
        if found is None or found.dtype != dtype or found.shape != shape:
            raise DamagedArtifact(f"{address} does not hold this shard's images. Delete it and rerun.")
    return Moved(*(tensors[name].to(like.device) for name in _TENSORS)), record


def _expected(unit: AttackUnit, like: Tensor) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    ladder = unit.unit.ladder
    rungs, rendering = len(ladder.threats), RENDERED.get(ladder.norm)
    moves = (rungs, len(like), *(rendering.shape if rendering else (0,)))
    images, numbers = (like.dtype, (rungs, *like.shape)), (torch.int64, (rungs, len(like)))
    return dict(zip(_TENSORS, (images, images, *[numbers] * 3, *[(like.dtype, moves)] * 2), strict=True))


def begun_rows(store: ArtifactStore, unit: AttackUnit) -> list[str]:
    """The names of rows that an attack was done with when it was interrupted."""
    return [address.rpartition("/")[2] for address in store.addresses(unit.partial)]


def drop_moved(store: ArtifactStore, unit: AttackUnit) -> None:
    """Remove images that all targets have read."""
    store.delete(unit.address)


def drop_rows(store: ArtifactStore, unit: AttackUnit) -> None:
    """Remove what was kept half-way."""
    for name in begun_rows(store, unit):
        store.delete(_place(unit, name))


def kept_moved(store: ArtifactStore, pending: Iterable[WorkUnit]) -> set[str]:
    """Addresses of attacks whose images are kept, for pending units to read.

    Images that no unit waits for are removed; those that were kept for good are not.
    """
    units = [unit.attack_unit for unit in pending]
    wanted, partial = {unit.address for unit in units}, {unit.partial for unit in units}
    kept = set(store.addresses(_KEPT))
    for address in kept - wanted:
        store.delete(address)
    for address in store.addresses(_PARTIAL):
        if address.rpartition("/")[0] not in partial:
            store.delete(address)
    for_good = store.stamps(_FOR_GOOD)
    return (kept & wanted) | {unit.address for unit in units if unit.for_good in for_good}


def keep_for_good(
    store: ArtifactStore, unit: AttackUnit, moved: Moved, shard: Pixels, told: Mapping[str, Any]
) -> None:
    """Commit an attack's adversarial images, with the masks that say which of them are what.

    ``worst`` and ``best`` are float32 in [0, 1], threats × images × 3 × size × size; where the house
    rendered them ``worst_moves`` and ``best_moves`` are what from. ``moved_worst`` and ``moved_best`` are 1
    for those that are not the image itself, ``fooled`` where the source fell, and ``read_as`` is what it
    read there. Images are in the order of their shard.
    """
    masks = {
        f"moved_{name}": (tensor != shard.images).flatten(2).any(dim=2).long().cpu()
        for name, tensor in (("worst", moved.worst), ("best", moved.best))
    }
    masks["fooled"] = moved.fooled(shard.labels).long().cpu()
    work = unit.unit
    epsilons = [threat.epsilon for threat in work.ladder.threats]
    what = {"source": work.source.name, "shard": work.shard, "norm": work.ladder.norm, "epsilons": epsilons}
    _save(store, unit.for_good, unit.recipe, _tensors(moved) | masks, {**told, **what})


def _place(unit: AttackUnit, rows: str) -> str:
    return f"{unit.partial}/{rows}" if rows else unit.address


def _tensors(moved: Moved) -> dict[str, Tensor]:
    same = torch.equal(moved.worst, moved.best)
    # Threats without moves leave none behind, in files that are as they were before there were any.
    empty = [name for name in _MOVES if not getattr(moved, name).shape[-1]]
    names = [name for name in _TENSORS if name not in empty and not (same and name == "best")]
    return {name: getattr(moved, name).cpu().contiguous() for name in names}


def _save(
    store: ArtifactStore,
    address: str,
    recipe: Mapping[str, Any],
    tensors: dict[str, Tensor],
    told: Mapping[str, Any],
) -> None:
    content = safetensors.torch.save(tensors)
    record = ArtifactRecord(
        recipe=recipe,
        files={_FILE: FileEntry.of(content)},
        provenance={**told, "versions": library_versions()},
    )
    store.commit(address, record, {_FILE: content})
