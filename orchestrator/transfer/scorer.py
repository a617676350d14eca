"""Scorer: what every target reads the moved images as, row by row; facts only."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from jaxtyping import Float, Int
from torch import Tensor

from orchestrator.attacks.patches import patch_sides
from orchestrator.attacks.threat import Norm, distances
from orchestrator.models.ref import ModelRef
from orchestrator.transfer.climb import Moved
from orchestrator.transfer.held import Pixels
from orchestrator.transfer.judge import Reading
from orchestrator.transfer.outcomes import outcome_schema
from orchestrator.transfer.readers import Reader, Readers
from orchestrator.transfer.work import WorkUnit

# Clean predictions held, by target and shard: some kilobytes each.
_CLEAN_READINGS = 4096


@dataclass
class Scorer:
    """Has every target read the images."""

    readers: Readers
    _clean: "OrderedDict[tuple[str, str], Reading]" = field(default_factory=OrderedDict)

    def score(self, unit: WorkUnit, shard: Pixels, moved: Moved) -> tuple[pa.Table, int]:
        """The outcomes of a unit, and how many misreadings another batch size did not repeat."""
        norm, worst_moves, best_moves = unit.ladder.norm, moved.worst_moves, moved.best_moves
        worst = [_seen(*made, shard, norm) for made in zip(moved.worst, worst_moves, strict=True)]
        best = [_seen(*made, shard, norm) for made in zip(moved.best, best_moves, strict=True)]
        tables: dict[ModelRef, list[pa.Table]] = {}
        unconfirmed = 0
        for reader in self.readers.of(unit.targets):
            clean = self._clean_readings(reader, shard)
            for rung, threat in enumerate(unit.ladder.threats):
                attacked = {"forwards": moved.forwards[rung], "backwards": moved.backwards[rung]}
                attacked["source_fooled"] = moved.fooled(shard.labels)[rung]
                for target, reading in _moved_readings(reader, unit, shard, moved, rung).items():
                    unconfirmed += reading.unconfirmed
                    facts = {
                        "clean_prediction": clean[target].classes,
                        "adversarial_prediction": reading.classes,
                        **(worst if target in unit.source.members else best)[rung],
                        **attacked,
                    }
                    table = _rows(unit, target, shard, threat.epsilon, facts)
                    tables.setdefault(target, []).append(table)
        return pa.concat_tables(table for target in unit.targets for table in tables[target]), unconfirmed

    def _clean_readings(self, reader: Reader, shard: Pixels) -> dict[ModelRef, Reading]:
        places = {target: (target.address, shard.address) for target in reader.targets}
        missing = [target for target, place in places.items() if place not in self._clean]
        read = reader.read(missing, shard.images, shard.labels)
        self._clean |= zip((places[target] for target in missing), read, strict=True)
        found = {target: self._clean[place] for target, place in places.items()}
        while len(self._clean) > _CLEAN_READINGS:
            self._clean.popitem(last=False)
        return found


def _moved_readings(
    reader: Reader, unit: WorkUnit, shard: Pixels, moved: Moved, rung: int
) -> dict[ModelRef, Reading]:
    """What targets read: a model under attack is asked whether it fell, the others what travels to them.

    A model that was attacked by itself has been asked: its attack was judged by this very reading.
    """
    own = [target for target in reader.targets if target in unit.source.members]
    judged = {target: Reading(moved.read_as[rung], 0) for target in own if unit.source.members == (target,)}
    found = dict(judged)
    for images, targets in (
        (moved.worst[rung], [target for target in own if target not in judged]),
        (moved.best[rung], [target for target in reader.targets if target not in own]),
    ):
        found |= zip(targets, reader.read(targets, images, shard.labels), strict=True)
    return found


def _seen(
    images: Float[Tensor, "images 3 size size"],
    moves: Float[Tensor, "images ..."],
    shard: Pixels,
    norm: Norm,
) -> dict[str, Tensor]:
    away = distances(images, shard.images)
    if norm == "patch":
        away[norm] = patch_sides(images, shard.images).double()
    elif norm not in away:
        away[norm] = moves.double().abs().flatten(1).amax(dim=1)
    moved = (images != shard.images).flatten(1).any(dim=1)
    return {"moved": moved, **{f"distance_{name}": distance for name, distance in away.items()}}


def _rows(
    unit: WorkUnit,
    target: ModelRef,
    shard: Pixels,
    epsilon: float,
    facts: dict[str, Int[Tensor, " images"] | Any],
) -> pa.Table:
    count = len(shard.names)
    method = target.method if target.method != "plain" else unit.source.method
    columns: dict[str, Any] = {
        "image": shard.names,
        "source": [unit.source.name] * count,
        "target": [target.name] * count,
        "method": [method] * count,
        "attack": [unit.attack] * count,
        "norm": [unit.ladder.norm] * count,
        "epsilon": [epsilon] * count,
        "label": shard.labels.cpu().numpy(),
        **{name: tensor.cpu().numpy() for name, tensor in facts.items()},
    }
    schema = outcome_schema(unit.ladder.norm)
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    return pa.table(arrays, schema=schema)
