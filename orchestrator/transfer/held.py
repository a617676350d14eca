"""What a worker holds on to: the models it met last, by their bytes, and the shards it reads."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchestrator.models.lora_batch import LoraBatch
from orchestrator.models.ref import ModelRef
from orchestrator.shards.shard import ImageBatch, read_pixels
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.record import ArtifactRecord

LoadModel = Callable[[ArtifactStore, ModelRef], nn.Module]
LoadTogether = Callable[[ArtifactStore, Sequence[ModelRef]], LoraBatch]


def exact_device() -> torch.device:
    """The GPU if there is one, else the cores; from here on this process convolves in fp32 there.

    Convolutions default to TF32 on a GPU, ten bits of mantissa; what is judged or compared is fp32.
    """
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass
class Models:
    """Models by reference, loaded once and kept while there is room."""

    store: ArtifactStore
    load: LoadModel
    device: torch.device
    keep_bytes: int
    compiled: bool = False
    _held: "OrderedDict[tuple[str, ...], tuple[Any, int]]" = field(default_factory=OrderedDict)

    def get(self, ref: ModelRef, *, reached_into: bool = False) -> nn.Module:
        """The model, frozen and in eval mode, on the device.

        Args:
            ref: which.
            reached_into: by hooks on its parts, of which compiled code knows nothing; so not compiled.
        """
        model: nn.Module = self._hold((ref.address,), lambda: self.load(self.store, ref), self._faster)
        return getattr(model, "_orig_mod", model) if reached_into else model

    def together(self, refs: Sequence[ModelRef], load: LoadTogether) -> LoraBatch:
        """LoRA models that share their base, as one; not compiled, as parts of it are read alone."""
        batch: LoraBatch = self._hold(
            # A batch of one model is not that model.
            ("together", *(ref.address for ref in refs)),
            lambda: load(self.store, refs),
            lambda model: model,
        )
        return batch

    def _hold(
        self,
        place: tuple[str, ...],
        load: Callable[[], nn.Module],
        faster: Callable[[nn.Module], nn.Module],
    ) -> Any:
        """What is held there, loaded if it is not; what was used longest ago goes where room is short."""
        if place not in self._held:
            model = load().to(self.device)
            size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
            self._held[place] = (faster(model), size)
        self._held.move_to_end(place)
        while len(self._held) > 1 and sum(size for _, size in self._held.values()) > self.keep_bytes:
            self._held.popitem(last=False)
        return self._held[place][0]

    def _faster(self, model: nn.Module) -> nn.Module:
        # The last images of a shard come in smaller batches: no kernel is to be made for each.
        return torch.compile(model, dynamic=True) if self.compiled else model  # type: ignore[return-value]


@dataclass(frozen=True)
class Pixels:
    """A shard on the device: images in [0, 1], labels, and the images' names."""

    address: str
    names: list[str]
    images: Float[Tensor, "images 3 size size"]
    labels: Int[Tensor, " images"]


@dataclass
class Shards:
    """Shards by address; attacked on many sources: records are kept here, bytes in the node's cache."""

    store: ArtifactStore
    device: torch.device
    _records: dict[str, ArtifactRecord] = field(default_factory=dict)

    def get(self, address: str) -> Pixels:
        """The images of a shard.

        Raises:
            NotCommitted, DamagedArtifact: it is not there, or not as it was cut.
        """
        if address not in self._records:
            self._records[address] = self.store.record(address)
        read: ImageBatch = read_pixels(self.store, address, self._records[address])
        images = (read.pixels.float() / 255).to(self.device)
        return Pixels(address, list(read.names), images, read.labels.to(self.device))
