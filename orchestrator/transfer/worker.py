"""TransferWorker: attacks one shard on one source, scores it on every target. Measures; moves nothing."""

import io
import time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.store.artifacts import open_store
from orchestrator.store.record import ArtifactRecord, FileEntry, library_versions
from orchestrator.transfer.account import UnitAccount, count_targets
from orchestrator.transfer.attacker import Attacker
from orchestrator.transfer.climb import Moved
from orchestrator.transfer.examples import EXAMPLES_FILE, examples_bytes, has_examples
from orchestrator.transfer.held import LoadModel, LoadTogether, Models, Pixels, Shards, exact_device
from orchestrator.transfer.moved import drop_moved, keep_for_good, read_moved, save_moved
from orchestrator.transfer.readers import Readers
from orchestrator.transfer.scorer import Scorer
from orchestrator.transfer.work import AttackUnit, WorkUnit

OUTCOMES_FILE = "outcomes.parquet"
# What is told of an attack beside its images.
_TOLD: dict[str, type[Any]] = {
    "seconds": float,
    "unconfirmed": int,
    "silent": int,
    "indicators": dict,
    "findings": dict,
}


class TransferWorker:
    """Keeps the models it met last; the answer for an image depends on none of its settings.

    Args:
        store: the study's store, by URI.
        load: gives a model, frozen and in eval mode, taking images in [0, 1].
        load_together: gives LoRA models that share their base as one; without it each is read by itself.
        batch: images judged at a time; bounded by memory, never part of the answer.
        keep_bytes: weights held at once; one pass over the targets reads them all.
        keep_images: keep every unit's adversarial images for good, losslessly.
        compiled: run models through torch.compile, which pays off on GPUs.
    """

    def __init__(
        self,
        store: str,
        load: LoadModel,
        *,
        load_together: LoadTogether | None = None,
        batch: int = 256,
        keep_bytes: int = 8 * 2**30,
        keep_images: bool = False,
        compiled: bool = False,
    ) -> None:
        self.store, self.keep_images = open_store(store), keep_images
        self.device = exact_device()
        models = Models(self.store, load, self.device, keep_bytes, compiled)
        self.shards = Shards(self.store, self.device)
        self.attacker = Attacker(self.store, models, self.shards)
        self.scorer = Scorer(Readers(models, batch, load_together))

    def run(self, unit: WorkUnit | AttackUnit) -> UnitAccount:
        """Attack, score and commit one unit; or attack alone, and keep the moved images.

        Raises:
            ThreatViolated: the attack left its threat.
            NotCommitted, StaleArtifact, DamagedArtifact: an input is missing or not the expected one.
        """
        started = time.monotonic()
        work = unit.unit if isinstance(unit, AttackUnit) else unit
        shard = self.shards.get(work.shard)
        moved, told = self._kept(work, shard) or self.attacker.attack(work, shard)
        fooled, before = int(moved.fooled(shard.labels)[-1].sum()), told.pop("seconds", 0.0)
        if isinstance(unit, AttackUnit):
            save_moved(self.store, unit, moved, {**told, "seconds": time.monotonic() - started})
            self.attacker.forget(work, shard)
            return UnitAccount(len(shard.names), fooled, 0, device=self.device.type)
        # Whoever reads images kept for good did not make them: their seconds are counted once, here.
        of_attack = {**told, "seconds": 0.0}
        table, unconfirmed = self.scorer.score(work, shard, moved)
        told["unconfirmed"] += unconfirmed
        told["seconds"] = before + time.monotonic() - started
        kept = {EXAMPLES_FILE: examples_bytes(moved, shard.images)} if has_examples(work) else {}
        first = self._commit(work, table, kept, told)
        if self.keep_images:
            keep_for_good(self.store, work.attack_unit, moved, shard, of_attack)
        if work.kept:
            drop_moved(self.store, work.attack_unit)
        else:
            self.attacker.forget(work, shard)
        counts = count_targets(work, table)
        return UnitAccount(len(shard.names), fooled, len(work.targets), first, self.device.type, *counts)

    def _kept(self, unit: WorkUnit, shard: Pixels) -> tuple[Moved, dict[str, Any]] | None:
        """What an early attack made and told, where the unit says that there is such."""
        attack = unit.attack_unit
        found = read_moved(self.store, attack, shard.images) if unit.kept else None
        if found is None:
            return None
        moved, record = found
        return moved, {name: record.told(name, kind, attack.address) for name, kind in _TOLD.items()}

    def _commit(
        self, unit: WorkUnit, table: pa.Table, kept: dict[str, bytes], told: dict[str, Any]
    ) -> bool:
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        files = {OUTCOMES_FILE: sink.getvalue(), **kept}
        record = ArtifactRecord(
            recipe=unit.recipe,
            files={name: FileEntry.of(content) for name, content in files.items()},
            parents={model.address: model.digest for model in (*unit.source.members, *unit.targets)},
            provenance={**told, "device": self.device.type, "versions": library_versions()},
        )
        return self.store.commit(unit.address, record, files)
