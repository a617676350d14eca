"""What a record promises, held against what is found: another recipe, a missing file, a changed byte.

Every store says these things in the same words, because every store must refuse the same things.
"""

from collections.abc import Mapping
from typing import Any

from orchestrator.errors import DamagedArtifact, NotCommitted, StaleArtifact
from orchestrator.store.record import ArtifactRecord, FileEntry, recipe_digest


def parse_record(content: bytes, address: str, expect: Mapping[str, Any] | None) -> ArtifactRecord:
    """The record in ``content``, checked against the expected recipe if one is given.

    Raises:
        DamagedArtifact: the bytes are not a record.
        StaleArtifact: another recipe made the artifact.
    """
    record = ArtifactRecord.from_json(content, address)
    if expect is not None and record.digest != recipe_digest(expect):
        raise stale(address, record, expect)
    return record


def entry_of(record: ArtifactRecord, address: str, file: str) -> FileEntry:
    """What the record says of a payload file.

    Raises:
        DamagedArtifact: it knows no such file.
    """
    if file not in record.files:
        raise DamagedArtifact(f"{address} has no file {file} by its record. {_again(address)}")
    return record.files[file]


def verified(content: bytes | None, entry: FileEntry, address: str, file: str) -> bytes:
    """The content of a payload file, None where it was not found, if size and SHA-256 are the record's.

    Raises:
        DamagedArtifact: the file is gone, or a byte of it differs.
    """
    if content is None:
        raise DamagedArtifact(f"{address}/{file} is gone. {_again(address)}")
    if FileEntry.of(content) != entry:
        raise DamagedArtifact(f"{address}/{file} differs from its record. {_again(address)}")
    return content


def not_committed(address: str, uri: str) -> NotCommitted:
    """The error that says that there is no record."""
    return NotCommitted(f"Nothing is committed at {address} in {uri}.")


def stale(address: str, record: ArtifactRecord, expect: Mapping[str, Any]) -> StaleArtifact:
    """The error that names what changed between a recorded recipe and the expected one."""
    changed = sorted(
        name for name in {*record.recipe, *expect} if record.recipe.get(name) != expect.get(name)
    )
    told = ", ".join(f"{n} {record.recipe.get(n)!r} -> {expect.get(n)!r}" for n in changed[:4])
    return StaleArtifact(
        f"{address} was built from recipe {record.digest[:8]}, this study expects "
        f"{recipe_digest(expect)[:8]} ({told[:300]}). Rename the study with --name, or delete that address."
    )


def _again(address: str) -> str:
    return f"Delete {address} and rerun: it will be made again."
