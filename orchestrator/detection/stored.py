"""Detector banks in the store: a file of tensors and a record of what they were fitted to."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from orchestrator.detection.bank import DetectorBank, Side
from orchestrator.detection.calibration import Calibration
from orchestrator.detection.neurons import NeuronLayout
from orchestrator.detection.probe import Probe
from orchestrator.detection.readout import Fingerprints
from orchestrator.detection.recipe import BankRecipe
from orchestrator.detection.scores import SCORES
from orchestrator.errors import DamagedArtifact
from orchestrator.models.backbone import parse_weights
from orchestrator.models.ref import ModelRef
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.parquet import told_as
from orchestrator.store.record import ArtifactRecord, FileEntry, library_versions, recipe_digest

BANK_FILE = "bank.safetensors"


@dataclass(frozen=True, kw_only=True)
class BankRef:
    """A bank by its model, and what it is fitted on."""

    model: ModelRef
    settings: BankRecipe
    seed: int
    images: Mapping[str, str]
    """Addresses of the images it is made of, clean and attacked, each with its recipe's digest."""

    @property
    def address(self) -> str:
        """Where the bank is, relative to the study; the last part is of all that decides it."""
        return f"detectors/{self.model.label}/{self.digest[:8]}"

    @property
    def digest(self) -> str:
        """The recipe's digest."""
        return recipe_digest(self.recipe)

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that decides the bank."""
        return {
            "settings": self.settings.recipe,
            "seed": self.seed,
            "model": self.model.digest,
            "images": dict(self.images),
        }


def save_bank(
    store: ArtifactStore, ref: BankRef, bank: DetectorBank, provenance: Mapping[str, Any]
) -> bool:
    """Commit a bank with its thresholds; False if another writer did so first."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(bank).items()}
    content = safetensors.torch.save(tensors)
    record = ArtifactRecord(
        recipe=ref.recipe,
        files={BANK_FILE: FileEntry.of(content)},
        parents={ref.model.address: ref.model.digest},
        provenance={
            **provenance,
            "layout": bank.fingerprints.layout.recipe,
            "side": bank.probe.side if bank.probe else 0,
            "notes": dict(bank.notes),
            "versions": library_versions(),
        },
    )
    return store.commit(ref.address, record, {BANK_FILE: content})


def load_bank(store: ArtifactStore, ref: BankRef) -> DetectorBank:
    """The bank of a model, on the CPU.

    Raises:
        NotCommitted: none was fitted to this model, on these images, by these settings.
        DamagedArtifact: the stored bytes changed, or are no bank.
    """
    record = store.record(ref.address, ref.recipe)
    tensors = parse_weights(store.read(ref.address, BANK_FILE, record), ref.address)
    with told_as(DamagedArtifact, f"{ref.address} is not a detector bank", "Delete it and rerun."):
        layout = NeuronLayout.from_recipe(record.told("layout", dict, ref.address))
        bank = _bank(tensors, ref, layout)
    probe = Probe(tensors["probe"], record.told("side", int, ref.address))
    return replace(bank, probe=probe, notes=record.told("notes", dict, ref.address))


def _tensors(bank: DetectorBank) -> dict[str, Tensor]:
    tensors = {
        "members": bank.fingerprints.members,
        "row_of": bank.fingerprints.row_of,
        "kept": bank.kept,
    }
    if bank.probe is not None:
        tensors["probe"] = bank.probe.logits
    for name, side in (("clean", bank.clean), ("attacked", bank.attacked)):
        tensors |= {f"{name}.mean": side.mean, f"{name}.std": side.std}
        if side.correlation is not None:
            tensors[f"{name}.correlation"] = side.correlation
    if bank.calibration is not None:
        tensors["held_out.classes"] = bank.calibration.classes
        tensors |= {f"held_out.{rule}": scores for rule, scores in bank.calibration.scores.items()}
    return tensors


def _bank(tensors: Mapping[str, Tensor], ref: BankRef, layout: NeuronLayout) -> DetectorBank:
    members, kept = tensors["members"], tensors["kept"]
    sides = [
        Side(tensors[f"{name}.mean"], tensors[f"{name}.std"], tensors.get(f"{name}.correlation"))
        for name in ("clean", "attacked")
    ]
    shape = members.shape[:2]
    if "probe" not in tensors:
        raise ValueError("it does not say which model it is of")
    if members.dtype != torch.int32 or not 0 <= int(members.min()) <= int(members.max()) < layout.total:
        raise ValueError("neurons that are not there")
    if (
        any(part.shape != shape for side in sides for part in (side.mean, side.std))
        or len(kept) != shape[0]
    ):
        raise ValueError("statistics of other fingerprints")
    scores: dict[str, Tensor] = {
        rule: tensors[f"held_out.{rule}"] for rule in SCORES if f"held_out.{rule}" in tensors
    }
    return DetectorBank(
        fingerprints=Fingerprints(layout, members, tensors["row_of"]),
        kept=kept,
        clean=sides[0],
        attacked=sides[1],
        draw=ref.settings.draw,
        batch=ref.settings.batch,
        rule=ref.settings.rule,
        calibration=Calibration(scores, tensors["held_out.classes"], ref.settings.least_held_out),
    )
