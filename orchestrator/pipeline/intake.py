"""Intake: images to the shards of a study, apart from what it trains; and what had to be left out."""

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.pipeline.bars import open_reporter
from orchestrator.pipeline.command import Command
from orchestrator.pipeline.metered import Metered
from orchestrator.pipeline.stages import StudyRun
from orchestrator.shards.shard import Shard
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.catalogue import read_records


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What became of one split."""

    split: str
    shards: int
    images: int
    """In the shards."""
    left_out: tuple[str, ...]
    """Names of images that could not be read as images, in order."""
    store_bytes: int
    core_seconds: float
    """What decoding and cutting took, summed over workers."""


def take_in(command: Command) -> list[Taken]:
    """Cut every shard that is not there yet, on the cluster; what both splits came to.

    Raises:
        StudyError: a shard cannot be made, or the study was begun with other settings.
        DataError: the data is missing, empty, or has labels out of range.
    """
    reporter, store, study = open_reporter(), command.open_store(), command.study
    with command.workplace() as workplace, workplace.meter() as meter:
        reporter.say(f"shards of {study.name} in {store.uri}, on {workplace.description}")
        metered = Metered(reporter, meter, study.name)
        images = StudyRun(study, store, command.vault_uri, workplace, metered).ingest()
    return list(_taken(store, {"train": images.train, "eval": images.evaluation}))


def _taken(store: ArtifactStore, splits: dict[str, tuple[Shard, ...]]) -> Iterator[Taken]:
    records = read_records(store, "shards")
    for split, shards in splits.items():
        cut = [(shard.address, records[shard.address]) for shard in shards]
        yield Taken(
            split=split,
            shards=len(cut),
            images=sum(record.told("images", int, address) for address, record in cut),
            left_out=tuple(
                str(name) for address, record in cut for name in record.told("left_out", list, address)
            ),
            store_bytes=sum(entry.size_bytes for _, record in cut for entry in record.files.values()),
            core_seconds=sum(record.told("seconds", float, address) for address, record in cut),
        )
