"""finetune(): one model, one process group; loads, trains, checkpoints, commits. Knows nothing of Ray."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim import Optimizer

from orchestrator.errors import StudyError
from orchestrator.models.backbone import Architecture, load_whole, parse_weights
from orchestrator.models.keyed import KeyedModel
from orchestrator.models.lora import add_lora
from orchestrator.models.ref import ModelRef
from orchestrator.models.stored import PLAIN_ADDRESS, WEIGHTS_FILE, KeyAccess, save_model
from orchestrator.models.training_form import TrainingForm
from orchestrator.seeds import derive_seed
from orchestrator.store.artifacts import ArtifactStore, open_store
from orchestrator.training.batches import Awaited, Batches
from orchestrator.training.checkpoint import (
    CheckpointWriter,
    Progress,
    drop_checkpoints,
    last_checkpoint,
    load_checkpoint,
)
from orchestrator.training.images import open_batches
from orchestrator.training.in_memory import Decoded
from orchestrator.training.place import Place
from orchestrator.training.randomness import seeded
from orchestrator.training.recipe import Recipe
from orchestrator.training.step import Step, make_optimizer


@dataclass(frozen=True, kw_only=True)
class TrainingUnit:
    """One model to be trained: names and settings only, so it may travel anywhere."""

    model: ModelRef
    architecture: Architecture
    recipe: Recipe
    block_size: int
    shards: tuple[str, ...]
    """Addresses of the training images."""
    store: str
    keys: KeyAccess
    seed: int

    @property
    def id(self) -> str:
        """The unit's name in ledgers and logs."""
        return self.model.label


@dataclass(frozen=True, kw_only=True)
class EpochLine:
    """What one epoch came to; every process of a group tells its own."""

    model: str
    epoch: int
    epochs: int
    loss: float
    seconds: float
    waited: float
    """Of these, seconds in which the process waited for images."""
    device: str
    """Type of the process's device."""


Tell = Callable[[EpochLine], None]


def finetune(unit: TrainingUnit, place: Place, tell: Tell, decoded: Decoded | None = None) -> bool:
    """Train one model to the end and commit it; continues from its last checkpoint; no-op when done.

    Rank 0 returns whether the model was recorded here: False if another driver's worker was first, whose
    weights stay.

    Called by every process of a group, with the same unit; one that trains several models hands each the
    images it has ``decoded``. The same unit and number of processes give the same weights on the same kind
    of device. Another number of processes gives them up to rounding; with mixup, CutMix, drop path or
    dropout, whose draws are made per process, up to those draws.

    Raises:
        StudyError: the loss is no longer finite.
        NotCommitted: the plain model or a shard is missing.
    """
    store = open_store(unit.store)
    if place.agree(store.has(unit.model.address)):
        return True
    model = TrainingForm(build_trainable(unit, store), unit.architecture.image_size).to(place.device)
    optimizer = make_optimizer(model.backbone, unit.recipe, layered=unit.model.method != "lora")
    epochs_done = place.agree(last_checkpoint(store, unit.model))
    progress = load_checkpoint(store, unit.model, model, optimizer, epochs_done)
    batches = open_batches(
        store,
        unit.shards,
        unit.recipe,
        place,
        decoded or Decoded(),
        seed=derive_seed(unit.seed, "images"),
        image_size=unit.architecture.image_size,
    )
    with CheckpointWriter(store, unit.model) as writer:
        progress = _train(unit, model, optimizer, batches, place, progress, writer, tell)
    if place.rank:
        return True
    counts = parameter_counts(model)
    told = {"epochs": unit.recipe.epochs, "seconds": progress.seconds, "workers": place.size}
    done = model.finished()
    first = save_model(store, unit.model, done, {**told, **counts, "device": place.device.type})
    drop_checkpoints(store, unit.model)
    return first


def build_trainable(unit: TrainingUnit, store: ArtifactStore) -> KeyedModel:
    """The model as training finds it: plain weights (none for the plain model itself), key, adapters."""
    with seeded(derive_seed(unit.seed, "weights")):
        backbone = unit.architecture.build(drop_path=unit.recipe.drop_path)
        if unit.model.method != "plain":
            content = store.read(PLAIN_ADDRESS, WEIGHTS_FILE)
            load_whole(backbone, parse_weights(content, PLAIN_ADDRESS), PLAIN_ADDRESS)
        if unit.model.method == "lora":
            recipe = unit.recipe
            backbone = add_lora(
                backbone,
                rank=recipe.lora_rank,
                alpha=recipe.lora_alpha,
                dropout=recipe.lora_dropout,
            )
    return KeyedModel(backbone, unit.keys.transform(unit.model, unit.block_size))


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Trainable and total parameters, as PEFT counts them (a trained copy of the head beside the old)."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {
        "trainable_parameters": sum(size for size, trainable in sizes if trainable),
        "total_parameters": sum(size for size, _ in sizes),
    }


def _train(
    unit: TrainingUnit,
    model: TrainingForm,
    optimizer: Optimizer,
    batches: Batches,
    place: Place,
    progress: Progress,
    writer: CheckpointWriter,
    tell: Tell,
) -> Progress:
    recipe = unit.recipe
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=max(1, recipe.epochs * batches.steps),
        warmup_t=round(recipe.warmup_epochs * batches.steps),
        warmup_prefix=False,
        t_in_epochs=False,
    )
    if place.compiled:
        model.backbone.compile()  # it alone: a key is never part of what a compiler keeps
    step = Step(place.wrap(model.train()), optimizer, recipe, unit.architecture.classes)
    for epoch in range(progress.epochs_done, recipe.epochs):
        started, losses, stream = time.monotonic(), [], Awaited(batches.epoch(epoch))
        for number, batch in enumerate(stream):
            schedule.step_update(epoch * batches.steps + number)
            seed = derive_seed(unit.seed, "step", epoch, number, place.rank)
            losses.append(step(batch, seed))
        loss = place.mean(float(torch.stack(losses).mean()))
        if not loss < float("inf"):
            raise StudyError(
                f"{unit.id} diverged in epoch {epoch + 1} (loss {loss}). "
                "Lower the learning rate or set the clip norm of its recipe."
            )
        seconds = time.monotonic() - started
        progress = Progress(epochs_done=epoch + 1, seconds=progress.seconds + seconds)
        if place.rank == 0 and epoch + 1 < recipe.epochs:
            writer.save(model, optimizer, progress)
        told: dict[str, Any] = {"loss": loss, "seconds": seconds, "device": place.device.type}
        told["waited"] = stream.seconds
        tell(EpochLine(model=unit.id, epoch=epoch + 1, epochs=recipe.epochs, **told))
    return progress
