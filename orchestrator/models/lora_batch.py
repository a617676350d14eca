"""LoraBatch: several LoRA models on the plain weights they share, read in one batch."""

import copy
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orchestrator.errors import StudyError, WeightsError
from orchestrator.models.backbone import Architecture, load_whole, parse_weights, patch_projection
from orchestrator.models.lora import (
    HEAD,
    HEAD_BIAS,
    HEAD_WEIGHT,
    PATCH,
    PATCH_BIAS,
    PATCH_WEIGHT,
    WHOLE,
    check_adapter,
)
from orchestrator.models.ref import ModelRef
from orchestrator.models.stored import PLAIN_ADDRESS, WEIGHTS_FILE
from orchestrator.store.artifacts import ArtifactStore

AdapterState = Mapping[str, Tensor]


class LoraBatch(nn.Module):
    """Folded LoRA models with the weights of their common base held once.

    Rows inside are grouped by model: those of the first model, of the second, and so on. What all share
    runs once over all rows; a layer with adapters adds each model's own low-rank product; patch
    embedding and head, which are whole in an adapter, are each model's own.

    Args:
        backbone: the plain model; becomes part of this one, its adapted layers replaced.
        states: adapters as ``adapter_state`` made and folding completed them; one or more, of any ranks.

    Raises:
        WeightsError: a state is no adapter of this backbone.
    """

    def __init__(self, backbone: nn.Module, states: Sequence[AdapterState]) -> None:
        super().__init__()
        for state in states:
            _refuse_strange(backbone.state_dict(), state)
        self.models = len(states)
        self._bytes_of_one = _bytes_of(backbone)
        like = patch_projection(backbone).weight
        own = [{name: tensor.to(like) for name, tensor in state.items()} for state in states]
        adapted = {name.removesuffix(".down") for state in own for name in state if name.endswith(".down")}
        for name in sorted(adapted):
            layer = cast(nn.Linear, backbone.get_submodule(name))
            backbone.set_submodule(name, _LowRankEach(layer, own, name))
        backbone.set_submodule(PATCH, _PatchEach(patch_projection(backbone), own))
        backbone.set_submodule(HEAD, _HeadEach(own))
        self.backbone = backbone
        self.eval().requires_grad_(False)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "models batch classes"]:
        """Every model's logits of images in [0, 1]."""
        logits: Tensor = self.backbone(images)
        return logits.view(self.models, len(images), -1)

    def of(self, members: Sequence[int]) -> "LoraBatch":
        """Some of the models, by their place; what all share is held by both, and once."""
        part = copy.deepcopy(self, {id(tensor): tensor for tensor in (*self.parameters(), *self.buffers())})
        part.models = len(members)
        for layer in part.modules():
            if isinstance(layer, _Each):
                layer.keep(members)
        return part

    @property
    def bytes(self) -> int:
        """Held by all weights."""
        return _bytes_of(self)

    @property
    def bytes_apart(self) -> int:
        """Held by as many models loaded one by one."""
        return self.models * self._bytes_of_one


class _Each(nn.Module):
    """A layer of which each model has its own parameters, stacked."""

    def keep(self, members: Sequence[int]) -> None:
        """Forget all models but these."""
        for name, tensor in list(self.named_parameters(recurse=False)):
            setattr(self, name, nn.Parameter(tensor[list(members)], requires_grad=False))


class _PatchEach(_Each):
    """Each model's own patch embedding of the same images, in one convolution."""

    def __init__(self, projection: nn.Conv2d, states: Sequence[AdapterState]) -> None:
        super().__init__()
        self.stride = projection.stride
        self.weight = nn.Parameter(torch.stack([state[PATCH_WEIGHT] for state in states]))
        self.bias = nn.Parameter(torch.stack([state[PATCH_BIAS] for state in states]))

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "rows channels down across"]:
        weight, bias = self.weight.flatten(0, 1), self.bias.flatten()
        patches = nn.functional.conv2d(images, weight, bias, stride=self.stride)
        own = patches.view(len(images), len(self.weight), -1, *patches.shape[2:])
        return own.transpose(0, 1).flatten(0, 1)


