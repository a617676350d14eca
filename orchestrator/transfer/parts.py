"""A long attack in parts: what is done is kept on the way, so that whoever goes on does not begin anew."""

import time
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.record import ArtifactRecord
from orchestrator.transfer.climb import Moved
from orchestrator.transfer.moved import begun_rows, read_moved, save_moved
from orchestrator.transfer.work import AttackUnit

# At most about this much of an attack is lost with its worker.
SAVE_SECONDS = 60.0
Attacked = Callable[[Tensor], Moved]


def in_parts(
    store: ArtifactStore,
    unit: AttackUnit,
    images: Float[Tensor, "images 3 size size"],
    size: int,
    attacked: Attacked,
    told: dict[str, Any],
) -> Moved:
    """Attack ``size`` images after another; what an interrupted attack has kept is taken up.

    An image's answer does not depend on where parts begin, so neither does the whole. Kept rows stay until
    the unit is committed (``drop_rows``): a worker may yet die while it scores them.

    Args:
        store: where finished rows are kept until the unit is done.
        unit: the attack.
        images: all images of its shard.
        size: images of a part.
        attacked: the attack on some rows.
        told: what it tells so far, to which ``attacked`` adds; kept with the rows, and taken up with them.
    """
    parts, done = _taken_up(store, unit, images, told)
    fresh: list[Moved] = []
    kept_to, since = done, time.monotonic()
    while done < len(images):
        end = min(done + size, len(images))
        fresh.append(attacked(torch.arange(done, end, device=images.device)))
        done = end
        if done < len(images) and time.monotonic() - since >= SAVE_SECONDS:
            name = f"{kept_to:08d}-{done:08d}"
            parts.append(Moved.joined(fresh))
            save_moved(store, unit, parts[-1], told, rows=name)
            fresh, kept_to, since = [], done, time.monotonic()
    return Moved.joined([*parts, *fresh])


def _taken_up(
    store: ArtifactStore,
    unit: AttackUnit,
    images: Float[Tensor, "images 3 size size"],
    told: dict[str, Any],
) -> tuple[list[Moved], int]:
    """What is kept of the first rows without a gap, and how many they are."""
    parts: list[Moved] = []
    done = 0
    for name in sorted(begun_rows(store, unit)):
        first, _, end = name.partition("-")
        if int(first) == done:
            found = read_moved(store, unit, images[done : int(end)], rows=name)
            if found is not None:
                moved, record = found
                parts.append(moved)
                _take_up_told(told, record, unit.partial)
                done = int(end)
    return parts, done


def _take_up_told(told: dict[str, Any], record: ArtifactRecord, address: str) -> None:
    for name, so_far in told.items():
        kept = record.told(name, type(so_far), address)
        if isinstance(so_far, dict):
            so_far.update(kept)  # in place: the source goes on writing into it
        else:
            told[name] = kept
