"""From records and matrix to the report's summary, and the report into the store."""

from collections.abc import Sequence
from typing import Any

from orchestrator.cluster.runner import Failed
from orchestrator.models.ref import ModelRef
from orchestrator.pipeline.plan import Plan
from orchestrator.pipeline.tally import MATRIX, replace_artifact
from orchestrator.report.page import write_report
from orchestrator.report.summary import ModelLine, StageLine, StudySummary
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.transfer.matrix import TransferMatrix

REPORT = "report"


def write_up(
    plan: Plan,
    models: Sequence[ModelRef],
    matrix: TransferMatrix,
    store: ArtifactStore,
    failures: Sequence[Failed[Any]],
) -> str:
    """Write the report of what the store holds; where its index.html is."""
    summary = summarise(plan, models, matrix, store, failures)
    recipe = {
        "matrix": store.record(MATRIX).digest,
        "settings": dict(summary.settings),
        "notes": list(summary.notes),
    }
    replace_artifact(store, REPORT, recipe, dict(write_report(summary)), {})
    return f"{store.uri}/{REPORT}/index.html"


def summarise(
    plan: Plan,
    models: Sequence[ModelRef],
    matrix: TransferMatrix,
    store: ArtifactStore,
    failures: Sequence[Failed[Any]],
) -> StudySummary:
    """Everything the report says, from the store's records."""
    lines = [_model_line(store, model) for model in models]
    shards = [store.record(shard.address).provenance for shard in plan.shards]
    attacked = store.record(MATRIX).provenance
    stages = [
        StageLine(name="shards", artifacts=len(shards), seconds=sum(s["seconds"] for s in shards)),
        StageLine(name="training", artifacts=len(lines), seconds=sum(line.seconds for line in lines)),
        StageLine(
            name="attack and scoring",
            artifacts=attacked["units"],
            seconds=attacked["attack_seconds"],
        ),
    ]
    left_out = [name for shard in shards for name in shard["left_out"]]
    return StudySummary(
        study=plan.study.name,
        settings=printable_settings(plan),
        matrix=matrix,
        models=lines,
        stages=stages,
        notes=_notes(left_out, failures),
    )


def printable_settings(plan: Plan) -> dict[str, str]:
    """The study's settings as people name them."""
    study = plan.study
    train, attacked = (
        sum(len(shard.items) for shard in shards) for shards in (plan.train_shards, plan.eval_shards)
    )
    return {
        "data": study.data,
        "images": f"{train} to train on, {attacked} to attack",
        "architecture": study.architecture.name,
        "image size": f"{study.architecture.image_size} px",
        "weights": study.weights or "trained in this study",
        "keys": str(study.n_keys),
        "method": study.method,
        "block size": str(study.block_size),
        **({"lora rank": str(study.lora.lora_rank)} if "lora" in study.methods else {}),
        "attacks": " ".join(study.attacks),
        "threats": " ".join(map(str, study.parsed_threats())),
        "seed": str(study.seed),
        **{f"epochs ({method})": str(study.recipe_of(method).epochs) for method in study.methods},
    }


def _model_line(store: ArtifactStore, model: ModelRef) -> ModelLine:
    told = store.record(model.address).provenance
    return ModelLine(
        name=model.name,
        method=model.method,
        trainable_parameters=told["trainable_parameters"],
        total_parameters=told["total_parameters"],
        epochs=told["epochs"],
        seconds=told["seconds"],
    )


def _notes(left_out: Sequence[str], failures: Sequence[Failed[Any]]) -> list[str]:
    notes = []
    if left_out:
        shown = ", ".join(left_out[:5])
        notes.append(f"{len(left_out)} images could not be read and were left out: {shown}.")
    for failure in failures:
        notes.append(f"{failure.unit.id} could not be done: {failure.reason}")
    return notes
