"""Thrift's compact protocol, read strictly: parquet's headers, known before a decoder obeys them.

Arrow's own view of a column (``row_group.column``) ends the process where a footer contradicts itself. And
a reader that believes other fields than the decoder does is no guard; so what the two could take in
different ways is refused: a field that comes twice, a kind that is not the expected one.
"""

from collections.abc import Mapping
from typing import Any

I32, I64, BINARY = 5, 6, 8
_LIST, _STRUCT = 9, 12
# No kind of the protocol: a field of which this is expected is refused.
REFUSED = -1
_FIXED_BYTES = {1: 0, 2: 0, 3: 1, 7: 8}  # true and false are told by the kind alone; byte, double
_MAX_DEPTH = 8

Struct = Mapping[int, Any]
"""What is expected of a struct's fields, by number; those not named are passed over."""
Expected = int | list[Any] | Struct
"""A kind; a list of one thing; or a struct."""


class Fields(dict[int, Any]):
    """A struct's fields by number; one that is not there is told as what it is, a defect of the file."""

    def __missing__(self, number: int) -> Any:
        raise ValueError(f"a header lacks field {number}")


class CompactReader:
    """Reads one struct after another from bytes.

    Args:
        content: bytes that begin with a struct.
        most_elements: of a list.
    """

    def __init__(self, content: bytes, most_elements: int = 0) -> None:
        self.content, self.most_elements = content, most_elements
        self.place = 0
        """Bytes read so far."""

    def struct(self, expected: Struct, depth: int = 0) -> "Fields":
        """The expected fields that are there, by number.

        Raises:
            IndexError: the content ends before the struct does.
            ValueError: it is of another form.
        """
        fields = Fields()
        seen: set[int] = set()
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            if number in seen:
                raise ValueError(f"a header names field {number} twice")
            seen.add(number)
            value = self._value(head & 15, expected.get(number), depth)
            if number in expected:
                fields[number] = value
        return fields

    def _value(self, kind: int, expected: Expected | None, depth: int) -> Any:
        if depth > _MAX_DEPTH or (expected is not None and kind != _kind_of(expected)):
            raise ValueError("a header has a field of another kind, or too deep")
        if kind in (I32, I64, 4):
            return self._signed()
        if kind == BINARY:
            return self._bytes(self._varint())
        if kind in (_LIST, 10):
            return self._list(expected[0] if isinstance(expected, list) else None, depth)
        if kind == _STRUCT:
            return self.struct(expected if isinstance(expected, Mapping) else {}, depth + 1)
        if kind not in _FIXED_BYTES:
            raise ValueError("a header has a field of unknown kind")
        return self._bytes(_FIXED_BYTES[kind])

    def _list(self, expected: Expected | None, depth: int) -> list[Any]:
        head = self._byte()
        kind, size = head & 15, head >> 4
        size = self._varint() if size == 15 else size
        if size > self.most_elements or kind in (1, 2):
            raise ValueError(f"a header has a list of {size} elements")
        return [self._value(kind, expected, depth + 1) for _ in range(size)]

    def _byte(self) -> int:
        self.place += 1
        return self.content[self.place - 1]

    def _bytes(self, length: int) -> bytes:
        self.place += length
        if self.place > len(self.content):
            raise IndexError(self.place)
        return self.content[self.place - length : self.place]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a header has a number of more than 64 bits")

    def _signed(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


def _kind_of(expected: Expected) -> int:
    if isinstance(expected, int):
        return expected
    return _LIST if isinstance(expected, list) else _STRUCT
