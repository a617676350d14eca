"""ArtifactRecord: the json that commits an artifact; what made it, from what, and its files' digests."""

import dataclasses
import functools
import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, TypeVar

from orchestrator.errors import DamagedArtifact

RECORD_FILE = "record.json"
MOST_RECORD_BYTES = 64 << 20
"""No record is larger: that of the matrix, the largest, holds 70 bytes for every outcome file counted."""
Kind = TypeVar("Kind")
_FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


def recipe_digest(recipe: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a recipe: everything that decides an artifact's content, and nothing else.

    Machines never enter a recipe; numerics do. Values json cannot write the same way in every
    process are refused rather than turned into text.

    Raises:
        TypeError: a value is not None, bool, int, float, str, list or mapping of those.
    """
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of what decides numerics here; told in provenance, never part of an identity."""
    names = ("multikey-orchestrator", "torch", "timm", "peft", "numpy", "pyautoattack")
    return {name: metadata.version(name) for name in names} | {"python": platform.python_version()}


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A payload file as it was committed."""

    size_bytes: int
    sha256: str
    """64 hex digits; caches name files by it."""

    @classmethod
    def of(cls, content: bytes) -> "FileEntry":
        """The entry of a file with this content."""
        return cls(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    @classmethod
    def parse(cls, value: Any) -> "FileEntry":
        """The entry a record holds; ValueError, KeyError or TypeError if it is none."""
        entry = cls(size_bytes=_typed(value["size_bytes"], int), sha256=_typed(value["sha256"], str))
        if entry.size_bytes < 0 or not _SHA256.fullmatch(entry.sha256):
            raise ValueError("a size below 0, or a digest that is not a SHA-256")
        return entry


@dataclass(frozen=True, kw_only=True)
class ArtifactRecord:
    """What is known of an artifact. Its presence in the store means the artifact is whole."""

    recipe: Mapping[str, Any]
    """What decides the content: settings, seed, parents' recipe digests. Its digest is the identity."""
    files: Mapping[str, FileEntry]
    parents: Mapping[str, str] = field(default_factory=dict)
    """Addresses this was made from, each with its recipe digest."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """How and where it was made: seconds, device, versions. Never part of the identity."""
    writer: str = ""
    """Whose writing this is, where writers of one address keep their payload apart; set by the store."""

    @property
    def digest(self) -> str:
        """The recipe's digest."""
        return recipe_digest(self.recipe)

    def told(self, name: str, kind: type[Kind], address: str) -> Kind:
        """What the provenance says of something; ``address`` is named in errors.

        Raises:
            DamagedArtifact: it says nothing of it, or not as this kind of value.
        """
        value = self.provenance.get(name)
        if type(value) is not kind:
            raise DamagedArtifact(f"{address} does not say its {name}. Delete {address} and rerun.")
        return value

    def to_json(self) -> bytes:
        """The record as it is stored."""
        value = {"format": _FORMAT, "digest": self.digest, **dataclasses.asdict(self)}
        return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes, address: str) -> "ArtifactRecord":
        """The record in ``content``; ``address`` is named in errors.

        Raises:
            DamagedArtifact: the bytes are not a record, or its digest is not its recipe's.
        """
        try:
            value = json.loads(content)
            record = cls(
                recipe=_typed(value["recipe"], dict),
                files={name: FileEntry.parse(entry) for name, entry in value["files"].items()},
                parents=_typed(value["parents"], dict),
                provenance=_typed(value["provenance"], dict),
                writer=_typed(value.get("writer", ""), str),
            )
            whole = value["format"] == _FORMAT and record.digest == value["digest"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedArtifact(
                f"{address}/{RECORD_FILE} is not a record ({type(error).__name__}). "
                f"Delete {address} and rerun: it will be made again."
            ) from None
        if not whole:
            raise DamagedArtifact(
                f"{address}/{RECORD_FILE} does not match its own digest or format. "
                f"Delete {address} and rerun: it will be made again."
            )
        return record


def _typed(value: Any, kind: type[Kind]) -> Kind:
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected")
    return value
