"""Scorer: what every target reads the moved images as, row by row; facts only."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from jaxtyping import Int
from torch import Tensor

from orchestrator.attacks.threat import distances
from orchestrator.models.ref import ModelRef
from orchestrator.transfer.climb import Moved
from orchestrator.transfer.held import Models, Pixels
from orchestrator.transfer.judge import Reading, read
from orchestrator.transfer.outcomes import OUTCOME_SCHEMA
from orchestrator.transfer.work import WorkUnit

# Clean predictions held, by target and shard: some kilobytes each.
_CLEAN_READINGS = 4096


@dataclass
class Scorer:
    """Reads images on targets, ``batch`` at a time."""

    models: Models
    batch: int
    _clean: "OrderedDict[tuple[str, str], Reading]" = field(default_factory=OrderedDict)

    def score(self, unit: WorkUnit, shard: Pixels, moved: Moved) -> tuple[pa.Table, int]:
        """The outcomes of a unit, and how many misreadings another batch size did not repeat."""
        tables, unconfirmed = [], 0
        for target in unit.targets:
            clean = self._clean_reading(target, shard)
            for rung, threat in enumerate(unit.ladder.threats):
                # A model under attack is asked whether it fell; the others what travels to them.
                images = (moved.worst if target in unit.source.members else moved.best)[rung]
                adversarial = read([self.models.get(target)], images, shard.labels, self.batch)
                unconfirmed += adversarial.unconfirmed
                facts = {
                    "clean_prediction": clean.classes,
                    "adversarial_prediction": adversarial.classes,
                    "source_fooled": moved.fooled[rung],
                    "moved": (images != shard.images).flatten(1).any(dim=1),
                    **{f"distance_{norm}": d for norm, d in distances(images, shard.images).items()},
                    "forwards": moved.forwards[rung],
                    "backwards": moved.backwards[rung],
                }
                tables.append(_rows(unit, target, shard, threat.epsilon, facts))
        return pa.concat_tables(tables), unconfirmed

    def _clean_reading(self, target: ModelRef, shard: Pixels) -> Reading:
        place = (target.address, shard.address)
        if place not in self._clean:
            self._clean[place] = read([self.models.get(target)], shard.images, shard.labels, self.batch)
            while len(self._clean) > _CLEAN_READINGS:
                self._clean.popitem(last=False)
        return self._clean[place]


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
    arrays = [pa.array(columns[field.name], field.type) for field in OUTCOME_SCHEMA]
    return pa.table(arrays, schema=OUTCOME_SCHEMA)
