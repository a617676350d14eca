"""TransferWorker: attacks one shard on one source, scores it on every target. Measures; moves nothing."""

import io
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchestrator.attacks import attack_from
from orchestrator.attacks.answer import misread
from orchestrator.attacks.attack import check_threat, distances, project
from orchestrator.errors import WeightsError
from orchestrator.models.ref import ModelRef
from orchestrator.seeds import derive_seed
from orchestrator.shards.shard import ImageBatch, read_pixels
from orchestrator.store.artifacts import ArtifactStore, open_store
from orchestrator.store.record import ArtifactRecord, FileEntry, library_versions
from orchestrator.transfer.moved import drop_moved, read_moved, save_moved
from orchestrator.transfer.outcomes import OUTCOME_SCHEMA
from orchestrator.transfer.work import AttackUnit, WorkUnit

OUTCOMES_FILE = "outcomes.parquet"
# Clean predictions held, by target and shard: some kilobytes each.
_CLEAN_READINGS = 4096
LoadModel = Callable[[ArtifactStore, ModelRef], nn.Module]


@dataclass(frozen=True)
class UnitAccount:
    """What a unit came to, for progress and logs; the facts are in its outcomes."""

    images: int
    source_fooled: int
    targets: int
    first: bool = True
    """False if another driver's worker had recorded the same unit meanwhile: its outcomes stay."""


class TransferWorker:
    """Keeps the models it met last; the answer for an image depends on none of its settings.

    Args:
        store: the study's store, by URI.
        load: gives a model, frozen and in eval mode, taking images in [0, 1].
        batch: images per forward pass; bounded by memory, never part of the answer.
        keep_bytes: weights held at once; one pass over the targets reads them all.
    """

    def __init__(
        self, store: str, load: LoadModel, *, batch: int = 256, keep_bytes: int = 8 * 2**30
    ) -> None:
        self.store = open_store(store)
        self.load, self.batch, self.keep_bytes = load, batch, keep_bytes
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._models: OrderedDict[str, tuple[nn.Module, int]] = OrderedDict()
        # Each shard is attacked on many sources; its images are in the node's cache, its record here.
        self._shards: dict[str, ArtifactRecord] = {}
        self._clean: OrderedDict[tuple[str, str], Int[Tensor, " images"]] = OrderedDict()
        # Convolutions default to TF32 on a GPU, ten bits of mantissa; judgements here are fp32.
        torch.backends.cudnn.allow_tf32 = False

    def run(self, unit: WorkUnit | AttackUnit) -> UnitAccount:
        """Attack, score and commit one unit; or attack alone, and keep the moved images.

        Raises:
            ThreatViolated: the attack left its threat.
            NotCommitted, StaleArtifact, DamagedArtifact: an input is missing or not the expected one.
        """
        started = time.monotonic()
        work = unit.unit if isinstance(unit, AttackUnit) else unit
        if work.shard not in self._shards:
            self._shards[work.shard] = self.store.record(work.shard)
        shard = read_pixels(self.store, work.shard, self._shards[work.shard])
        images = (shard.pixels.float() / 255).to(self.device)
        labels = shard.labels.to(self.device)
        kept = read_moved(self.store, work.attack_unit, images) if work.kept else None
        moved, before = kept or (self._attack(work, shard, images, labels), 0.0)
        check_threat(moved, images, work.threat)
        fooled = self._predict(work.source, moved, labels) != labels
        if isinstance(unit, AttackUnit):
            save_moved(self.store, unit, moved, time.monotonic() - started)
            return UnitAccount(len(labels), int(fooled.sum()), 0)
        facts = {
            "source_fooled": fooled.cpu(),
            "moved": (moved != images).flatten(1).any(dim=1).cpu(),
            **{f"distance_{norm}": d.cpu() for norm, d in distances(moved, images).items()},
        }
        tables = []
        for target in work.targets:
            adversarial = self._predict(target, moved, labels)
            clean = self._clean_predictions(target, work.shard, images, labels)
            reads = {"clean_prediction": clean, "adversarial_prediction": adversarial.cpu()}
            tables.append(_rows(work, target, shard, {**facts, **reads}))
        first = self._commit(work, pa.concat_tables(tables), before + time.monotonic() - started)
        if work.kept:
            drop_moved(self.store, work.attack_unit)
        return UnitAccount(len(labels), int(fooled.sum()), len(work.targets), first)

    def _attack(
        self,
        unit: WorkUnit,
        shard: ImageBatch,
        images: Float[Tensor, "images 3 size size"],
        labels: Int[Tensor, " images"],
    ) -> Float[Tensor, "images 3 size size"]:
        attack = attack_from(unit.settings)
        source = self._model(unit.source)
        # One seed an image: its answer is the same in any batch, order or shard, on any worker.
        stream = (unit.attack, str(unit.threat), unit.source.label)
        seeds = [derive_seed(unit.seed, "attack", *stream, name) for name in shard.names]
        parts = [
            attack(source, images[rows], labels[rows], unit.threat, seeds[rows])
            for rows in self._slices(len(labels))
        ]
        return project(torch.cat(parts), images, unit.threat) if parts else images

    def _clean_predictions(
        self,
        target: ModelRef,
        shard: str,
        images: Float[Tensor, "images 3 size size"],
        labels: Int[Tensor, " images"],
    ) -> Int[Tensor, " images"]:
        place = (target.address, shard)
        if place not in self._clean:
            self._clean[place] = self._predict(target, images, labels).cpu()
            while len(self._clean) > _CLEAN_READINGS:
                self._clean.popitem(last=False)
        return self._clean[place]

    def _predict(
        self,
        ref: ModelRef,
        images: Float[Tensor, "images 3 size size"],
        labels: Int[Tensor, " images"],
    ) -> Int[Tensor, " images"]:
        model = self._model(ref)
        parts = [predict(model, images[s], labels[s]) for s in self._slices(len(labels))]
        return torch.cat(parts) if parts else labels

    def _model(self, ref: ModelRef) -> nn.Module:
        if ref.address not in self._models:
            model = self.load(self.store, ref).to(self.device)
            size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
            self._models[ref.address] = (model, size)
        self._models.move_to_end(ref.address)
        while len(self._models) > 1 and sum(s for _, s in self._models.values()) > self.keep_bytes:
            self._models.popitem(last=False)
        return self._models[ref.address][0]

    def _slices(self, count: int) -> list[slice]:
        return [slice(start, start + self.batch) for start in range(0, count, self.batch)]

    def _commit(self, unit: WorkUnit, table: pa.Table, seconds: float) -> bool:
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        content = sink.getvalue()
        record = ArtifactRecord(
            recipe=unit.recipe,
            files={OUTCOMES_FILE: FileEntry.of(content)},
            parents={model.address: model.digest for model in (unit.source, *unit.targets)},
            provenance={
                "seconds": seconds,
                "device": self.device.type,
                "versions": library_versions(),
            },
        )
        return self.store.commit(unit.address, record, {OUTCOMES_FILE: content})


