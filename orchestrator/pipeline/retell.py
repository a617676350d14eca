"""The report once more, from the store alone: what is recorded is counted and written up."""

from orchestrator.errors import StudyError
from orchestrator.pipeline.asked import recall_plan
from orchestrator.pipeline.rounds import Rounds
from orchestrator.pipeline.sequels import sequels_of
from orchestrator.pipeline.tally import tally
from orchestrator.pipeline.write_up import Findings, write_up
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.transfer.work import plan_units


def retell(store: ArtifactStore, against: ArtifactStore | None = None) -> str:
    """Write the report of a study, finished or under way, compared with another where one is given.

    Returns:
        Where its index.html is.

    Raises:
        StudyError: no study was begun in a store, or it has no outcomes yet.
        StaleArtifact, DamagedArtifact: what is recorded does not belong together.
    """
    return write_up(find(store), find(against) if against else None)


def find(store: ArtifactStore) -> Findings:
    """What a study has come to by now; its matrix is counted again where that is not committed."""
    plan = recall_plan(store)
    recorded = store.stamps("models")
    there = [model for model in plan.models if model.address in recorded]
    rounds = Rounds(plan, store)
    units = rounds.reach(plan.restricted(there))
    if not units.scored:
        raise StudyError(f"Study {plan.study.name} has no outcomes yet. Wait for its first attacks.")
    notes, wanted = list(rounds.told), rounds.wanted(plan.units)
    if left := plan_units(wanted, store).pending:
        notes.append(f"Not all is done: {len(left)} of {len(wanted)} attack units have no outcomes yet.")
    matrix = tally(store, units.scored)
    return Findings(
        plan=plan,
        store=store,
        models=there,
        scored=units.scored,
        matrix=matrix,
        notes=notes,
        **sequels_of(plan, store, wanted),
    )
