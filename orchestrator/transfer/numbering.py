"""Numbering: the values of a column by number, in the order in which they are met."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int


@dataclass
class Numbering:
    """Numbers that values keep, whatever comes later."""

    numbers: dict[Any, int] = field(default_factory=dict)

    def of(self, column: pa.Array) -> Int[np.ndarray, " rows"]:
        """The number of every value of a column; new values get the next ones."""
        encoded = column.dictionary_encode()
        known = np.array([self.number(value) for value in encoded.dictionary.to_pylist()], dtype=np.int64)
        rows: Int[np.ndarray, " rows"] = known[encoded.indices.to_numpy(zero_copy_only=False)]
        return rows

    def number(self, value: Any) -> int:
        """The number of one value."""
        return self.numbers.setdefault(value, len(self.numbers))

    def since(self, number: int) -> list[Any]:
        """The values from a number on."""
        return list(self.numbers)[number:]

    def __len__(self) -> int:
        return len(self.numbers)
