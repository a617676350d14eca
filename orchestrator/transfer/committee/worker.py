"""CommitteeWorker: shows a committee images, kept ones or an insider's, and records how often it errs."""

import io
import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from torch import Tensor

from orchestrator.models.committee import quorums
from orchestrator.seeds import derive_seed
from orchestrator.store.artifacts import open_store
from orchestrator.store.record import ArtifactRecord, FileEntry, library_versions
from orchestrator.transfer.attacker import Attacker
from orchestrator.transfer.climb import Moved
from orchestrator.transfer.committee.bench import Bench
from orchestrator.transfer.committee.unit import CLEAN, CommitteeUnit
from orchestrator.transfer.held import LoadModel, Models, Pixels, Shards, exact_device
from orchestrator.transfer.moved import keep_for_good, read_moved

QUORUMS_JUDGED = 1000
"""All quorums are judged up to so many; of more, so many draws."""
COMMITTEE_FILE = "judged.parquet"
# An image is misread in one query with the chance misread / quorums; alone, of one member drawn at
# random, with misread_alone / members.
COMMITTEE_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("image", "committee", "source", "attack", "norm")),
        ("epsilon", pa.float64()),
        ("label", pa.int32()),
        ("moved", pa.bool_()),
        *((name, pa.int32()) for name in ("quorums", "misread", "members", "misread_alone")),
    ]
)


@dataclass(frozen=True)
class CommitteeAccount:
    """What a unit came to."""

    images: int
    device: str


class CommitteeWorker:
    """Keeps the models it met last; the answer for an image depends on none of its settings.

    Args:
        store: the study's store, by URI.
        load: gives a model, frozen and in eval mode, taking images in [0, 1].
        batch: images judged at a time; bounded by memory, never part of the answer.
        keep_bytes: weights held at once.
    """

    def __init__(
        self, store: str, load: LoadModel, *, batch: int = 256, keep_bytes: int = 8 * 2**30
    ) -> None:
        self.store, self.batch = open_store(store), batch
        self.device = exact_device()
        self.models = Models(self.store, load, self.device, keep_bytes)
        self.shards = Shards(self.store, self.device)
        self.attacker = Attacker(self.store, self.models, self.shards)

    def run(self, unit: CommitteeUnit) -> CommitteeAccount:
        """Attack if the images are an insider's and not there yet, show them, commit what was read.

        Raises:
            ThreatViolated: the attack left its threat.
            NotCommitted, StaleArtifact, DamagedArtifact: an input is missing or not the expected one.
        """
        started = time.monotonic()
        shard = self.shards.get(unit.shard)
        moved, told = self._moved(unit, shard)
        bench = self._bench(unit)
        tables, unconfirmed = [], 0
        for epsilon, images in self._shown(unit, shard, moved):
            misread = bench.judge(images, shard.labels)
            unconfirmed += misread.unconfirmed
            facts = {
                "moved": (images != shard.images).flatten(1).any(dim=1),
                "misread": misread.quorums,
                "misread_alone": misread.members,
            }
            tables.append(_rows(unit, shard, len(bench.quorums), epsilon, facts))
        told = {
            **told,
            "quorum_misreadings_unconfirmed": unconfirmed,
            "seconds": time.monotonic() - started,
        }
        self._commit(unit, pa.concat_tables(tables), told)
        return CommitteeAccount(len(shard.names), self.device.type)

    def _moved(self, unit: CommitteeUnit, shard: Pixels) -> tuple[Moved | None, dict[str, Any]]:
        """The images: kept, or an insider's made now and kept; nothing else is attacked here."""
        work = unit.work
        if work is None:
            return None, {}
        found = read_moved(self.store, work.attack_unit, shard.images)
        if found is not None:
            return found[0], {}
        moved, told = self.attacker.attack(work, shard)
        keep_for_good(self.store, work.attack_unit, moved, shard, {**told, "seconds": 0.0})
        self.attacker.forget(work, shard)
        return moved, told

    def _bench(self, unit: CommitteeUnit) -> Bench:
        committee = unit.committee
        seed = derive_seed(unit.seed, "committee", committee.label)
        some = quorums(len(committee.members), committee.seats, QUORUMS_JUDGED, seed)
        return Bench(
            [self.models.get(each) for each in committee.members], some, committee.rule, self.batch
        )

    def _shown(
        self, unit: CommitteeUnit, shard: Pixels, moved: Moved | None
    ) -> list[tuple[float, Float[Tensor, "images 3 size size"]]]:
        if unit.work is None or moved is None:
            return [(0.0, shard.images)]
        # Who holds all members asks whether they fell; everyone else, what travels to them.
        own = unit.inside and unit.holding != "some"
        images = moved.worst if own else moved.best
        epsilons = [threat.epsilon for threat in unit.work.ladder.threats]
        return list(zip(epsilons, images, strict=True))

    def _commit(self, unit: CommitteeUnit, table: pa.Table, told: dict[str, Any]) -> None:
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        members = {member.address: member.digest for member in unit.committee.members}
        record = ArtifactRecord(
            recipe=unit.recipe,
            files={COMMITTEE_FILE: FileEntry.of(sink.getvalue())},
            parents=members,
            provenance={**told, "device": self.device.type, "versions": library_versions()},
        )
        self.store.commit(unit.address, record, {COMMITTEE_FILE: sink.getvalue()})


def _rows(
    unit: CommitteeUnit, shard: Pixels, quorums: int, epsilon: float, facts: dict[str, Tensor]
) -> pa.Table:
    count, work = len(shard.names), unit.work
    columns: dict[str, Any] = {
        "image": shard.names,
        "committee": [unit.committee.label] * count,
        "source": [unit.source] * count,
        "attack": [work.attack if work else CLEAN] * count,
        "norm": [work.ladder.norm if work else ""] * count,
        "epsilon": [epsilon] * count,
        "label": shard.labels.cpu().numpy(),
        "quorums": [quorums] * count,
        "members": [len(unit.committee.members)] * count,
        **{name: tensor.cpu().numpy() for name, tensor in facts.items()},
    }
    arrays = [pa.array(columns[field.name], field.type) for field in COMMITTEE_SCHEMA]
    return pa.table(arrays, schema=COMMITTEE_SCHEMA)
