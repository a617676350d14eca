"""GuardWorker: fits a model's detector if it has none, and lets it judge what was made on every source."""

import functools
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchestrator.attacks.attack import Points
from orchestrator.attacks.threat import Threat
from orchestrator.detection.bank import DetectorBank
from orchestrator.detection.examples import Examples
from orchestrator.detection.guard.fitting import Fitting
from orchestrator.detection.guard.judged import CLEAN, JUDGED_SCHEMA, NOISE
from orchestrator.detection.guard.noise import noisy
from orchestrator.detection.guard.unit import GuardUnit, Sitting
from orchestrator.detection.kept import (
    AttackedImages,
    CleanImages,
    KeptAttack,
    kept_attack,
)
from orchestrator.models.ref import ModelRef
from orchestrator.seeds import derive_seed
from orchestrator.store.artifacts import ArtifactStore, open_store
from orchestrator.store.record import ArtifactRecord, FileEntry, library_versions
from orchestrator.transfer.held import LoadModel, exact_device

JUDGED_FILE = "judged.parquet"


@dataclass(frozen=True)
class GuardAccount:
    """What a unit came to."""

    fitted: bool
    """Whether the detector was fitted now."""
    sittings: int
    device: str
    notes: Mapping[str, str]
    """Why a class has no fingerprints of its own."""


class GuardWorker:
    """Fits and judges; the answer for an image depends on none of its settings.

    Args:
        store: the study's store, by URI.
        load: gives a model, frozen and in eval mode, taking images in [0, 1].
    """

    def __init__(self, store: str, load: LoadModel) -> None:
        self.store, self.load = open_store(store), load
        self.device = exact_device()

    def run(self, unit: GuardUnit) -> GuardAccount:
        """Fit the detector unless it is there, hold every sitting, commit each as it is over.

        Raises:
            DataError: no class can be watched, or nothing is held out.
            NotCommitted, StaleArtifact, DamagedArtifact: an input is missing or not the expected one.
        """
        model = self.load(self.store, unit.model).to(self.device)
        fitting = Fitting(self.store, unit, model)
        there = fitting.stored
        bank = fitting.bank(keep=True)
        watch = _Watch(self.store, unit, model, bank, self.device)
        for sitting in unit.sittings:
            started = time.monotonic()
            rows = pa.concat_tables(watch.rows(sitting))
            self._commit(unit, sitting, rows, {"seconds": time.monotonic() - started})
        return GuardAccount(not there, len(unit.sittings), self.device.type, dict(bank.notes))

    def _commit(self, unit: GuardUnit, sitting: Sitting, rows: pa.Table, told: Mapping[str, Any]) -> None:
        sink = io.BytesIO()
        pq.write_table(rows, sink, compression="zstd")
        record = ArtifactRecord(
            recipe=unit.recipe(sitting),
            files={JUDGED_FILE: FileEntry.of(sink.getvalue())},
            parents={unit.bank.address: unit.bank.digest, **sitting.shown},
            provenance={**told, "device": self.device.type, "versions": library_versions()},
        )
        self.store.commit(unit.address(sitting), record, {JUDGED_FILE: sink.getvalue()})


@dataclass
class _Watch:
    """A model with its detector, and the test images it is shown."""

    store: ArtifactStore
    unit: GuardUnit
    model: nn.Module
    bank: DetectorBank
    device: torch.device

    def rows(self, sitting: Sitting) -> Iterator[pa.Table]:
        """What is said of everything that a sitting shows."""
        if not sitting.shown:
            for clean in self._clean:
                yield self._judged(clean, clean.images, _Sort(self.unit.model.name, CLEAN, "", 0.0))
                for threat in sitting.threats:
                    sort = _Sort(self.unit.model.name, NOISE, threat.norm, threat.epsilon)
                    yield self._judged(clean, self._noisy(clean, threat), sort)
        for address in sitting.shown:
            yield from self._attacked(kept_attack(self.store, address))

    @functools.cached_property
    def _clean(self) -> list[Examples]:
        seed, shards = self.unit.seed, tuple(self.unit.clean)
        return list(CleanImages(self.store, shards, "test", seed, self.device))

    @functools.cached_property
    def _read_clean(self) -> dict[str, int]:
        """What the model reads every test image as."""
        found: dict[str, int] = {}
        for part in self._clean:
            found |= zip(part.names, self.bank.read(self.model, part.images).classes.tolist(), strict=True)
        return found

    def _attacked(self, kept: KeptAttack) -> Iterator[pa.Table]:
        source, label = kept.source.partition(".")[0], self.unit.model.label
        shown = AttackedImages(self.store, [kept], label, "test", self.unit.seed, self.device)
        for epsilon, images in zip(kept.epsilons, shown, strict=True):
            yield self._judged(images, images.images, _Sort(source, kept.attack, kept.norm, epsilon))

    def _noisy(self, clean: Examples, threat: Threat) -> Float[Tensor, "images 3 size size"]:
        seeds = [derive_seed(self.unit.seed, "noise", str(threat), name) for name in clean.names]
        return noisy(Points.of(clean.images, clean.labels, seeds), threat)

    def _judged(
        self, shown: Examples, images: Float[Tensor, "images 3 size size"], sort: "_Sort"
    ) -> pa.Table:
        readout = self.bank.read(self.model, images)
        # A draw for every image, by its name: whatever else is shown with it, and wherever.
        seeds = [derive_seed(self.unit.draws, *sort.names, name) for name in shown.names]
        # Any rate that can be kept: scores and p-values are recorded, no flag.
        verdict = self.bank.verdict(readout, torch.tensor(seeds, dtype=torch.int64), rate=0.5)
        originals = shown.images if shown.originals is None else shown.originals.to(images)
        facts: dict[str, Sequence[Any]] = {
            "label": _plain(shown.labels),
            "clean_prediction": [self._read_clean[name] for name in shown.names],
            "adversarial_prediction": _plain(verdict.classes),
            "moved": (images != originals).flatten(1).any(dim=1).tolist(),
            "score": verdict.score.tolist(),
            "p_value": verdict.p_value.tolist(),
        }
        return _rows(self.unit.model, shown.names, sort, facts)


@dataclass(frozen=True)
class _Sort:
    """What all images of a table share."""

    source: str
    attack: str
    norm: str
    epsilon: float

    @property
    def names(self) -> tuple[str, ...]:
        """Its parts as names of a random stream."""
        return self.source, self.attack, self.norm, repr(self.epsilon)


def _plain(values: Int[Tensor, " images"]) -> list[int]:
    found: list[int] = values.tolist()
    return found


def _rows(
    model: ModelRef, names: Sequence[str], sort: _Sort, facts: Mapping[str, Sequence[Any]]
) -> pa.Table:
    count = len(names)
    columns: dict[str, Sequence[Any]] = {
        "image": names,
        "source": [sort.source] * count,
        "target": [model.name] * count,
        "method": [model.method] * count,
        "attack": [sort.attack] * count,
        "norm": [sort.norm] * count,
        "epsilon": [sort.epsilon] * count,
        **facts,
    }
    arrays = [pa.array(columns[field.name], field.type) for field in JUDGED_SCHEMA]
    return pa.table(arrays, schema=JUDGED_SCHEMA)
