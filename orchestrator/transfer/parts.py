"""A long attack in parts: what is done is kept on the way, so that whoever goes on does not begin anew."""

import time
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.store.artifacts import ArtifactStore
from orchestrator.transfer.climb import Moved
from orchestrator.transfer.moved import begun_rows, drop_rows, read_moved, save_moved
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
) -> Moved:
    """Attack ``size`` images after another; what an interrupted attack has kept is taken up.

    An image's answer does not depend on where parts begin, so neither does the whole.

    Args:
        store: where finished rows are kept until the unit is done.
        unit: the attack.
        images: all images of its shard.
        size: images of a part.
        attacked: the attack on some rows.
    """
    parts, names, done = _taken_up(store, unit, images)
    fresh: list[Moved] = []
    kept_to, since = done, time.monotonic()
    while done < len(images):
        end = min(done + size, len(images))
        fresh.append(attacked(torch.arange(done, end, device=images.device)))
        done = end
        if done < len(images) and time.monotonic() - since >= SAVE_SECONDS:
            name = f"{kept_to:08d}-{done:08d}"
            parts.append(Moved.joined(fresh))
            save_moved(store, unit, parts[-1], {}, rows=name)
            names.append(name)
            fresh, kept_to, since = [], done, time.monotonic()
    whole = Moved.joined([*parts, *fresh])
    drop_rows(store, unit, names)
    return whole


def _taken_up(
    store: ArtifactStore, unit: AttackUnit, images: Float[Tensor, "images 3 size size"]
) -> tuple[list[Moved], list[str], int]:
    """What is kept of the first rows without a gap, the names of all that is kept, and the rows done."""
    names = sorted(begun_rows(store, unit))
    parts: list[Moved] = []
    done = 0
    for name in names:
        first, _, end = name.partition("-")
        if int(first) == done:
            found = read_moved(store, unit, images[done : int(end)], rows=name)
            if found is not None:
                parts.append(found[0])
                done = int(end)
    return parts, names, done
