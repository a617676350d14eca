"""Pool: how the units of a stage run on the actor pool and are told of, and what those recorded took."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.cluster.runner import Failed, Finished, Listed, MakeWorker, Unit
from orchestrator.cluster.workplace import Workplace
from orchestrator.models.stored import load_model
from orchestrator.pipeline.plan import Plan
from orchestrator.pipeline.progress import Reporter
from orchestrator.pipeline.standing import Used
from orchestrator.report.summary import StageLine
from orchestrator.store.record import ArtifactRecord
from orchestrator.transfer.held import LoadModel


def loader(plan: Plan) -> LoadModel:
    """What gives workers the study's models as they are attacked: frozen, on plain images."""
    return functools.partial(load_model, architecture=plan.study.architecture, keys=plan.plain.keys)


def run_units(
    stage_name: str,
    total: int,
    pending: Sequence[Unit],
    make_worker: MakeWorker[Unit],
    workplace: Workplace,
    reporter: Reporter,
    tell: Callable[[Finished[Unit]], str],
) -> list[Failed[Any]]:
    """Run the pending units of a stage of ``total``; those that failed.

    Args:
        stage_name: as it is told.
        total: its units, those that are recorded with them.
        pending: those to run.
        make_worker: its units' accounts tell their ``device``.
        workplace: where they run.
        reporter: told of every end.
        tell: one unit's end in words.
    """
    failures = list[Failed[Any]]()
    with reporter.stage(stage_name, total, total - len(pending)) as stage:
        for account in workplace.work(make_worker, Listed(pending)) if pending else ():
            if isinstance(account, Failed):
                failures.append(account)
                stage.fail()
                reporter.say(f"failed: {account.unit.id}: {account.reason}")
            else:
                stage.advance(tell(account), Used(account.seconds, account.account.device))
    return failures


def stage_line(
    stage_name: str, records: Mapping[str, ArtifactRecord], addresses: Sequence[str]
) -> StageLine:
    """How many of these artifacts are recorded, and what they took."""
    made = [address for address in addresses if address in records]
    seconds = sum(records[address].told("seconds", float, address) for address in made)
    return StageLine(name=stage_name, artifacts=len(made), seconds=seconds)
