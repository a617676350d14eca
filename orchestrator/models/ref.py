"""ModelRef: a model by its public name, where it is stored, and what it was made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from orchestrator.models.control import Control, control_of
from orchestrator.store.record import recipe_digest

Method = Literal["plain", "full", "lora"]
PLAIN = "plain"


@dataclass(frozen=True, kw_only=True)
class ModelRef:
    """A model of the study: ``plain``, a key's model by one training method, or a control. No secret."""

    name: str
    """``plain``, the key id or a control's name: the model's row and column in the matrix."""
    method: Method
    slot: int = -1
    """The key's slot in the vault; -1 for a model without a key."""
    key_id: str = ""
    """The key's id where it is not the model's name: a control may have a key of the study."""
    recipe: Mapping[str, Any]
    """Everything that decides the weights."""

    @property
    def address(self) -> str:
        """Where the weights are, relative to the study."""
        return f"models/{self.name}" if self.method == "plain" else f"models/{self.name}/{self.method}"

    @cached_property
    def label(self) -> str:
        """The model's name with its method where it has one, e.g. ``k-3f9a61c2d0e4.lora``."""
        return self.name if self.method == "plain" else f"{self.name}.{self.method}"

    @cached_property
    def digest(self) -> str:
        """The recipe's digest."""
        return recipe_digest(self.recipe)

    @property
    def control(self) -> Control | None:
        """Which control it is, if it is one."""
        return control_of(self.name)

    @property
    def members(self) -> "tuple[ModelRef, ...]":
        """The models a source consists of: this one."""
        return (self,)

    def __hash__(self) -> int:
        return hash((self.address, self.digest))
