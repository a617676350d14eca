"""The matrix so far from a store, within bounds: as committed, else counted, else counted from a part."""

import contextlib
from collections.abc import Sequence

from orchestrator.errors import NotCommitted
from orchestrator.models.ref import ModelRef
from orchestrator.pipeline.so_far import SoFar
from orchestrator.pipeline.tally import MATRIX, MATRIX_FILE, count, read_matrix
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.transfer.work import Scored
from orchestrator.transfer.worker import OUTCOMES_FILE

# What is read and counted within a few seconds.
MOST_FILES = 512
_MOST_OUTCOME_BYTES = 32 << 20
_MOST_MATRIX_BYTES = 8 << 20


def count_so_far(
    store: ArtifactStore, models: Sequence[ModelRef], scored: Sequence[Scored]
) -> tuple[SoFar, str]:
    """Counts of a study's outcomes by now, and a sentence that says what they were counted from.

    Raises:
        DamagedArtifact: outcomes or the matrix are not what their record says.
    """
    so_far, every = SoFar(models), len(scored)
    if not every:
        return so_far, "No outcomes yet."
    part = _within_bounds(scored)
    covered = _committed(store, {each.address for each in scored})
    if covered >= len(part):
        with contextlib.suppress(NotCommitted):  # a driver is replacing it this moment
            so_far.add_matrix(read_matrix(store))
            if covered == every:
                return so_far, f"The matrix of all {every} outcome files."
            return so_far, f"The matrix as it was last written: {covered} of {every} outcome files."
    so_far.add_matrix(count(store, part))
    if len(part) == every:
        return so_far, f"Counted from all {every} outcome files."
    return so_far, f"Counted from {len(part)} of {every} outcome files, spread evenly."


def _within_bounds(scored: Sequence[Scored]) -> Sequence[Scored]:
    """All, or as many as are counted in a few seconds, spread evenly."""
    sizes = sum(each.record.files[OUTCOMES_FILE].size_bytes for each in scored)
    step = max(-(-len(scored) // MOST_FILES), -(-sizes // _MOST_OUTCOME_BYTES))
    return scored[::step]


def _committed(store: ArtifactStore, wanted: set[str]) -> int:
    """How many of the wanted outcome files the committed matrix counts; 0 where it cannot be used."""
    try:
        record = store.record(MATRIX)
    except NotCommitted:
        return 0
    counted = set(record.recipe.get("outcomes", ()))
    entry = record.files.get(MATRIX_FILE)
    fits = entry is not None and entry.size_bytes <= _MOST_MATRIX_BYTES
    # One that counts what is no longer asked for would not be this study's matrix.
    return len(counted) if fits and counted <= wanted else 0
