"""Controls: models that tell what a key does, by their names in outcomes and matrix."""

import re
from dataclasses import dataclass
from typing import Literal

ControlKind = Literal["seed", "same-key", "rekeyed"]
_NAME = re.compile(r"(seed|same-key|rekeyed)-(\d+)")


@dataclass(frozen=True)
class Control:
    """A model that stands beside the keyed ones: a source and a target, but no key of the fleet.

    ``seed``: the same recipe without a key, another seed. ``same-key``: a slot's key, trained again with
    another seed. ``rekeyed``: a slot's model moved to another key without training: the same function.
    """

    kind: ControlKind
    number: int
    """The slot whose key's model it is a twin of; of ``seed``, which of them it is."""

    @property
    def name(self) -> str:
        """Its row and column in the matrix."""
        return f"{self.kind}-{self.number}"


def control_of(name: str) -> Control | None:
    """The control of this name, None if it is another model's."""
    found = _NAME.fullmatch(name)
    kinds: dict[str, ControlKind] = {"seed": "seed", "same-key": "same-key", "rekeyed": "rekeyed"}
    return Control(kinds[found[1]], int(found[2])) if found else None
