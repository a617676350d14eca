"""State of a study by its store alone: what is there, what is to do, and what it took."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.pipeline.so_far import PanelSoFar
from orchestrator.status.pace import Made, Pace, pace, pause_seconds
from orchestrator.store.record import ArtifactRecord

Kind = Literal["begin", "model", "attack"]
"""What a stage makes: keys and shards, models, or outcomes."""


@dataclass(frozen=True, kw_only=True)
class StageState:
    """One stage. What failed is among what is to do: a store knows only what is there."""

    name: str
    kind: Kind
    done: int
    total: int | None
    """None where it is not known yet."""
    pace: Pace
    device_seconds: Mapping[str, float]
    """By type of device, of what is there."""
    size_bytes: int

    @property
    def to_do(self) -> int | None:
        """How many artifacts are not there."""
        return None if self.total is None else self.total - self.done


@dataclass(frozen=True, kw_only=True)
class StudyState:
    """A study as its store has it."""

    name: str
    stages: Sequence[StageState]
    last: float
    """When the last artifact of any kind was written, in seconds since the epoch."""
    quiet: bool
    """Whether that is longer ago than its artifacts take."""
    note: str = ""
    """Why not all can be told; empty where it can."""
    under_way: Sequence[str] = ()
    """What was begun and is not whole yet."""
    failed: Sequence[str] = ()
    """What the last run that wrote a report says it could not do."""
    panels: Sequence[PanelSoFar] = field(default=(), repr=False)
    """The matrix so far."""
    counted: str = ""
    """From what the matrix is counted."""

    @property
    def complete(self) -> bool:
        """Whether nothing is to do."""
        return all(stage.to_do == 0 for stage in self.stages)

    @property
    def device_seconds(self) -> Mapping[str, float]:
        """By type of device, of everything that is there."""
        return add_up(stage.device_seconds for stage in self.stages)

    @property
    def size_bytes(self) -> int:
        """Payload of everything that is there."""
        return sum(stage.size_bytes for stage in self.stages)


@dataclass(frozen=True)
class Shelf:
    """Records with the times they were written at, and the time of the look."""

    records: Mapping[str, ArtifactRecord]
    times: Mapping[str, float]
    now: float

    @property
    def last(self) -> float:
        """When the last artifact of any kind was written."""
        return max(self.times.values())

    @property
    def quiet(self) -> bool:
        """Whether that is longer ago than artifacts take."""
        longest = max((seconds_of(record) for record in self.records.values()), default=0.0)
        return self.now - self.last > pause_seconds(longest)

    def stage(
        self,
        name: str,
        kind: Kind,
        addresses: Iterable[str],
        total: int | None,
        done: int | None = None,
    ) -> StageState:
        """A stage of artifacts.

        Args:
            name: of the stage.
            kind: what it makes.
            addresses: of its artifacts; those without a record are left out.
            total: how many it has when it is over, None where that is not known.
            done: how many of them are there, where that is not the number of records.
        """
        found = [(self.records[each], self.times.get(each)) for each in addresses if each in self.records]
        done = len(found) if done is None else done
        made = [Made(at, seconds_of(record)) for record, at in found if at is not None]
        return StageState(
            name=name,
            kind=kind,
            done=done,
            total=total,
            pace=Pace() if total is None else pace(made, total - done, self.now),
            device_seconds=add_up(used_by(record) for record, _ in found),
            size_bytes=sum(entry.size_bytes for record, _ in found for entry in record.files.values()),
        )


def seconds_of(record: ArtifactRecord) -> float:
    """How long an artifact's making took, by its own account; 0 where it does not say."""
    seconds = record.provenance.get("seconds")
    return seconds if isinstance(seconds, float) else 0.0


def used_by(record: ArtifactRecord) -> Mapping[str, float]:
    """Device time an artifact took: its seconds on each of its workers."""
    workers = record.provenance.get("workers", 1)
    device = record.provenance.get("device", "cpu")
    if not isinstance(workers, int) or not isinstance(device, str):
        return {}
    return {device: seconds_of(record) * workers}


def add_up(parts: Iterable[Mapping[str, float]]) -> Mapping[str, float]:
    """Device time of several parts, by type of device; none where there was none."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return {device: float(seconds) for device, seconds in total.items() if seconds}
