"""Sharing: thousands of records that name the same ten thousand targets hold them once."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.store.record import ArtifactRecord

# Smaller mappings are not worth a look, and of many kinds of one size only so many are remembered.
_FROM, _KINDS = 16, 8


class Shared:
    """Large mappings that were met before, to be held instead of their equals."""

    def __init__(self) -> None:
        self._met: dict[tuple[int, Any], list[Mapping[str, Any]]] = {}

    def record(self, record: ArtifactRecord) -> ArtifactRecord:
        """The same record, with mappings that other records hold too."""
        recipe = {name: self._of(value) for name, value in record.recipe.items()}
        return replace(record, recipe=recipe, parents=self._of(record.parents))

    def _of(self, value: Any) -> Any:
        if not isinstance(value, Mapping) or len(value) < _FROM:
            return value
        met = self._met.setdefault((len(value), next(iter(value))), [])
        found = next((known for known in met if known == value), None)
        if found is None and len(met) < _KINDS:
            met.append(value)
        return value if found is None else found
