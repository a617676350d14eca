"""Training images in memory: decoded once for all models of a process, augmented batch by batch."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from orchestrator.seeds import derive_seed
from orchestrator.shards.shard import read_pixels
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.training.batches import Batch, Share, shuffled, whole_batches
from orchestrator.training.recipe import Recipe

# Of a GPU's memory, what training images may take; where they need more, batches travel one by one.
_DEVICE_SHARE = 0.1

Images = tuple[UInt8[Tensor, "images 3 size size"], Int[Tensor, " images"]]


class Decoded:
    """The training images a process read last; the models it trains one after another share them."""

    def __init__(self) -> None:
        self._of: tuple[object, ...] = ()
        self._images: Images | None = None

    def get(self, store: ArtifactStore, shards: Sequence[str], device: torch.device) -> Images:
        """Pixels and labels of shards, unless they were read last; on a GPU where they fit there."""
        # By the shards' bytes: another study, or a shard that was made again, is read again.
        records = {address: store.record(address) for address in shards}
        of = (store.uri, str(device), *((address, *r.files.items()) for address, r in records.items()))
        if self._images is None or of != self._of:
            self._images = None  # the old ones go before the new ones come
            parts = [read_pixels(store, address, record) for address, record in records.items()]
            pixels = torch.cat([part.pixels for part in parts])
            labels = torch.cat([part.labels for part in parts])
            self._of, self._images = of, (_placed(pixels, device), labels)
        return self._images


class InMemoryImages:
    """Final pixels, kept as uint8; a batch becomes floats, and is augmented, on the device it trains on."""

    def __init__(
        self, images: Images, recipe: Recipe, share: Share, device: torch.device, *, seed: int
    ) -> None:
        self.pixels, self.labels = images
        self.recipe, self.share, self.device, self.seed = recipe, share, device, seed
        self.steps = whole_batches(len(self.labels), recipe.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """This worker's rows of every global batch."""
        order = torch.from_numpy(shuffled(len(self.labels), derive_seed(self.seed, "order", epoch)))
        size = self.recipe.batch_size
        for step in range(self.steps):
            rows = order[step * size : (step + 1) * size][self.share.rows]
            pixels = self.pixels[rows.to(self.pixels.device)].to(self.device)
            seed = derive_seed(self.seed, "augment", epoch, step)
            moved = augment(pixels, self.recipe.augment, seed, self.share)
            yield as_floats(moved), self.labels[rows].to(self.device)


def augment(
    images: UInt8[Tensor, "batch 3 size size"], kind: str, seed: int, share: Share
) -> UInt8[Tensor, "batch 3 size size"]:
    """Shift by up to an eighth of the side (zero padding), and flip left-right, each at random.

    What an image gets is drawn for the whole batch, on the CPU: it depends neither on who shares the
    batch nor on the device.

    Args:
        images: a worker's rows of a global batch.
        kind: an ``Augment`` of the recipe that needs whole images only.
        seed: of the global batch.
        share: which of its rows they are.
    """
    if kind == "none":
        return images
    generator = torch.Generator().manual_seed(seed)
    batch, _, size, _ = images.shape
    reach, whole = size // 8, batch * share.size
    shifts = torch.randint(0, 2 * reach + 1, (2, whole), generator=generator)[:, share.rows]
    flips = (torch.rand(whole, generator=generator) < 0.5)[share.rows].to(images.device)
    if kind == "shift-flip":
        images = torch.where(flips[:, None, None, None], images.flip(3), images)
    padded = torch.nn.functional.pad(images, (reach,) * 4)
    windows = padded.unfold(2, size, 1).unfold(3, size, 1)
    rows, columns = shifts.to(images.device)
    return windows[torch.arange(batch, device=images.device), :, rows, columns]


def as_floats(images: UInt8[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch 3 size size"]:
    """Pixels in [0, 1], as models take them."""
    return images.float() / 255


def _placed(pixels: Tensor, device: torch.device) -> Tensor:
    """The pixels on a GPU where they take a small part of it, else where they are."""
    if device.type != "cuda":
        return pixels
    most = _DEVICE_SHARE * torch.cuda.get_device_properties(device).total_memory
    return pixels.to(device) if pixels.nbytes <= most else pixels
