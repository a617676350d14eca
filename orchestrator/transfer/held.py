"""What a worker holds on to: the models it met last, by their bytes, and the shards it reads."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchestrator.models.ref import ModelRef
from orchestrator.shards.shard import ImageBatch, read_pixels
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.record import ArtifactRecord

LoadModel = Callable[[ArtifactStore, ModelRef], nn.Module]


@dataclass
class Models:
    """Models by reference, loaded once and kept while there is room."""

    store: ArtifactStore
    load: LoadModel
    device: torch.device
    keep_bytes: int
    compiled: bool = False
    _held: "OrderedDict[str, tuple[nn.Module, int]]" = field(default_factory=OrderedDict)

    def get(self, ref: ModelRef) -> nn.Module:
        """The model, frozen and in eval mode, on the device."""
        if ref.address not in self._held:
            model = self.load(self.store, ref).to(self.device)
            size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
            self._held[ref.address] = (self._faster(model), size)
        self._held.move_to_end(ref.address)
        while len(self._held) > 1 and sum(size for _, size in self._held.values()) > self.keep_bytes:
            self._held.popitem(last=False)
        return self._held[ref.address][0]

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
