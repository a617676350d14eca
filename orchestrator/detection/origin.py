"""Origin: whose images they are to a model: made on itself, on another key's model, or on plain."""

from typing import Literal

Origin = Literal["own key", "another key", "plain"]
