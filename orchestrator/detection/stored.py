"""Detector banks in the store: a file of tensors and a record of what they were fitted to."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from orchestrator.detection.bank import DetectorBank, Side
from orchestrator.detection.calibration import Calibration
from orchestrator.detection.neurons import NeuronLayout, layers_of
from orchestrator.detection.readout import Fingerprints
from orchestrator.detection.recipe import BankRecipe
from orchestrator.detection.scores import SCORES
from orchestrator.errors import DamagedArtifact
from orchestrator.models.backbone import parse_weights
from orchestrator.models.ref import ModelRef
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.record import ArtifactRecord, FileEntry, library_versions

BANK_FILE = "bank.safetensors"


@dataclass(frozen=True, kw_only=True)
class BankRef:
    """A bank by its model, and what it is fitted on."""

    model: ModelRef
    settings: BankRecipe
    layout: NeuronLayout
    seed: int
    images: Mapping[str, str]
    """Addresses of the images it is made of, clean and attacked, each with its recipe's digest."""

    @property
    def address(self) -> str:
        """Where the bank is, relative to the study."""
        return f"detectors/{self.model.label}"

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that decides the bank."""
        return {
            "settings": self.settings.recipe,
            "layout": self.layout.recipe,
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
        provenance={**provenance, "notes": dict(bank.notes), "versions": library_versions()},
    )
    return store.commit(ref.address, record, {BANK_FILE: content})


def load_bank(store: ArtifactStore, ref: BankRef, model: nn.Module) -> DetectorBank:
    """The bank of a model, on the CPU.

    Raises:
        NotCommitted: it has not been fitted yet.
        StaleArtifact: it was fitted to another model, on other images or by other settings.
        DamagedArtifact: the stored bytes changed, or are no bank.
        WeightsError: the model has not the layers that the bank reads.
    """
    record = store.record(ref.address, ref.recipe)
    layers_of(model, ref.layout)
    tensors = parse_weights(store.read(ref.address, BANK_FILE, record), ref.address)
    try:
        bank = _bank(tensors, ref)
    except (KeyError, ValueError, IndexError):
        raise DamagedArtifact(f"{ref.address} is not a detector bank. Delete it and rerun.") from None
    return replace(bank, notes=record.told("notes", dict, ref.address))


def _tensors(bank: DetectorBank) -> dict[str, Tensor]:
    tensors = {
        "members": bank.fingerprints.members,
        "row_of": bank.fingerprints.row_of,
        "kept": bank.kept,
    }
    for name, side in (("clean", bank.clean), ("attacked", bank.attacked)):
        tensors |= {f"{name}.mean": side.mean, f"{name}.std": side.std}
        if side.correlation is not None:
            tensors[f"{name}.correlation"] = side.correlation
    if bank.calibration is not None:
        tensors["held_out.classes"] = bank.calibration.classes
        tensors |= {f"held_out.{rule}": scores for rule, scores in bank.calibration.scores.items()}
    return tensors


def _bank(tensors: Mapping[str, Tensor], ref: BankRef) -> DetectorBank:
    members, kept = tensors["members"], tensors["kept"]
    sides = [
        Side(tensors[f"{name}.mean"], tensors[f"{name}.std"], tensors.get(f"{name}.correlation"))
        for name in ("clean", "attacked")
    ]
    shape = members.shape[:2]
    if members.dtype != torch.int32 or not 0 <= int(members.min()) <= int(members.max()) < ref.layout.total:
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
        fingerprints=Fingerprints(ref.layout, members, tensors["row_of"]),
        kept=kept,
        clean=sides[0],
        attacked=sides[1],
        draw=ref.settings.draw,
        batch=ref.settings.batch,
        calibration=Calibration(scores, tensors["held_out.classes"], ref.settings.least_held_out),
    )
