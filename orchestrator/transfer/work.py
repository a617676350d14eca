"""WorkUnit: one source, one shard, one attack under one threat, tried on all targets; and their plan."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orchestrator.attacks.attack import Threat
from orchestrator.models.ref import ModelRef
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.record import recipe_digest


@dataclass(frozen=True, kw_only=True)
class WorkUnit:
    """Attack one source once, score the images on every target from memory."""

    attack: str
    """Canonical name, as ``parse_attack`` gives it."""
    settings: Mapping[str, Any]
    """The attack's settings; part of the identity."""
    threat: Threat
    source: ModelRef
    shard: str
    """Address of the images."""
    shard_digest: str
    targets: tuple[ModelRef, ...]
    seed: int

    @property
    def prefix(self) -> str:
        """Where outcomes of this source, shard, attack and threat are, for any targets."""
        place = self.shard.rsplit("/", 1)[1]
        return f"outcomes/{self.attack}-{self.threat.slug}/{self.source.label}/{place}"

    @cached_property
    def address(self) -> str:
        """Where this unit's outcomes are: the last part names the set of targets by digest."""
        cohort = recipe_digest({"targets": [target.label for target in self.targets]})[:8]
        return f"{self.prefix}/{cohort}"

    @property
    def id(self) -> str:
        """The unit's name in ledgers and logs."""
        return self.address.removeprefix("outcomes/")

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """Everything that decides the outcomes."""
        return {
            "attack": self.attack,
            "settings": dict(self.settings),
            "norm": self.threat.norm,
            "epsilon": self.threat.epsilon,
            "source": self.source.digest,
            "shard": self.shard_digest,
            "targets": {target.label: target.digest for target in self.targets},
            "seed": self.seed,
        }


@dataclass(frozen=True)
class UnitPlan:
    """The units whose outcomes fill the matrix: those recorded, and those to do."""

    done: tuple[WorkUnit, ...]
    pending: tuple[WorkUnit, ...]


def targets_of(source: ModelRef, models: Sequence[ModelRef]) -> tuple[ModelRef, ...]:
    """Whom a source's images are tried on: plain on all, a keyed model on its own method and plain."""
    if source.method == "plain":
        return tuple(models)
    return tuple(model for model in models if model.method in ("plain", source.method))


def plan_units(wanted: Iterable[WorkUnit], store: ArtifactStore) -> UnitPlan:
    """Split what is wanted into what is recorded and what is left.

    A study that grew by some keys finds outcomes of its old targets under the same prefix; only the
    new targets are then left to score. One listing answers for all units that did not grow.
    """
    recorded = set(store.addresses("outcomes"))
    by_prefix: dict[str, list[str]] = {}
    for address in sorted(recorded):
        by_prefix.setdefault(address.rsplit("/", 1)[0], []).append(address)
    done: list[WorkUnit] = []
    pending: list[WorkUnit] = []
    for unit in wanted:
        if unit.address in recorded:
            done.append(unit)
            continue
        covered = [_narrowed(unit, store, address) for address in by_prefix.get(unit.prefix, [])]
        parts = [part for part in covered if part.targets]
        done += parts
        known = {target.label for part in parts for target in part.targets}
        left = tuple(target for target in unit.targets if target.label not in known)
        if left:
            pending.append(with_targets(unit, left))
    return UnitPlan(tuple(done), tuple(pending))


def with_targets(unit: WorkUnit, targets: tuple[ModelRef, ...]) -> WorkUnit:
    """The same attack on fewer targets."""
    fields = {name: getattr(unit, name) for name in WorkUnit.__dataclass_fields__}
    return WorkUnit(**{**fields, "targets": targets})


def _narrowed(unit: WorkUnit, store: ArtifactStore, address: str) -> WorkUnit:
    """The unit as it was recorded at an address, or with no targets where they are not all wanted."""
    recorded = store.record(address).recipe["targets"]
    wanted = {target.label: target for target in unit.targets}
    if not set(recorded) <= set(wanted):
        return with_targets(unit, ())
    # The recorded order is the json's, sorted; the address was made from the unit's own order.
    return with_targets(unit, tuple(target for label, target in wanted.items() if label in recorded))
