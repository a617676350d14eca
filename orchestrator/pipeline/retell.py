"""The report once more, from the store alone: what is recorded is counted and written up."""

from orchestrator.errors import StudyError
from orchestrator.pipeline.asked import recall_plan
from orchestrator.pipeline.tally import tally
from orchestrator.pipeline.write_up import write_up
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.transfer.work import plan_units


def retell(store: ArtifactStore) -> str:
    """Write the report of a study, finished or under way; where its index.html is.

    Raises:
        StudyError: no study was begun here, or it has no outcomes yet.
        StaleArtifact, DamagedArtifact: what is recorded does not belong together.
    """
    plan = recall_plan(store)
    recorded = store.stamps("models")
    there = [model for model in plan.models if model.address in recorded]
    units = plan_units(plan.units, store)
    scored = plan_units(plan.restricted(there), store).scored if units.pending else units.scored
    if not scored:
        raise StudyError(f"Study {plan.study.name} has no outcomes yet. Wait for its first attacks.")
    notes = []
    if units.pending:
        done, every = len(units.scored), len(units.scored) + len(units.pending)
        notes.append(f"Not all is done: {done} of {every} attack units have outcomes.")
    return write_up(plan, there, tally(store, scored), store, scored, notes)
