"""Examples: the first images of a shard as one source moved them, kept beside outcomes to be looked at."""

from dataclasses import dataclass

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.errors import DamagedArtifact
from orchestrator.models.backbone import parse_weights
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.transfer.climb import Moved
from orchestrator.transfer.work import Scored, WorkUnit

EXAMPLES_FILE = "examples.safetensors"
_IMAGES = 4
# Up to here every pixel is kept, as it was made; of larger images a copy to look at.
_WHOLE, _COPY = 64, 96


@dataclass(frozen=True)
class Examples:
    """A few images under the largest threat of a ladder, in [0, 1]."""

    clean: Float[Tensor, "images 3 side side"]
    worst: Float[Tensor, "images 3 side side"]
    """What the source's own models were asked."""
    best: Float[Tensor, "images 3 side side"]
    """What was tried on other models."""

    @property
    def whole(self) -> bool:
        """Whether these are all pixels, unrounded, and not a copy to look at."""
        return self.clean.dtype == torch.float32


def has_examples(unit: WorkUnit) -> bool:
    """Whether a unit keeps some: those of the first shard do, so that all sources show the same images."""
    return unit.shard.replace("-", "/").rpartition("/")[2] == f"{0:05d}"  # drawn-00000, too


def examples_bytes(moved: Moved, images: Float[Tensor, "images 3 size size"]) -> bytes:
    """The first images of a shard and what they were moved to, by no other choice.

    Of larger images every k-th pixel is kept, in half precision: a mean over pixels would hide the
    perturbation.
    """
    kept = {"clean": images, "worst": moved.worst[-1], "best": moved.best[-1]}
    if torch.equal(kept["worst"], kept["best"]):
        del kept["best"]
    content: bytes = safetensors.torch.save({n: _small(tensor[:_IMAGES]) for n, tensor in kept.items()})
    return content


def read_examples(store: ArtifactStore, part: Scored) -> Examples | None:
    """The examples beside recorded outcomes, if some were kept there.

    Raises:
        DamagedArtifact: they are no images.
    """
    if EXAMPLES_FILE not in part.record.files:
        return None
    tensors = parse_weights(store.read(part.address, EXAMPLES_FILE, part.record), part.address)
    tensors.setdefault("best", tensors.get("worst", torch.empty(0)))
    clean = tensors.get("clean", torch.empty(0))
    for name in ("clean", "worst", "best"):
        found = tensors.get(name, torch.empty(0))
        square = found.ndim == 4 and 0 < found.shape[2] == found.shape[3] <= _COPY
        if not square or found.shape[0] > _IMAGES or found.shape[1] != 3 or found.shape != clean.shape:
            raise DamagedArtifact(f"{part.address} holds no example images. Delete it and rerun.")
        if found.dtype != clean.dtype or ((found < 0) | (found > 1)).any():
            raise DamagedArtifact(f"{part.address} holds images outside [0, 1]. Delete it and rerun.")
    return Examples(clean, tensors["worst"], tensors["best"])


def _small(images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images 3 side side"]:
    size = images.shape[-1]
    if size <= _WHOLE:
        return images.cpu().contiguous()
    rows = torch.linspace(0, size - 1, min(size, _COPY)).round().long().to(images.device)
    return images[:, :, rows][:, :, :, rows].half().cpu().contiguous()
