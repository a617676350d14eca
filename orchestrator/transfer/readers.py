"""Readers: who reads images as the targets; each model by itself, or LoRA models on the base they share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from orchestrator.models.lora_batch import shares_base
from orchestrator.models.ref import ModelRef
from orchestrator.transfer.held import LoadTogether, Models
from orchestrator.transfer.judge import Reading, read, read_together

# Models in one batch at most: of ViT-B/16 their own weights come to a third of the base they share.
_TOGETHER = 16


@runtime_checkable
class Reader(Protocol):
    """Reads images as some targets, decided by the judge."""

    @property
    def targets(self) -> Sequence[ModelRef]:
        """Whom it can read as."""
        ...

    def read(
        self,
        of: Sequence[ModelRef],
        images: Float[Tensor, "images 3 size size"],
        labels: Int[Tensor, " images"],
    ) -> list[Reading]:
        """What each of some of its targets reads.

        Raises:
            WeightsError: a logit is not a number.
        """
        ...


@dataclass
class Readers:
    """All targets of a unit, by reader; ``batch`` rows are read at a time."""

    models: Models
    batch: int
    load_together: LoadTogether | None = None
    """Without it every model is read by itself."""
    _sharing: dict[str, bool] = field(default_factory=dict)

    def of(self, targets: Sequence[ModelRef]) -> Iterator[Reader]:
        """Readers of targets, each target in one; a reader's weights are loaded when it first reads."""
        sharing: list[ModelRef] = []
        if self.load_together is not None:
            sharing = [target for target in targets if self._shares(target)]
            for start in range(0, len(sharing), _TOGETHER):
                some = sharing[start : start + _TOGETHER]
                yield _Together(self.models, self.batch, some, self.load_together)
        for target in targets:
            if target not in sharing:
                yield _Alone(self.models, self.batch, [target])

    def _shares(self, target: ModelRef) -> bool:
        if target.address not in self._sharing:
            self._sharing[target.address] = shares_base(self.models.store, target)
        return self._sharing[target.address]


@dataclass
class _Alone:
    models: Models
    batch: int
    targets: Sequence[ModelRef]

    def read(
        self,
        of: Sequence[ModelRef],
        images: Float[Tensor, "images 3 size size"],
        labels: Int[Tensor, " images"],
    ) -> list[Reading]:
        return [read([self.models.get(target)], images, labels, self.batch) for target in of]


@dataclass
class _Together:
    models: Models
    batch: int
    targets: Sequence[ModelRef]
    load: LoadTogether

    def read(
        self,
        of: Sequence[ModelRef],
        images: Float[Tensor, "images 3 size size"],
        labels: Int[Tensor, " images"],
    ) -> list[Reading]:
        if not of:
            return []
        # Of all its targets the same batch is held, whichever are read: the next unit leaves out another.
        held = self.models.together(self.targets, self.load)
        some = held if len(of) == held.models else held.of([self.targets.index(target) for target in of])
        return read_together(some, images, labels, self.batch)
