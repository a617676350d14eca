"""Speed: what one GPU is taken to do in a second, and the hours that passes through a model then take."""

import functools
from dataclasses import dataclass
from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from orchestrator.errors import StudyError
from orchestrator.models.backbone import Architecture
from orchestrator.models.ref import Method

Arithmetic = Literal["fp32", "bf16"]

# A backward pass in forward passes: gradients of the weights and of what flows through them where all are
# tuned; of what flows alone where weights are frozen (adapters), or the image is what moves (attacks).
TUNED, FROZEN = 2, 1


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One GPU. The defaults are an NVIDIA A100's peaks by its data sheet, and an assumed share of them.

    hours = (forwards + w × backwards) × FLOPs of one forward pass / (peak × utilisation) / 3600, with w = 2
    where all weights are tuned and 1 for adapters and attacks; or the images of a measured rate.

    Raises:
        StudyError: a value is not positive, or a measured rate is negative.
    """

    tflops: float = 312.0
    """Peak in bf16, dense, in 10¹² operations a second."""
    fp32_tflops: float = 19.5
    """Peak in fp32, without TF32: what attacks and judgements run in by default."""
    utilisation: float = 0.3
    """Share of the peak that is reached: an assumption, until measured."""
    full_images: float = 0.0
    """Images a second of full fine-tuning, measured on one GPU; 0: by the formula."""
    lora_images: float = 0.0
    """Images a second of LoRA fine-tuning, measured on one GPU; 0: by the formula."""
    attack_passes: float = 0.0
    """Passes a second while attacking, forwards and backwards, measured on one GPU; 0: by the formula."""

    def __post_init__(self) -> None:
        for name in ("tflops", "fp32_tflops", "utilisation"):
            if not 0 < getattr(self, name) < float("inf"):
                flag = name.replace("_", "-")
                raise StudyError(f"--gpu.{flag} is {getattr(self, name):g}. Give a positive number.")
        for name in ("full_images", "lora_images", "attack_passes"):
            if not 0 <= getattr(self, name) < float("inf"):
                flag = name.replace("_", "-")
                raise StudyError(f"--gpu.{flag} is {getattr(self, name):g}. Give a rate, or 0.")

    def training_hours(
        self, architecture: Architecture, method: Method, images: int, precision: Arithmetic
    ) -> float:
        """GPU-hours in which so many images are trained on."""
        measured = self.lora_images if method == "lora" else self.full_images
        if measured:
            return images / measured / 3600
        weight = FROZEN if method == "lora" else TUNED
        return self._hours((1 + weight) * images * flops_of(architecture), precision)

    def attack_hours(self, architecture: Architecture, passes: int, precision: Arithmetic) -> float:
        """GPU-hours of so many passes, forwards and backwards, of attacks and judgements."""
        if self.attack_passes:
            return passes / self.attack_passes / 3600
        return self._hours(FROZEN * passes * flops_of(architecture), precision)

    def _hours(self, flops: int, precision: Arithmetic) -> float:
        peak = self.tflops if precision == "bf16" else self.fp32_tflops
        return flops / (peak * 1e12 * self.utilisation) / 3600

    @property
    def told(self) -> str:
        """The assumption, in a sentence."""
        return (
            f"GPU-hours, at most: on a GPU of {self.tflops:g} TFLOP/s in bf16 and {self.fp32_tflops:g} in "
            f"fp32, of which {100 * self.utilisation:g} % are reached. That is assumed: set --gpu.*, or "
            "give rates you measured. Attacks are priced as if no image ever fell."
        )


@functools.cache
def flops_of(architecture: Architecture) -> int:
    """Operations of one image's forward pass, a multiplication and an addition counted as two.

    Counted on a model without memory: nothing is computed.
    """
    size = architecture.image_size
    with torch.device("meta"):
        model, image = architecture.build().eval(), torch.empty(1, 3, size, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return int(counter.get_total_flops())
