"""Attacker: from a unit to its moved images: the source, what else is known, the climb, and its health."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from orchestrator.attacks import attack_from
from orchestrator.attacks.attack import Attack, Points
from orchestrator.attacks.quorums import QuorumSource
from orchestrator.attacks.source import Knowledge, Source
from orchestrator.models.committee import Insider, quorums
from orchestrator.models.ensemble import Ensemble
from orchestrator.seeds import derive_seed
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.transfer.climb import Moved, climb
from orchestrator.transfer.held import Models, Pixels, Shards
from orchestrator.transfer.indicators import look
from orchestrator.transfer.judge import read
from orchestrator.transfer.moved import drop_rows
from orchestrator.transfer.parts import in_parts
from orchestrator.transfer.work import WorkUnit

# From so many passes on, minutes of a small model on cores, an attack is made in parts.
_LONG = 500_000
# Images attacked at a time, at 224 px and at most: enough to fill a GPU.
_AT_A_TIME, _AT_MOST = 64, 512
# All quorums up to 5 of 10; of more so many are drawn, once: an expectation over them stays one function.
_QUORUMS_CLIMBED = 252


@dataclass
class Attacker:
    """Makes the moved images of units; the answer for an image depends on none of its settings."""

    store: ArtifactStore
    models: Models
    shards: Shards

    def attack(self, unit: WorkUnit, shard: Pixels) -> tuple[Moved, dict[str, Any]]:
        """The images, and what is to be told of the attack: indicators, findings, flips.

        Raises:
            ThreatViolated: the attack left its threat.
            StudyError: the attack does not fit the model.
        """
        attack = attack_from(unit.settings)
        source, points = self._source(unit, attack, shard), self._points(unit, shard)
        told: dict[str, Any] = {"silent": 0, "unconfirmed": 0, "findings": source.findings}

        def attacked(rows: Int[Tensor, " rows"]) -> Moved:
            part, few = source.part(rows), points.part(rows)
            moved = climb(attack, part, few, unit.ladder)
            return self._judged(part, few, moved, source.batch, told)

        if _long(attack, shard):
            moved = in_parts(self.store, unit.attack_unit, shard.images, 2 * source.batch, attacked, told)
        else:
            moved = attacked(torch.arange(len(shard.names), device=shard.images.device))
        return moved, {**told, "indicators": asdict(look(source, points))}

    def forget(self, unit: WorkUnit, shard: Pixels) -> None:
        """Remove what was kept on the way, once the unit is committed."""
        if _long(attack_from(unit.settings), shard):
            drop_rows(self.store, unit.attack_unit)

    def _judged(
        self, source: Source, points: Points, moved: Moved, batch: int, told: dict[str, Any]
    ) -> Moved:
        readings = [read(source.models, worst, points.labels, batch) for worst in moved.worst]
        judged = replace(moved, read_as=torch.stack([reading.classes for reading in readings]))
        told["unconfirmed"] += sum(reading.unconfirmed for reading in readings)
        fell = judged.fooled(points.labels)[-1]
        told["silent"] += int((source.seen_misread[source.rows] & ~fell).sum())
        return judged

    def _points(self, unit: WorkUnit, shard: Pixels) -> Points:
        # One seed an image: its answer is the same in any batch, order or shard, on any worker.
        stream = (unit.attack, str(unit.ladder), unit.source.label)
        seeds = [derive_seed(unit.seed, "attack", *stream, name) for name in shard.names]
        return Points.of(shard.images, shard.labels, seeds)

    def _source(self, unit: WorkUnit, attack: Attack, shard: Pixels) -> Source:
        size, reached_into = shard.images.shape[-1], "vit" in attack.needs
        built, ways = _way(unit)
        return built(
            [self.models.get(member, reached_into=reached_into) for member in unit.source.members],
            len(shard.names),
            batch=max(_AT_A_TIME, min(_AT_MOST, _AT_A_TIME * 224**2 // size**2)),
            precision=unit.precision,
            access=attack.access,
            knowledge=self._knowledge(unit, attack),
            device=shard.images.device,
            **ways,
        )

    def _knowledge(self, unit: WorkUnit, attack: Attack) -> Knowledge:
        known = unit.known
        if known is None:
            return Knowledge()
        examples = None
        if "examples" in attack.needs:
            own = self.shards.get(known.examples)
            examples = (own.images, own.labels)
        plain = self.models.get(known.plain) if "plain" in attack.needs else None
        return Knowledge(plain=plain, block_size=known.block_size, examples=examples)


def _way(unit: WorkUnit) -> tuple[type[Source], dict[str, Any]]:
    """How the source's models are attacked as one."""
    source = unit.source
    if isinstance(source, Insider):
        seed = derive_seed(unit.seed, "quorums", source.label)
        some = quorums(len(source.members), source.seats, _QUORUMS_CLIMBED, seed)
        combine = "gradients" if source.expected == "loss" else "logits"
        return QuorumSource, {"quorums": some, "combine": combine}
    return Source, {"combine": source.combine} if isinstance(source, Ensemble) else {}


def _long(attack: Attack, shard: Pixels) -> bool:
    calls = sum(attack.calls(int(shard.labels.max()) + 1)) if len(shard.names) else 0
    return calls * len(shard.names) >= _LONG