class _LowRankEach(_Each):
    """A linear layer all share, and each model's own low-rank addition; none where a model has none."""

    def __init__(self, shared: nn.Linear, states: Sequence[AdapterState], name: str) -> None:
        super().__init__()
        self.shared, models = shared, len(states)
        rank = max(len(state[f"{name}.down"]) for state in states if f"{name}.down" in state)
        down = shared.weight.new_zeros(models, rank, shared.in_features)
        up = shared.weight.new_zeros(models, shared.out_features, rank)
        for place, state in enumerate(states):
            if f"{name}.down" in state:
                own = len(state[f"{name}.down"])
                down[place, :own] = state[f"{name}.down"]
                up[place, :, :own] = state[f"{name}.up"]
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)

    def forward(self, rows: Float[Tensor, "rows tokens inputs"]) -> Float[Tensor, "rows tokens outputs"]:
        together = self.shared(rows)
        grouped = rows.reshape(len(self.down), -1, rows.shape[-1])
        inner = grouped @ self.down.transpose(1, 2)
        added = torch.baddbmm(together.view(len(self.up), -1, together.shape[-1]), inner, self.up.mT)
        return added.view_as(together)


class _HeadEach(_Each):
    """Each model's own head on its own rows."""

    def __init__(self, states: Sequence[AdapterState]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([state[HEAD_WEIGHT] for state in states]))
        self.bias = nn.Parameter(torch.stack([state[HEAD_BIAS] for state in states]))

    def forward(self, rows: Float[Tensor, "rows width"]) -> Float[Tensor, "rows classes"]:
        grouped = rows.view(len(self.weight), -1, rows.shape[-1])
        return torch.baddbmm(self.bias[:, None], grouped, self.weight.mT).flatten(0, 1)


def shares_base(store: ArtifactStore, ref: ModelRef) -> bool:
    """Whether a stored model can be one of a LoraBatch: a LoRA model whose key is folded.

    Raises:
        NotCommitted: it has not been trained yet.
        StaleArtifact: what is stored was made by another recipe.
    """
    return ref.method == "lora" and store.record(ref.address, ref.recipe).provenance["form"] == "folded"


def load_lora_batch(
    store: ArtifactStore, refs: Sequence[ModelRef], architecture: Architecture
) -> LoraBatch:
    """Stored LoRA models as one: in eval mode, frozen, taking plain images in [0, 1]; no key is needed.

    Args:
        store: where the plain model and the adapters are.
        refs: models of which ``shares_base`` is true, one or more.
        architecture: of them all.

    Raises:
        StudyError: one of them does not share the base.
        NotCommitted, StaleArtifact, DamagedArtifact, WeightsError: as ``load_model``.
    """
    apart = [ref.label for ref in refs if not shares_base(store, ref)]
    if apart or not refs:
        raise StudyError(
            f"{apart[0] if apart else 'No model'} cannot be read in one batch with others: only LoRA "
            "models whose key is folded share the plain weights. Load it by itself."
        )
    backbone = architecture.build()
    load_whole(
        backbone, parse_weights(store.read(PLAIN_ADDRESS, WEIGHTS_FILE), PLAIN_ADDRESS), PLAIN_ADDRESS
    )
    states = [parse_weights(store.read(ref.address, WEIGHTS_FILE), ref.address) for ref in refs]
    return LoraBatch(backbone, states)


def _refuse_strange(own: AdapterState, state: AdapterState) -> None:
    check_adapter(own, state, "An adapter of a batch")
    more = [name for name in state if name not in WHOLE and not name.endswith((".down", ".up"))]
    if more:
        raise WeightsError(f"An adapter of a batch holds {more[0][:80]} whole. Load it by itself.")


def _bytes_of(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