@torch.no_grad()
def predict(
    model: nn.Module,
    images: Float[Tensor, "batch 3 height width"],
    labels: Int[Tensor, " batch"],
) -> Int[Tensor, " batch"]:
    """The class each image is read as; a tie with the label is read as the label.

    A model is misled only by a logit strictly above the label's: an exact tie proves nothing.

    Raises:
        WeightsError: a logit is not a number; such a model would seem robust to everything.
    """
    logits = model(images).float()
    if logits.isnan().any():
        raise WeightsError("A model gives logits that are not numbers. Train it again, with a lower rate.")
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return torch.where(misread(logits, labels), others.argmax(dim=1), labels)


def _rows(unit: WorkUnit, target: ModelRef, shard: ImageBatch, facts: dict[str, Any]) -> pa.Table:
    count = len(shard.names)
    method = target.method if target.method != "plain" else unit.source.method
    columns: dict[str, Any] = {
        "image": shard.names,
        "source": [unit.source.name] * count,
        "target": [target.name] * count,
        "method": [method] * count,
        "attack": [unit.attack] * count,
        "norm": [unit.threat.norm] * count,
        "epsilon": [unit.threat.epsilon] * count,
        "label": shard.labels.numpy(),
        **{name: tensor.numpy() for name, tensor in facts.items()},
    }
    arrays = [pa.array(columns[field.name], field.type) for field in OUTCOME_SCHEMA]
    return pa.table(arrays, schema=OUTCOME_SCHEMA)
