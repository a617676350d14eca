"""Rekeying: a stored model rewritten for another key, without training; the control that must transfer."""

import time
from dataclasses import dataclass

import safetensors.torch

from orchestrator.errors import StudyError
from orchestrator.models.backbone import Architecture, parse_weights
from orchestrator.models.keyed import KeyedModel, unfolded_patch_weights
from orchestrator.models.lora import PATCH_BIAS, PATCH_WEIGHT
from orchestrator.models.ref import ModelRef
from orchestrator.models.stored import WEIGHTS_FILE, KeyAccess
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.record import ArtifactRecord, FileEntry, library_versions


@dataclass(frozen=True, kw_only=True)
class Rekeying:
    """A control to be made: names and settings only."""

    model: ModelRef
    """The control: its slot and key id are those of the new key."""
    twin: ModelRef
    """The model that is rewritten; it must be there, and folded."""
    architecture: Architecture
    block_size: int
    keys: KeyAccess

    @property
    def id(self) -> str:
        """The unit's name in ledgers and logs."""
        return self.model.label


def rekey(store: ArtifactStore, rekeying: Rekeying) -> bool:
    """Rewrite the twin's patch embedding for the new key and commit it; False if another was first.

    A folded embedding W' acts on plain pixels; for a shuffle P it becomes W'·P⁻¹ behind P, which is the
    same function (arXiv 2207.05366). The control is stored with its key apart, so that whoever loads it
    shuffles its images with the new key, as a device does that carries both.

    Raises:
        NotCommitted: the twin has not been trained yet.
        StudyError: the twin's key is not folded into its weights.
        VaultError: the vault does not have the new key.
    """
    started, twin, ref = time.monotonic(), rekeying.twin, rekeying.model
    record = store.record(twin.address, twin.recipe)
    if record.told("form", str, twin.address) != "folded":
        raise StudyError(
            f"{twin.label} cannot be rekeyed: its blocks do not tile its patches, so its key is no part "
            "of its weights. Give --controls 0, or a block size that divides the patch."
        )
    state = parse_weights(store.read(twin.address, WEIGHTS_FILE, record), twin.address)
    transform = rekeying.keys.transform(ref, rekeying.block_size)
    behind = KeyedModel(rekeying.architecture.build(), transform)
    rewritten = unfolded_patch_weights(behind, state[PATCH_WEIGHT], state[PATCH_BIAS])
    state |= dict(zip((PATCH_WEIGHT, PATCH_BIAS), rewritten, strict=True))
    content = safetensors.torch.save(state, metadata={"form": "explicit"})
    counts = {n: record.provenance[n] for n in ("epochs", "trainable_parameters", "total_parameters")}
    made = ArtifactRecord(
        recipe=ref.recipe,
        files={WEIGHTS_FILE: FileEntry.of(content)},
        parents={twin.address: twin.digest},
        provenance={
            **counts,
            "form": "explicit",
            "seconds": time.monotonic() - started,
            "device": "cpu",
            "workers": 1,
            "versions": library_versions(),
        },
    )
    return store.commit(ref.address, made, {WEIGHTS_FILE: content})
