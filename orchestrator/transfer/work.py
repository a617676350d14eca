"""WorkUnit: one source, one shard, one attack up a ladder of threats, tried on all targets; their plan."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from orchestrator.attacks.source import Precision
from orchestrator.attacks.threat import Ladder
from orchestrator.models.ensemble import SourceRef
from orchestrator.models.ref import Method, ModelRef
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.catalogue import read_records
from orchestrator.store.record import ArtifactRecord, recipe_digest
from orchestrator.store.verify import stale


@dataclass(frozen=True, kw_only=True)
class Known:
    """What attackers of a study know beside their source; by address, for attacks that need it."""

    plain: ModelRef
    block_size: int
    examples: str
    """Address of a training shard: labelled images of the attacker's own."""
    examples_digest: str

    @property
    def recipe(self) -> dict[str, Any]:
        """What decides an attack that needs it."""
        return {
            "plain": self.plain.digest,
            "block_size": self.block_size,
            "examples": self.examples_digest,
        }


@dataclass(frozen=True, kw_only=True)
class WorkUnit:
    """Attack one source once, score the images on every target from memory."""

    attack: str
    """Canonical name, as ``parse_attack`` gives it."""
    settings: Mapping[str, Any]
    """The attack's settings; part of the identity."""
    ladder: Ladder
    """The threats, climbed in one run."""
    source: SourceRef
    shard: str
    """Address of the images."""
    shard_digest: str
    targets: tuple[ModelRef, ...]
    seed: int
    known: Known | None = None
    """Given to attacks that need it, and only to those."""
    precision: Precision = "fp32"
    """In what the source is run while it is attacked; it is judged in fp32."""
    kept: bool = False
    """The attack is done and its images are kept; no part of the identity, as they are the same images."""

    @property
    def prefix(self) -> str:
        """Where outcomes of this source, shard, attack and threat are, for any targets."""
        place = self.shard.rsplit("/", 1)[1]
        return f"outcomes/{self.attack}-{self.ladder.slug}/{self.source.label}/{place}"

    @cached_property
    def address(self) -> str:
        """Where this unit's outcomes are: the last part names the set of targets by digest."""
        return f"{self.prefix}/{_cohort(tuple(target.label for target in self.targets))}"

    @property
    def attack_unit(self) -> "AttackUnit":
        """The attack alone."""
        return AttackUnit(self)

    @property
    def id(self) -> str:
        """The unit's name in ledgers and logs."""
        return self.address.removeprefix("outcomes/")

    @property
    def attack_recipe(self) -> dict[str, Any]:
        """Everything that decides the moved images."""
        return {
            "attack": self.attack,
            "settings": dict(self.settings),
            "norm": self.ladder.norm,
            "epsilons": [threat.epsilon for threat in self.ladder.threats],
            "source": self.source.digest,
            "shard": self.shard_digest,
            "seed": self.seed,
            **({"precision": self.precision} if self.precision != "fp32" else {}),
            **({"known": self.known.recipe} if self.known else {}),
        }

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that decides the outcomes."""
        targets = {target.label: target.digest for target in self.targets}
        return {**self.attack_recipe, "targets": targets}


# Thousands of units share a set of targets.
@functools.lru_cache(maxsize=1024)
def _cohort(labels: tuple[str, ...]) -> str:
    return recipe_digest({"targets": list(labels)})[:8]


@dataclass(frozen=True)
class AttackUnit:
    """The attack of a unit alone, done early: its source is there, some of its targets are not."""

    unit: WorkUnit

    @property
    def address(self) -> str:
        """Where the moved images wait."""
        return f"moved/{self.unit.prefix.removeprefix('outcomes/')}"

    @property
    def partial(self) -> str:
        """Below which images wait that an interrupted attack was done with, some rows each."""
        return f"partial/{self.unit.prefix.removeprefix('outcomes/')}"

    @property
    def for_good(self) -> str:
        """Where the moved images stay, where they are kept for good."""
        return f"adversarial/{self.unit.prefix.removeprefix('outcomes/')}"

    @property
    def id(self) -> str:
        """The unit's name in ledgers and logs."""
        return self.address

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that decides the moved images."""
        return self.unit.attack_recipe


@dataclass(frozen=True)
class Scored:
    """Recorded outcomes of a wanted unit, and those of their targets that count."""

    address: str
    record: ArtifactRecord
    targets: frozenset[str]
    """Labels of targets; each target of a unit counts from one address only."""

    @property
    def whole(self) -> bool:
        """Whether every recorded target counts."""
        return self.targets == frozenset(self.record.recipe["targets"])


@dataclass(frozen=True)
class UnitPlan:
    """The outcomes that fill the matrix: those recorded, and the units that are left to do."""

    scored: tuple[Scored, ...]
    pending: tuple[WorkUnit, ...]


def targets_of(method: Method, models: Sequence[ModelRef]) -> tuple[ModelRef, ...]:
    """Whom a source of this method is tried on: plain on all, a keyed one on its own method and plain."""
    if method == "plain":
        return tuple(models)
    return tuple(model for model in models if model.method in ("plain", method))


def plan_units(wanted: Iterable[WorkUnit], store: ArtifactStore) -> UnitPlan:
    """Split what is wanted into what is recorded and what is left.

    A study that grew by some keys finds outcomes of its old targets under the same prefix; only the
    new targets are then left to score. Where recorded sets of targets overlap, each target counts
    from the first address that has it.

    Raises:
        StaleArtifact: recorded outcomes were made with other models, images or settings.
    """
    records = read_records(store, "outcomes")
    by_prefix: dict[str, list[str]] = {}
    for address in records:
        by_prefix.setdefault(address.rsplit("/", 1)[0], []).append(address)
    scored: list[Scored] = []
    pending: list[WorkUnit] = []
    for unit in wanted:
        left = {target.label: target for target in unit.targets}
        # The unit's own address first: where nothing grew, it has everything.
        for address in sorted(by_prefix.get(unit.prefix, []), key=lambda a: (a != unit.address, a)):
            if not left:
                break
            record = records[address]
            _check(unit, address, record)
            found = left.keys() & record.recipe["targets"].keys()
            if found:
                scored.append(Scored(address, record, frozenset(found)))
                left = {label: target for label, target in left.items() if label not in found}
        if left:
            pending.append(replace(unit, targets=tuple(left.values())))
    return UnitPlan(tuple(scored), tuple(pending))


def _check(unit: WorkUnit, address: str, record: ArtifactRecord) -> None:
    """Raise StaleArtifact unless the record is of this attack, source and shard, and of these targets."""
    wanted = {target.label: target.digest for target in unit.targets}
    targets = {label: wanted.get(label, made) for label, made in record.recipe["targets"].items()}
    expect = {**unit.attack_recipe, "targets": targets}
    if record.recipe != expect and record.digest != recipe_digest(expect):
        raise stale(address, record, expect)
