"""What was asked last of a study, in its store; so that a report or a status needs the store alone."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from orchestrator.detection.recipe import BankRecipe
from orchestrator.errors import DamagedArtifact, NotCommitted, StudyError, VaultError
from orchestrator.keys.secret import SecretKey
from orchestrator.models.backbone import Architecture
from orchestrator.pipeline.plan import Images, Plan, make_plan
from orchestrator.pipeline.roster import recorded_keys
from orchestrator.pipeline.tally import is_committed, replace_artifact
from orchestrator.shards.shard import Shard, shard_address
from orchestrator.shards.sources import Item, Split
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.catalogue import read_records
from orchestrator.store.parquet import told_as
from orchestrator.store.record import ArtifactRecord
from orchestrator.study import Study
from orchestrator.training.recipe import Recipe

ASKED = "asked"
_PARTS: Mapping[str, type[Any]] = {
    "architecture": Architecture,
    "detector": BankRecipe,
    "base": Recipe,
    "recipe": Recipe,
    "lora": Recipe,
}


def note_asked(study: Study, images: Images, store: ArtifactStore) -> None:
    """Record the study as it is asked for now, in place of what was asked before; no secret is in it."""
    recipe = {
        "study": _plain(asdict(study)),
        "shards": {"train": len(images.train), "eval": len(images.evaluation)},
    }
    if not is_committed(store, ASKED, recipe):
        replace_artifact(store, ASKED, recipe, {}, {})


def asked_study(store: ArtifactStore) -> tuple[Study, Mapping[str, int]]:
    """The study as it was asked for last, and how many shards it has by split.

    Raises:
        StudyError: no study was begun here.
        DamagedArtifact: what is recorded is no study of this version.
    """
    try:
        recipe = store.record(ASKED).recipe
    except NotCommitted:
        raise StudyError(
            f"No study was begun in {store.uri}. Give the --store and --name that it was begun with."
        ) from None
    with told_as(DamagedArtifact, f"{ASKED} is no study", "Run the study's own command once more."):
        values = {name: _typed(name, value) for name, value in dict(recipe["study"]).items()}
        if unknown := values.keys() - {field.name for field in fields(Study)}:
            raise ValueError(f"it has {min(unknown)[:40]}, which this version has not")
        return Study(**values), {split: int(recipe["shards"][split]) for split in ("train", "eval")}


def recall_plan(store: ArtifactStore) -> Plan:
    """The plan of the study as it was asked for last, from the store alone: no data, no vault, no Ray.

    Models cannot be trained or loaded by it where that takes a key.

    Raises:
        StudyError: no study was begun here, or its shards and keys are not all there yet.
        DamagedArtifact: a record is not what it should be.
    """
    study, counts = asked_study(store)
    shards, keys = read_records(store, "shards"), recorded_keys(store)
    missing = [slot for slot in range(study.n_keys) if slot not in keys]
    if missing:
        raise StudyError(
            f"Study {study.name} has no key in slot {missing[0]} yet. Wait until it was begun."
        )
    images = Images(
        _recalled(shards, "train", counts["train"]),
        _recalled(shards, "eval", counts["eval"], drawn=study.precision > 0),
    )
    ids = [keys[slot] for slot in range(study.n_keys)]
    return make_plan(study, images, ids, store.uri, _NoKeys())


class _NoKeys:
    """A source of keys that has none."""

    def open(self, study: str, slot: int, key_id: str) -> SecretKey:
        """Refuse."""
        del study, slot
        raise VaultError(f"{key_id} is not to be had from a store alone. Run the study's own command.")


def _recalled(
    records: Mapping[str, ArtifactRecord], split: Split, count: int, *, drawn: bool = False
) -> tuple[Shard, ...]:
    """The shards of a split, as their records describe them.

    Raises:
        StudyError: one is not there yet.
        DamagedArtifact: a record is not of a shard.
    """
    found = []
    for index in range(count):
        address = shard_address(split, index, drawn=drawn)
        record = records.get(address)
        if record is None:
            raise StudyError(f"{address} is not there yet. Wait until the study's shards are cut.")
        with told_as(DamagedArtifact, f"{address} is not a shard", f"Delete {address} and rerun."):
            recipe = record.recipe
            items = tuple(Item(str(file), int(row), int(label)) for file, row, label in recipe["items"])
            rest = {name: recipe[name] for name in ("image_size", "crop_fraction", "encoded")}
            data = str(record.provenance["data"])
            found.append(Shard(split=split, index=index, data=data, items=items, drawn=drawn, **rest))
    return tuple(found)


def _plain(value: Any) -> Any:
    """A value as json keeps it: tuples are lists."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _typed(name: str, value: Any) -> Any:
    if name in _PARTS:
        return _PARTS[name](**{part: _typed("", each) for part, each in dict(value).items()})
    return tuple(value) if isinstance(value, list) else value
