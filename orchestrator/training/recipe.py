"""Recipe: how a model is fine-tuned; the options of the paper's training, through timm's own parts."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from orchestrator.errors import StudyError

Augment = Literal["none", "shift", "shift-flip", "inception"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a fine-tune besides model, data, key and seed.

    Raises:
        StudyError: a value is out of its range.
    """

    epochs: int = 10
    batch_size: int = 64
    """Images per optimiser step over all workers together."""
    learning_rate: float = 1e-3
    """Peak of the cosine schedule."""
    weight_decay: float = 0.05
    warmup_epochs: float = 1.0
    layer_decay: float = 1.0
    """Factor on the learning rate per block, from the head down; 1 is off."""
    clip_norm: float = 1.0
    """Global gradient norm above which a step is scaled down; 0 is off."""
    mixup: float = 0.0
    """Mixup's Beta parameter; 0 is off."""
    cutmix: float = 0.0
    """CutMix's Beta parameter; 0 is off."""
    label_smoothing: float = 0.0
    drop_path: float = 0.0
    """Stochastic depth: probability of dropping the last block, less for earlier ones."""
    augment: Augment = "none"
    """none; shift (by up to an eighth); shift-flip; inception (resized crop, flip, RandAugment)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the forward pass in training; weights and their update stay fp32."""
    lora_rank: int = 16
    lora_alpha: float = 16.0
    lora_dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "lora_rank"):
            if getattr(self, name) <= 0:
                raise StudyError(f"Recipe has {name} {getattr(self, name)}. Give a positive number.")
        for name in (
            "weight_decay",
            "warmup_epochs",
            "clip_norm",
            "mixup",
            "cutmix",
            "layer_decay",
        ):
            if getattr(self, name) < 0:
                raise StudyError(f"Recipe has {name} {getattr(self, name)}. Give 0 or more.")
        for name in ("label_smoothing", "drop_path", "lora_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise StudyError(f"Recipe has {name} {getattr(self, name)}. Give 0 or more, below 1.")

    def identity(self, method: str) -> dict[str, Any]:
        """What enters the identity of a model trained by ``method``: LoRA's options for LoRA alone."""
        values = asdict(self)
        if method != "lora":
            values = {name: v for name, v in values.items() if not name.startswith("lora_")}
        return values
