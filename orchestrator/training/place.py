"""Place: which process of a training group this is, and where it computes; knows torch, not Ray."""

import os
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed, nn

from orchestrator.training.batches import Share

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Place:
    """One process of a data-parallel group; a group of one needs no process group."""

    rank: int
    size: int
    device: torch.device
    loaders: int = 0
    """Processes that decode streamed images; 0 decodes in this one."""
    compiled: bool = False
    """Models are trained through torch.compile: a minute or more to begin with, faster on GPUs."""

    @classmethod
    def here(cls, *, compiled: bool = False) -> "Place":
        """Rank and size of the initialised process group (1 without one), and this process's device.

        A GPU gets up to eight processes that decode for it; a core decodes for itself.
        """
        grouped = distributed.is_available() and distributed.is_initialized()
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None
        return cls(
            rank=distributed.get_rank() if grouped else 0,
            size=distributed.get_world_size() if grouped else 1,
            device=device or torch.device("cpu"),
            loaders=min(8, (os.cpu_count() or 2) - 1) if device else 0,
            compiled=compiled,
        )

    @property
    def share(self) -> Share:
        """This process's part of every global batch."""
        return Share(rank=self.rank, size=self.size)

    def agree(self, value: T) -> T:
        """Rank 0's value, on every rank: a decision read from the store is taken once."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def mean(self, value: float) -> float:
        """The mean of a number over all ranks, the same on each; a nan on one is a nan on all."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return float(total) / self.size

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over the group."""
        if self.size == 1:
            return model
        # No ViT has buffers that change: sent round at every step, they would only cost a message.
        return nn.parallel.DistributedDataParallel(
            model, broadcast_buffers=False, gradient_as_bucket_view=True
        )
