"""AlignmentWorker: lets every model see a shard's images, and keeps the cosines of their gradients alone.

Gradients are compared where they are made, and dropped: at 224 px one of an image takes 0.6 MB, a cosine
4 bytes. So a unit has all models of a method, and no file or other process ever sees a gradient.
"""

import io
import time
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.store.artifacts import open_store
from orchestrator.store.record import ArtifactRecord, FileEntry, library_versions
from orchestrator.transfer.alignment.gradients import PASS, cosines, input_gradients
from orchestrator.transfer.alignment.unit import COSINES_FILE, AlignmentUnit
from orchestrator.transfer.held import LoadModel, Models, Pixels, Shards, exact_device

# Rows of a part of the file: of 512 models 33 MB.
_GROUP_ROWS = 64


@dataclass(frozen=True)
class AlignmentAccount:
    """What a unit came to."""

    images: int
    models: int
    device: str


class AlignmentWorker:
    """Keeps the models it met last; the cosines depend on none of its settings.

    Args:
        store: the study's store, by URI.
        load: gives a model, frozen and in eval mode, taking images in [0, 1].
        keep_bytes: weights held at once.
        hold_bytes: gradients held at once, of all models for some images; at least those of one pass.
    """

    def __init__(
        self, store: str, load: LoadModel, *, keep_bytes: int = 8 * 2**30, hold_bytes: int = 2 * 2**30
    ) -> None:
        self.store, self.hold_bytes = open_store(store), hold_bytes
        self.device = exact_device()
        self.models = Models(self.store, load, self.device, keep_bytes)
        self.shards = Shards(self.store, self.device)

    def run(self, unit: AlignmentUnit) -> AlignmentAccount:
        """Measure and commit one unit.

        Raises:
            NotCommitted, StaleArtifact, DamagedArtifact: an input is missing or not the expected one.
        """
        started = time.monotonic()
        shard = self.shards.get(unit.shard)
        self._commit(unit, shard, self._cosines(unit, shard), started)
        return AlignmentAccount(len(shard.names), len(unit.models), self.device.type)

    def _cosines(self, unit: AlignmentUnit, shard: Pixels) -> Float[Tensor, "images pairs"]:
        first, second = torch.tensor(unit.pairs, dtype=torch.long).view(-1, 2).T
        order = list(enumerate(unit.models))
        found = []
        at_once = self._at_once(unit, shard)
        for first_row in range(0, len(shard.names), at_once):  # whole passes, the same in any number
            rows = slice(first_row, first_row + at_once)
            images, labels = shard.images[rows], shard.labels[rows]
            gradients = images.new_empty(len(order), *images.shape)
            for place, ref in order:
                gradients[place] = input_gradients(self.models.get(ref), images, labels)
            found.append(cosines(gradients)[:, first, second].float().cpu())
            # Back and forth, so that models still held come first.
            order.reverse()
        return torch.cat(found)

    def _at_once(self, unit: AlignmentUnit, shard: Pixels) -> int:
        of_one = len(unit.models) * shard.images[0].numel() * shard.images.element_size()
        return PASS * max(1, self.hold_bytes // (PASS * of_one))

    def _commit(
        self, unit: AlignmentUnit, shard: Pixels, found: Float[Tensor, "images pairs"], started: float
    ) -> None:
        values = pa.array(found.flatten().numpy())
        columns = [pa.array(shard.names), pa.FixedSizeListArray.from_arrays(values, found.shape[1])]
        sink = io.BytesIO()
        table = pa.table(columns, schema=unit.schema)
        pq.write_table(table, sink, compression="zstd", use_dictionary=False, row_group_size=_GROUP_ROWS)
        passes = passed(len(shard.names)) * len(unit.models)
        record = ArtifactRecord(
            recipe=unit.recipe,
            files={COSINES_FILE: FileEntry.of(sink.getvalue())},
            parents={model.address: model.digest for model in unit.models},
            provenance={
                "seconds": time.monotonic() - started,
                "forwards": passes,
                "backwards": passes,
                "device": self.device.type,
                "versions": library_versions(),
            },
        )
        self.store.commit(unit.address, record, {COSINES_FILE: sink.getvalue()})


def passed(images: int) -> int:
    """Images that a model sees of so many, the last pass filled up."""
    return -(-images // PASS) * PASS
