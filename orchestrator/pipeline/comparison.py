"""Comparison: from the studies of a reproduction to the page that holds them beside the paper."""

from collections.abc import Mapping

from orchestrator.attacks.threat import Threat
from orchestrator.errors import StudyError
from orchestrator.models.backbone import patch_size_of
from orchestrator.pipeline.reproduction import Reproduction, Trial
from orchestrator.pipeline.retell import find
from orchestrator.pipeline.tally import MATRIX, is_committed, replace_artifact
from orchestrator.pipeline.write_up import summarise
from orchestrator.report.reproduction.page import write_reproduction
from orchestrator.report.reproduction.reproduced import Reproduced, Strand
from orchestrator.store.artifacts import ArtifactStore

REPRODUCTION = "reproduction"


def write_comparison(
    wanted: Reproduction, studies: Mapping[Trial, ArtifactStore], shelf: ArtifactStore
) -> str:
    """Write the page of what the studies have come to by now.

    Args:
        wanted: the reproduction.
        studies: the stores of its studies; those without outcomes are told of and left out.
        shelf: where the page is put.

    Returns:
        Where its index.html is.

    Raises:
        StudyError: no study has outcomes yet.
    """
    strands, notes, matrices = [], list[str](), {}
    for trial, store in studies.items():
        try:
            found = find(store)
        except StudyError as error:
            notes.append(str(error))
            continue
        summary = summarise(found)
        strands.append(Strand(trial.block_size, trial.seed, summary))
        notes += [f"{trial.study.name}: {note}" for note in summary.notes]
        matrices[trial.study.name] = {
            "matrix": store.record(MATRIX).digest,
            "settings": dict(summary.settings),
            "trained": [[line.name, line.method, line.seconds] for line in summary.models],
        }
    if not strands:
        raise StudyError(f"Nothing of {wanted.study.name} has outcomes yet. Run it first.")
    whole = Reproduced(
        name=wanted.study.name,
        patch_size=patch_size_of(wanted.study.architecture.build()),
        table_epsilon=Threat.parse(wanted.table_threat).epsilon,
        strands=strands,
        notes=notes,
    )
    recipe = {"studies": matrices, "table": wanted.table_threat, "notes": notes}
    if not is_committed(shelf, REPRODUCTION, recipe):
        replace_artifact(shelf, REPRODUCTION, recipe, write_reproduction(whole), {})
    return shelf.locate(REPRODUCTION, "index.html")
