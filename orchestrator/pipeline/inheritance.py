"""Inheritance: shards and plain model that another study has by the same recipe, taken over from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.pipeline.missing import HasRecipe, missing
from orchestrator.pipeline.plan import Plan
from orchestrator.store.artifacts import ArtifactStore, open_store
from orchestrator.store.catalogue import read_records
from orchestrator.store.record import recipe_digest


@dataclass(frozen=True, kw_only=True)
class Heirloom:
    """An artifact, and the study that has it."""

    address: str
    giver: str
    """Where that study's part of the store is."""

    @property
    def id(self) -> str:
        """Its name in ledgers and logs."""
        return self.address


class HeirloomWorker:
    """Copies artifacts into a study, wherever a runner puts it; every byte is held against its record."""

    def __init__(self, store: str) -> None:
        self.store = open_store(store)

    def run(self, unit: Heirloom) -> None:
        """Commit the same record and files; the provenance says whose they were."""
        giver = open_store(unit.giver)
        record = giver.record(unit.address)
        files = {name: giver.read(unit.address, name, record) for name in record.files}
        told = {**record.provenance, "taken_from": giver.uri}
        self.store.commit(unit.address, replace(record, provenance=told, writer=""), files)


def heirlooms(plan: Plan, store: ArtifactStore, relatives: Sequence[ArtifactStore]) -> list[Heirloom]:
    """What the study lacks of its shards and its plain model, and one of its relatives has.

    An artifact is the same where its recipe is: nothing else is asked of it.

    Raises:
        StaleArtifact: what the study itself has was made by another recipe.
    """
    lacking: list[HasRecipe] = [
        *missing(store, plan.shards, "shards", lambda shard: shard),
        *missing(store, [plan.plain.model], "models/plain", lambda model: model),
    ]
    wanted = {each.address: recipe_digest(each.recipe) for each in lacking}
    found: dict[str, Heirloom] = {}
    for relative in relatives if wanted else ():
        for prefix in ("shards", "models/plain"):
            for address, record in read_records(relative, prefix).items():
                if wanted.get(address) == record.digest:
                    found.setdefault(address, Heirloom(address=address, giver=relative.uri))
    return [found[address] for address in wanted if address in found]
