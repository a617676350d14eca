"""Models in the store: save what training made, load it for attack; folded wherever the key folds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from torch import Tensor

from orchestrator.keys.secret import forbid_core_dumps
from orchestrator.keys.vault import KeySource
from orchestrator.models.backbone import Architecture, load_whole, parse_weights, patch_size_of
from orchestrator.models.from_key import transform_from_key
from orchestrator.models.key_transform import KeyTransform
from orchestrator.models.keyed import KeyedModel, as_folded, fold, folded_patch_weights, folds
from orchestrator.models.lora import PATCH_BIAS, PATCH_WEIGHT, adapter_state, merge_adapter
from orchestrator.models.ref import PLAIN, ModelRef
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.record import ArtifactRecord, FileEntry, library_versions

WEIGHTS_FILE = "weights.safetensors"
PLAIN_ADDRESS = f"models/{PLAIN}"


@dataclass(frozen=True, kw_only=True)
class KeyAccess:
    """How a worker gets from a key id to the key: by asking a source of keys where it runs."""

    keys: KeySource
    study: str

    def transform(self, model: ModelRef, block_size: int) -> KeyTransform | None:
        """The transform of the model's key: the shuffle, or what its recipe names. None without a key."""
        if model.slot < 0:
            return None
        forbid_core_dumps()
        key = self.keys.open(self.study, model.slot, model.key_id or model.name)
        return transform_from_key(model.recipe.get("transform", "shuffle"), key, block_size)


def weights_of(model: KeyedModel, method: str) -> tuple[dict[str, Tensor], str]:
    """The tensors to store for a trained model, and their form.

    ``folded``: the patch embedding takes plain [0, 1] pixels and no key is needed to load them.
    ``explicit``: the block size does not divide the patch, the key's transform is not affine, or the key
    is a rekeyed control's, so the vault is opened at loading too.
    ``plain``: the undefended model as timm knows it, normalisation apart.
    """
    if method == "plain":
        return dict(model.backbone.state_dict()), "plain"
    if method == "lora":
        state = adapter_state(model.backbone)
        if not folds(model.transform, state[PATCH_WEIGHT].shape[-1]):
            return state, "explicit"
        folded = folded_patch_weights(model, state[PATCH_WEIGHT], state[PATCH_BIAS])
        return state | dict(zip((PATCH_WEIGHT, PATCH_BIAS), folded, strict=True)), "folded"
    if not folds(model.transform, patch_size_of(model.backbone)):
        return dict(model.backbone.state_dict()), "explicit"
    return dict(fold(model).backbone.state_dict()), "folded"


def save_model(
    store: ArtifactStore, ref: ModelRef, model: KeyedModel, provenance: Mapping[str, Any]
) -> bool:
    """Commit a trained model; False if another writer did so first."""
    tensors, form = weights_of(model, ref.method)
    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = safetensors.torch.save(cpu, metadata={"form": form})
    record = ArtifactRecord(
        recipe=ref.recipe,
        files={WEIGHTS_FILE: FileEntry.of(content)},
        provenance={**provenance, "form": form, "versions": library_versions()},
    )
    return store.commit(ref.address, record, {WEIGHTS_FILE: content})


def load_model(
    store: ArtifactStore, ref: ModelRef, architecture: Architecture, keys: KeyAccess
) -> KeyedModel:
    """The stored model: in eval mode, its parameters frozen, taking plain images in [0, 1].

    Raises:
        NotCommitted: it has not been trained yet.
        StaleArtifact: what is stored was made by another recipe.
        DamagedArtifact: the stored bytes changed.
        WeightsError: they are not weights of this architecture.
        VaultError: its key cannot be folded and the vault does not have it.
    """
    record = store.record(ref.address, ref.recipe)
    state = parse_weights(store.read(ref.address, WEIGHTS_FILE, record), ref.address)
    backbone = architecture.build()
    if ref.method == "lora":
        plain = parse_weights(store.read(PLAIN_ADDRESS, WEIGHTS_FILE), PLAIN_ADDRESS)
        load_whole(backbone, plain, PLAIN_ADDRESS)
        merge_adapter(backbone, state, ref.address)
    else:
        load_whole(backbone, state, ref.address)
    if record.told("form", str, ref.address) == "folded":
        return freeze(as_folded(backbone))
    block_size = int(ref.recipe.get("block_size", 1))
    return freeze(KeyedModel(backbone, keys.transform(ref, block_size)))


def freeze(model: KeyedModel) -> KeyedModel:
    """The model in eval mode with no parameter asking for a gradient."""
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model
