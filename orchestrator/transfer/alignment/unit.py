"""AlignmentUnit: one shard of clean images, shown to the plain model and all models of one method."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from orchestrator.models.ref import Method, ModelRef
from orchestrator.store.record import recipe_digest

COSINES_FILE = "cosines.parquet"


@dataclass(frozen=True, kw_only=True)
class AlignmentUnit:
    """Cosines between all pairs of these models on the images of this shard."""

    method: Method
    models: tuple[ModelRef, ...]
    shard: str
    """Address of the images."""
    shard_digest: str

    @property
    def id(self) -> str:
        """The unit's name in ledgers and logs."""
        return f"alignment/{self.method}/{self.shard.rsplit('/', 1)[1]}"

    @cached_property
    def address(self) -> str:
        """Where the cosines are: the last part is of all that decides them."""
        return f"{self.id}/{recipe_digest(self.recipe)[:8]}"

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that decides the cosines, and their order."""
        return {"shard": self.shard_digest, "models": [[each.label, each.digest] for each in self.models]}

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs of models by their places, in the order of an image's cosines; each once."""
        count = len(self.models)
        return [(first, second) for first in range(count) for second in range(first + 1, count)]

    @property
    def schema(self) -> pa.Schema:
        """A row an image: its name, and a cosine a pair; nan where a gradient is zero."""
        return pa.schema([("image", pa.string()), ("cosines", pa.list_(pa.float32(), len(self.pairs)))])
