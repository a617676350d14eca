"""Sequels: what a study may ask for once models are attacked: gradients compared, detectors, committees."""

from collections.abc import Sequence
from typing import TypedDict

from orchestrator.pipeline.alignments import Alignments
from orchestrator.pipeline.committees import Committees
from orchestrator.pipeline.guards import Guards
from orchestrator.pipeline.plan import Plan
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.transfer.work import WorkUnit


class Sequels(TypedDict, total=False):
    """Those a study asks for."""

    alignments: Alignments
    guards: Guards
    committees: Committees


def sequels_of(plan: Plan, store: ArtifactStore, wanted: Sequence[WorkUnit]) -> Sequels:
    """What the study asks for besides its matrix, over the attacks it wants."""
    asked: Sequels = {}
    if plan.study.gradients:
        asked["alignments"] = Alignments(plan, store, wanted)
    if plan.study.detect:
        asked["guards"] = Guards(plan, store, wanted)
    if plan.study.committees:
        asked["committees"] = Committees(plan, store, wanted)
    return asked


def in_order(asked: Sequels) -> list[Alignments | Guards | Committees]:
    """Those asked for, in the order in which they run."""
    found = (asked.get("alignments"), asked.get("guards"), asked.get("committees"))
    return [sequel for sequel in found if sequel]
