"""Origin and sort: whose images they are to a model, and by which attack under which threat."""

from dataclasses import dataclass
from typing import Literal

Origin = Literal["own key", "another key", "plain"]
"""Made on the very model, on another key's, or on the undefended one."""


@dataclass(frozen=True, order=True)
class Sort:
    """A sort of attacked images."""

    attack: str
    norm: str
    epsilon: float
    origin: Origin
