"""What a study wants and the store has not; a record made by another recipe ends the run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.catalogue import read_records
from orchestrator.store.record import recipe_digest
from orchestrator.store.verify import stale

Thing = TypeVar("Thing")


class HasRecipe(Protocol):
    """An artifact that is to be made."""

    @property
    def address(self) -> str:
        """Where it will be."""
        ...

    @property
    def recipe(self) -> Mapping[str, Any]:
        """What decides it."""
        ...


def missing(
    store: ArtifactStore, things: Sequence[Thing], prefix: str, artifact: Callable[[Thing], HasRecipe]
) -> list[Thing]:
    """The things whose artifact has no record yet, in their order.

    Raises:
        StaleArtifact: what is recorded was made by another recipe.
    """
    records = read_records(store, prefix)
    left = []
    for thing in things:
        wanted = artifact(thing)
        record = records.get(wanted.address)
        if record is None:
            left.append(thing)
        elif record.digest != recipe_digest(wanted.recipe):
            raise stale(wanted.address, record, wanted.recipe)
    return left
