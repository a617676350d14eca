"""Checkpoints of a training in progress: trained tensors and optimiser state, in the study's own store.

One way to resume for every runner: a killed worker, a killed driver and a new cluster all find the last
committed epoch here. Ray's own checkpoints would bring pickles and a second source of truth.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from orchestrator.errors import DamagedArtifact
from orchestrator.models.backbone import parse_weights
from orchestrator.models.ref import ModelRef
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.record import ArtifactRecord, FileEntry

_STATE_FILE = "state.safetensors"
# What AdamW keeps of every parameter it has moved.
_MOMENTS, _STEPS = ("exp_avg", "exp_avg_sq"), "step"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training is."""

    epochs_done: int = 0
    seconds: float = 0.0


def _prefix(model: ModelRef) -> str:
    return f"checkpoints/{model.label}"


class CheckpointWriter:
    """Writes the checkpoints of one training beside it: a step waits for the copy, not for the store.

    A context: it ends when the last checkpoint is written.
    """

    def __init__(self, store: ArtifactStore, model: ModelRef) -> None:
        self.store, self.model = store, model
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()

    def save(self, network: nn.Module, optimizer: Optimizer, progress: Progress) -> None:
        """Copy the state after an epoch and begin to commit it; the one before is committed by then.

        Raises:
            StoreError: the one before could not be written.
        """
        self.wait()
        state = _copied(network, optimizer)
        self._writing = self._thread.submit(_commit, self.store, self.model, state, progress)

    def wait(self) -> None:
        """Return once nothing is being written; raises what went wrong with it."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None


def _copied(network: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Trained tensors and optimiser state, by name; copies that training will not move."""
    state = {
        f"model.{name}": parameter
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    }
    for place, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state[parameter].items():
            state[f"optimizer.{place}.{name}"] = value
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}


def _commit(store: ArtifactStore, model: ModelRef, state: Mapping[str, Tensor], progress: Progress) -> None:
    """Commit a state, then drop the earlier ones."""
    content = safetensors.torch.save(dict(state))
    record = ArtifactRecord(
        recipe=_recipe(model, progress.epochs_done),
        files={_STATE_FILE: FileEntry.of(content)},
        provenance={"seconds": progress.seconds},
    )
    address = f"{_prefix(model)}/{progress.epochs_done:05d}"
    store.commit(address, record, {_STATE_FILE: content})
    for older in list(store.addresses(_prefix(model))):
        if older < address:
            store.delete(older)


def _recipe(model: ModelRef, epochs_done: int) -> dict[str, Any]:
    # A patch embedding in another order of columns has the same shape and means something else.
    return {**model.recipe, "epochs_done": epochs_done, "patches": "unshuffled"}


def last_checkpoint(store: ArtifactStore, model: ModelRef) -> int:
    """Epochs done at the last committed checkpoint of a model; 0 where there is none."""
    places = [address.rsplit("/", 1)[1] for address in store.addresses(_prefix(model))]
    return max((int(place) for place in places if place.isdecimal()), default=0)


def load_checkpoint(
    store: ArtifactStore,
    model: ModelRef,
    network: nn.Module,
    optimizer: Optimizer,
    epochs_done: int,
) -> Progress:
    """Continue from the checkpoint after that many epochs of this very recipe; from the start at 0.

    Raises:
        StaleArtifact: the checkpoint was made by another recipe.
        WeightsError, DamagedArtifact: it does not hold the state of this network and optimiser.
    """
    if not epochs_done:
        return Progress()
    address = f"{_prefix(model)}/{epochs_done:05d}"
    record = store.record(address, _recipe(model, epochs_done))
    state = parse_weights(store.read(address, _STATE_FILE), address)
    trained = {f"model.{n}": p for n, p in network.named_parameters() if p.requires_grad}
    seconds = record.provenance.get("seconds")
    if not isinstance(seconds, float) or not _fits(state, trained, _parameters(optimizer)):
        raise DamagedArtifact(f"{address} is not a checkpoint of this model. Delete it and rerun.")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(state[name])
    for place, parameter in enumerate(_parameters(optimizer)):
        optimizer.state[parameter] = _optimizer_state(state, place, parameter)
    return Progress(epochs_done=epochs_done, seconds=seconds)


def drop_checkpoints(store: ArtifactStore, model: ModelRef) -> None:
    """Remove what a finished training no longer needs; its weights are secret too."""
    for address in list(store.addresses(_prefix(model))):
        store.delete(address)


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _fits(
    state: dict[str, Tensor], trained: dict[str, nn.Parameter], parameters: list[nn.Parameter]
) -> bool:
    """Whether the tensors are those of these parameters, all of them, and nothing else."""
    expected: dict[str, Tensor] = {**trained}
    for place, parameter in enumerate(parameters):
        expected |= {f"optimizer.{place}.{name}": parameter for name in _MOMENTS}
        expected[f"optimizer.{place}.{_STEPS}"] = torch.zeros(())
    forms, wanted = ({n: (t.shape, t.dtype) for n, t in tensors.items()} for tensors in (state, expected))
    # AdamW divides by what it would be zero for after no step.
    return forms == wanted and all(t >= 1 for name, t in state.items() if name.endswith(f".{_STEPS}"))


def _optimizer_state(state: dict[str, Tensor], place: int, parameter: Tensor) -> dict[str, Any]:
    prefix = f"optimizer.{place}."
    return {
        # The fused AdamW keeps its step counter, too, where the weights are.
        name.removeprefix(prefix): tensor.to(parameter.device)
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
