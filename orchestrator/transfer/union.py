"""Union: what the images of all other keys do together to a target, image by image.

An attacker who tries the images made on every other key's model succeeds with an image if one of them
does. One byte is kept of every panel, target and image; what would take more than 256 MiB is left out.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from orchestrator.models.control import control_of
from orchestrator.models.ensemble import member_names
from orchestrator.models.ref import PLAIN
from orchestrator.transfer.numbering import Numbering

ANY_OTHER = "any-other-key"
"""What stands in the place of the source."""
_MOST_BYTES = 2**28
# Rows of which the draws are summed at a time.
_BLOCK = 1024
# What is remembered of an image: read before and after as in COUNTS, but that one misreading is enough.
_SEEN, _CLEAN, _MISREAD, _ELIGIBLE, _FOOLED = (np.uint8(1 << bit) for bit in range(5))


Flags = UInt8[np.ndarray, "_ _"]


class Union:
    """What is known of every target's images over all sources so far: ``add`` rows, ask for ``counts``."""

    def __init__(self, columns: Sequence[Numbering]) -> None:
        self._columns = columns
        self._keys: tuple[list[bool], list[bool]] = ([], [])
        self._rows: dict[tuple[int, ...], int] = {}
        self._flags: Flags | None = np.zeros((0, 0), np.uint8)

    def add(
        self,
        cells: Int[np.ndarray, "columns cells"],
        of_cell: Int[np.ndarray, " rows"],
        image: Int[np.ndarray, " rows"],
        facts: Bool[np.ndarray, "counts rows"],
    ) -> None:
        """Remember some rows; those that are not from one key to another are left out."""
        source, target = (self._key(place, cells[place]) for place in (4, 5))
        between = source & target & ~self._same(cells)
        if not between.any():
            return
        row = np.zeros(cells.shape[1], np.int64)
        found = map(tuple, cells[[0, 1, 2, 3, 5]][:, between].T.tolist())
        row[between] = [self._rows.setdefault(each, len(self._rows)) for each in found]
        self._flags = flags = _grown(self._flags, len(self._rows), int(image.max()) + 1)
        if flags is None:
            return
        seen, clean, after, eligible, fooled = facts
        bits = seen * _SEEN | clean * _CLEAN | ~after * _MISREAD | eligible * _ELIGIBLE | fooled * _FOOLED
        kept = between[of_cell]
        place = row[of_cell[kept]] * flags.shape[1] + image[kept]
        np.bitwise_or.at(flags.reshape(-1), place, bits[kept])

    def counts(
        self, weights: Float32[np.ndarray, "images draws"]
    ) -> tuple[Int[np.ndarray, "columns rows"], Int[np.ndarray, "rows counts draws"]]:
        """The numbers of each row's names, by columns of a cell, and its counts as in ``COUNTS``."""
        if self._flags is None or not self._rows:
            return np.zeros((6, 0), np.int64), np.zeros((0, 5, weights.shape[1]), np.int32)
        any_other = self._columns[4].number(ANY_OTHER)
        rows = np.array(list(self._rows)).T
        cells = np.stack([*rows[:4], np.full(len(self._rows), any_other), rows[4]])
        counted = np.zeros((len(self._rows), 5, weights.shape[1]), np.int32)
        # Images that only others than keys were attacked on stand beyond the flags.
        weights = weights[: self._flags.shape[1]]
        for first in range(0, len(self._rows), _BLOCK):
            flags = self._flags[: len(self._rows), : len(weights)][first : first + _BLOCK]
            right = np.where(flags & _MISREAD, 0, flags & _SEEN)
            for place, held in enumerate(
                (flags & _SEEN, flags & _CLEAN, right, flags & _ELIGIBLE, flags & _FOOLED)
            ):
                counted[first : first + _BLOCK, place] = (held > 0).astype(np.float32) @ weights
        return cells, counted

    def _key(self, place: int, numbers: Int[np.ndarray, " cells"]) -> Bool[np.ndarray, " cells"]:
        """Whether a cell's source or target is a key's model."""
        known = self._keys[place - 4]
        known += [_is_key(name) for name in self._columns[place].since(len(known))]
        keys: Bool[np.ndarray, " cells"] = np.array(known, dtype=bool)[numbers]
        return keys

    def _same(self, cells: Int[np.ndarray, "columns cells"]) -> Bool[np.ndarray, " cells"]:
        targets = self._columns[5].numbers
        as_target = np.array([targets.get(name, -1) for name in self._columns[4].since(0)])
        same: Bool[np.ndarray, " cells"] = as_target[cells[4]] == cells[5]
        return same


def _grown(flags: Flags | None, rows: int, images: int) -> Flags | None:
    """The same flags with room for so many rows and images; none where that is too much."""
    if flags is None or rows * images > _MOST_BYTES:
        return None
    have = flags.shape
    if rows <= have[0] and images <= have[1]:
        return flags
    grown = np.zeros((max(have[0], 2 * rows), max(have[1], images)), np.uint8)
    grown[: have[0], : have[1]] = flags
    return grown


def _is_key(name: str) -> bool:
    return name != PLAIN and control_of(name) is None and len(member_names(name)) == 1
