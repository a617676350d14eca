"""Plan: every artifact a study needs, known before any is made; what is recorded is not made again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.attacks import attack_settings
from orchestrator.keys.vault import KeySource
from orchestrator.models.ensemble import SourceRef
from orchestrator.models.ref import PLAIN, ModelRef
from orchestrator.models.rekey import Rekeying
from orchestrator.models.stored import KeyAccess
from orchestrator.pipeline.fleet import plan_fleet
from orchestrator.seeds import derive_seed
from orchestrator.shards.cutting import plan_shards
from orchestrator.shards.shard import Shard
from orchestrator.shards.sources import Split
from orchestrator.store.record import recipe_digest
from orchestrator.study import Study
from orchestrator.training.finetune import TrainingUnit
from orchestrator.transfer.work import Known, WorkUnit, targets_of


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All artifacts of a study between its keys and its matrix, by stage."""

    study: Study
    train_shards: tuple[Shard, ...]
    eval_shards: tuple[Shard, ...]
    plain: TrainingUnit
    keyed: tuple[TrainingUnit, ...]
    """Every key's models, then the controls that are trained, by method."""
    rekeyed: tuple[Rekeying, ...]
    """The controls that are only rewritten."""
    units: tuple[WorkUnit, ...]

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Training shards, then those that are attacked."""
        return self.train_shards + self.eval_shards

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """The plain model, every key's models, and the controls."""
        trained, rewritten = (unit.model for unit in self.keyed), (each.model for each in self.rekeyed)
        return (self.plain.model, *trained, *rewritten)

    def restricted(self, models: Sequence[ModelRef]) -> tuple[WorkUnit, ...]:
        """The attack units among some models: those that could be trained."""
        there = set(models)
        units = []
        for unit in self.units:
            targets = tuple(target for target in unit.targets if target in there)
            if targets and there.issuperset(unit.source.members):
                units.append(replace(unit, targets=targets))
        return tuple(units)


@dataclass(frozen=True)
class Images:
    """The shards a study trains on and those it attacks."""

    train: tuple[Shard, ...]
    evaluation: tuple[Shard, ...]


def plan_images(study: Study) -> Images:
    """The shards of both splits; looks at the data, makes nothing.

    Raises:
        DataError: a split is missing, empty, or has labels out of range.
    """
    return Images(_shards(study, "train"), _shards(study, "eval"))


def make_plan(
    study: Study, images: Images, key_ids: Sequence[str], store_uri: str, keys: KeySource
) -> Plan:
    """The plan of a study whose keys have these public ids, in slot order."""
    train, evaluation = images.train, images.evaluation
    data = recipe_digest({"shards": [recipe_digest(shard.recipe) for shard in train]})
    access = KeyAccess(keys=keys, study=study.name)
    plain = ModelRef(name=PLAIN, method="plain", recipe=_plain_recipe(study, data))
    fleets = [plan_fleet(study, method, key_ids, plain.digest, data) for method in study.methods]
    trained = [model for fleet in fleets for model in (*fleet.keyed, *fleet.controls)]
    rekeyed = [
        Rekeying(
            model=fleet.rekeyed,
            twin=fleet.keyed[0],
            architecture=study.architecture,
            block_size=study.block_size,
            keys=access,
        )
        for fleet in fleets
        if fleet.rekeyed
    ]
    addresses = tuple(shard.address for shard in train)
    trainings = [_training(study, ref, addresses, store_uri, access) for ref in (plain, *trained)]
    models = (plain, *trained, *(each.model for each in rekeyed))
    return Plan(
        study=study,
        train_shards=train,
        eval_shards=evaluation,
        plain=trainings[0],
        keyed=tuple(trainings[1:]),
        rekeyed=tuple(rekeyed),
        units=_work_units(study, models, train, evaluation),
    )


def _shards(study: Study, split: Split) -> tuple[Shard, ...]:
    training = split == "train"
    # Whatever methods this run trains, so that a later run of the study finds the same shards.
    recipes = [study.recipe, study.lora, *([] if study.weights else [study.base])]
    return tuple(
        plan_shards(
            study.data,
            split,
            classes=study.architecture.classes,
            rows=study.shard_rows,
            limit=study.train_images if training else study.eval_images,
            image_size=study.architecture.image_size,
            crop_fraction=study.crop_fraction,
            encoded=training and any(r.augment == "inception" for r in recipes),
            draw=derive_seed(study.seed, "images", split) if study.precision and not training else None,
        )
    )


def _plain_recipe(study: Study, data: str) -> dict[str, Any]:
    fixed = {"kind": "plain", "weights": study.weights, **study.fixed()}
    for name in ("block_size", "transform"):  # the undefended model is the same for every kind of key
        fixed.pop(name, None)
    if study.weights:
        return fixed
    return {**fixed, "data": data, "training": study.base.identity("plain")}


def _training(
    study: Study, ref: ModelRef, shards: tuple[str, ...], store: str, keys: KeyAccess
) -> TrainingUnit:
    return TrainingUnit(
        model=ref,
        architecture=study.architecture,
        recipe=study.recipe_of(ref.method),
        block_size=study.block_size,
        shards=shards,
        store=store,
        keys=keys,
        seed=derive_seed(study.seed, "model", ref.label),
    )


def sources_of(study: Study, models: Sequence[ModelRef]) -> list[SourceRef]:
    """The models that are attacked: plain, keys in slot order and controls; then every method's ensembles.

    Where only some keys are attacked they are the first: keys are drawn at random, so any will do, and
    a study that grows keeps them.
    """
    most = study.sources or study.n_keys
    plain = models[0]
    sources: list[SourceRef] = [model for model in models if model.control or model.slot < most]
    for method in study.methods:
        keyed = [model for model in models if model.method == method and not model.control]
        for spec in study.parsed_ensembles():
            # Of all keys, so that there is always one outside; members are attacked ones.
            sources += [group for group in spec.of(plain, keyed) if group.keyed_slots <= set(range(most))]
    return sources


def _work_units(
    study: Study, models: Sequence[ModelRef], train: Sequence[Shard], shards: Sequence[Shard]
) -> tuple[WorkUnit, ...]:
    pairings = study.pairings()
    digests = {shard.address: recipe_digest(shard.recipe) for shard in shards}
    known = Known(
        plain=models[0],
        block_size=study.block_size,
        examples=train[0].address,
        examples_digest=recipe_digest(train[0].recipe),
    )
    sources = sources_of(study, models)
    # One tuple for all sources that share it: in a large fleet a tuple a source would fill the memory.
    targets = {method: targets_of(method, models) for method in {source.method for source in sources}}
    # By source first: a worker that stays with one source loads it once.
    return tuple(
        WorkUnit(
            attack=name,
            settings=attack_settings(attack),
            ladder=ladder,
            source=source,
            shard=address,
            shard_digest=digest,
            targets=targets[source.method],
            seed=study.seed,
            known=known if attack.needs - {"vit"} else None,
            precision=study.attack_precision,
        )
        for source in sources
        for name, attack, ladder in pairings
        for address, digest in digests.items()
    )
