"""One step of training: the optimiser of a recipe, and Step: forward, backward, clip, update."""

import torch
from timm.data.mixup import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import Optimizer

from orchestrator.training.batches import Batch
from orchestrator.training.randomness import seeded
from orchestrator.training.recipe import Recipe


def make_optimizer(backbone: nn.Module, recipe: Recipe, *, layered: bool) -> Optimizer:
    """AdamW in one kernel for all weights (fused), by timm's groups: no decay of biases and norms.

    Args:
        backbone: what is trained.
        recipe: its rates.
        layered: whether the recipe's decay of the rate by depth applies.
    """
    layered = layered and recipe.layer_decay != 1
    optimizer: Optimizer = create_optimizer_v2(
        backbone,
        opt="adamw",
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay if layered else None,
        fused=True,
    )
    return optimizer


class Step:
    """One optimiser step: forward in the recipe's precision, backward, clip, update."""

    def __init__(self, network: nn.Module, optimizer: Optimizer, recipe: Recipe, classes: int) -> None:
        self.recipe, self.network, self.optimizer = recipe, network, optimizer
        # Frozen parameters are left out: clipping looks at what is trained.
        self.trained = [p for p in network.parameters() if p.requires_grad]
        mixes = recipe.mixup > 0 or recipe.cutmix > 0
        self.mixup = (
            Mixup(
                mixup_alpha=recipe.mixup,
                cutmix_alpha=recipe.cutmix,
                label_smoothing=recipe.label_smoothing,
                num_classes=classes,
            )
            if mixes
            else None
        )
        smooth = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        self.loss: nn.Module = SoftTargetCrossEntropy() if mixes else smooth

    def __call__(self, batch: Batch, seed: int) -> torch.Tensor:
        """Move the weights by a batch of this process; its loss. What is random follows from the seed."""
        images, labels = batch
        device = images.device
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
