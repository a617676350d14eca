"""finetune(): one model, one process group; loads, trains, checkpoints, commits. Knows nothing of Ray."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timm.data.mixup import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim import Optimizer

from orchestrator.errors import StudyError
from orchestrator.models.backbone import Architecture, load_whole, parse_weights
from orchestrator.models.keyed import KeyedModel
from orchestrator.models.lora import add_lora
from orchestrator.models.ref import ModelRef
from orchestrator.models.stored import PLAIN_ADDRESS, WEIGHTS_FILE, KeyAccess, save_model
from orchestrator.seeds import derive_seed
from orchestrator.store.artifacts import ArtifactStore, open_store
from orchestrator.training.batches import Batch, Batches, open_batches
from orchestrator.training.checkpoint import (
    Progress,
    drop_checkpoints,
    last_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from orchestrator.training.place import Place
from orchestrator.training.randomness import seeded
from orchestrator.training.recipe import Recipe


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
    device: str
    """Type of the process's device."""


Tell = Callable[[EpochLine], None]


def finetune(unit: TrainingUnit, place: Place, tell: Tell) -> bool:
    """Train one model to the end and commit it; continues from its last checkpoint; no-op when done.

    Rank 0 returns whether the model was recorded here: False if another driver's worker was first, whose
    weights stay.

    Called by every process of a group, with the same unit. The same unit and number of processes give
    the same weights on the same kind of device. Another number of processes gives them up to rounding;
    with mixup, CutMix, drop path or dropout, whose draws are made per process, up to those draws.

    Raises:
        StudyError: the loss is no longer finite.
        NotCommitted: the plain model or a shard is missing.
    """
    store = open_store(unit.store)
    if place.agree(store.has(unit.model.address)):
        return True
    model = build_trainable(unit, store).to(place.device)
    optimizer = _optimizer(model, unit)
    epochs_done = place.agree(last_checkpoint(store, unit.model))
    progress = load_checkpoint(store, unit.model, model, optimizer, epochs_done)
    batches = open_batches(
        store,
        unit.shards,
        unit.recipe,
        place.share,
        seed=derive_seed(unit.seed, "images"),
        image_size=unit.architecture.image_size,
        loaders=place.loaders,
    )
    progress = _train(unit, model, optimizer, batches, place, progress, store, tell)
    if place.rank:
        return True
    counts = parameter_counts(model)
    told = {"epochs": unit.recipe.epochs, "seconds": progress.seconds, "workers": place.size}
    first = save_model(store, unit.model, model, {**told, **counts, "device": place.device.type})
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
    return KeyedModel(backbone, unit.keys.shuffle(unit.model, unit.block_size))


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Trainable and total parameters, as PEFT counts them (a trained copy of the head beside the old)."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {
        "trainable_parameters": sum(size for size, trainable in sizes if trainable),
        "total_parameters": sum(size for size, _ in sizes),
    }


def _optimizer(model: KeyedModel, unit: TrainingUnit) -> Optimizer:
    recipe = unit.recipe
    layered = recipe.layer_decay != 1 and unit.model.method != "lora"
    optimizer: Optimizer = create_optimizer_v2(
        model.backbone,
        opt="adamw",
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay if layered else None,
    )
    return optimizer


def _train(
    unit: TrainingUnit,
    model: KeyedModel,
    optimizer: Optimizer,
    batches: Batches,
    place: Place,
    progress: Progress,
    store: ArtifactStore,
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
    step = _Step(unit, place.wrap(model.train()), optimizer, place)
    for epoch in range(progress.epochs_done, recipe.epochs):
        started, losses = time.monotonic(), []
        for number, batch in enumerate(batches.epoch(epoch)):
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
            save_checkpoint(store, unit.model, model, optimizer, progress)
        told: dict[str, Any] = {"loss": loss, "seconds": seconds, "device": place.device.type}
        tell(EpochLine(model=unit.id, epoch=epoch + 1, epochs=recipe.epochs, **told))
    return progress


class _Step:
    """One optimiser step: forward in the recipe's precision, backward, clip, update."""

    def __init__(self, unit: TrainingUnit, network: nn.Module, optimizer: Optimizer, place: Place) -> None:
        recipe = unit.recipe
        self.recipe, self.network, self.optimizer, self.place = recipe, network, optimizer, place
        # Frozen parameters are left out: clipping looks at what is trained.
        self.trained = [p for p in network.parameters() if p.requires_grad]
        mixes = recipe.mixup > 0 or recipe.cutmix > 0
        self.mixup = (
            Mixup(
                mixup_alpha=recipe.mixup,
                cutmix_alpha=recipe.cutmix,
                label_smoothing=recipe.label_smoothing,
                num_classes=unit.architecture.classes,
            )
            if mixes
            else None
        )
        smooth = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        self.loss: nn.Module = SoftTargetCrossEntropy() if mixes else smooth

    def __call__(self, batch: Batch, seed: int) -> torch.Tensor:
        device = self.place.device
        images, labels = (part.to(device, non_blocking=True) for part in batch)
        with seeded(seed, cuda=device.type == "cuda"):
            if self.mixup is not None:
                images, labels = self.mixup(images, labels)
            lowered = self.recipe.precision == "bf16"
            with torch.autocast(device.type, torch.bfloat16, enabled=lowered):
                logits = self.network(images)
            loss: torch.Tensor = self.loss(logits.float(), labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.trained, self.recipe.clip_norm)
        self.optimizer.step()
        return loss.detach()
