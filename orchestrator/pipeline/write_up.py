"""From records and matrix to the report's summary, and the report into the store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.attacks.threat import BALLS
from orchestrator.models.ref import Method, ModelRef
from orchestrator.pipeline.alignments import Alignments
from orchestrator.pipeline.committees import Committees
from orchestrator.pipeline.guards import Guards
from orchestrator.pipeline.pictures import examples_digests, gather_album
from orchestrator.pipeline.plan import Plan
from orchestrator.pipeline.tally import MATRIX, is_committed, replace_artifact
from orchestrator.pipeline.warnings import warn
from orchestrator.report.page import write_report
from orchestrator.report.summary import ModelLine, StageLine, StudySummary
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.catalogue import read_records
from orchestrator.store.record import ArtifactRecord
from orchestrator.study import Study
from orchestrator.transfer.matrix import TransferMatrix
from orchestrator.transfer.work import Scored

REPORT = "report"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a study came to, as its store has it."""

    plan: Plan
    store: ArtifactStore
    models: Sequence[ModelRef]
    """Those that have been made."""
    scored: Sequence[Scored]
    matrix: TransferMatrix
    """What ``scored`` comes to."""
    notes: Sequence[str]
    """What a reader must know of how it was made: what could not be done, how many images it took."""
    guards: Guards | None = None
    """The study's detectors, where it asks for some."""
    committees: Committees | None = None
    """Its committees, where it asks for some."""
    alignments: Alignments | None = None
    """Of its models' input gradients, where it asks for them."""


def write_up(found: Findings, against: Findings | None = None) -> str:
    """Write the report of what the store holds, compared with another study where one is given.

    Returns:
        Where its index.html is.
    """
    summary, store = summarise(found), found.store
    if against:
        summary = replace(summary, against=summarise(against))
    recipe = {
        "matrix": store.record(MATRIX).digest,
        "settings": dict(summary.settings),
        "notes": list(summary.notes),
        "examples": examples_digests(found.scored),
    }
    if against and summary.against:
        beside = against.store.record(MATRIX).digest
        recipe["against"] = {"matrix": beside, "settings": dict(summary.against.settings)}
    if found.guards:
        recipe["detectors"] = found.guards.digest
    if found.committees:
        recipe["committees"] = found.committees.digest
    if found.alignments:
        recipe["gradients"] = found.alignments.digest
    if not is_committed(store, REPORT, recipe):
        detection = found.guards.findings() if found.guards else None
        if found.guards and detection:
            found.guards.record(detection)
        seated = found.committees.findings() if found.committees else None
        aligned = found.alignments.findings() if found.alignments else []
        album = gather_album(store, found.scored)
        whole = replace(summary, album=album, detection=detection, committees=seated, alignments=aligned)
        replace_artifact(store, REPORT, recipe, dict(write_report(whole)), {})
    return store.locate(REPORT, "index.html")


def summarise(found: Findings) -> StudySummary:
    """Everything the report says, from the store's records; no example images yet."""
    plan, store = found.plan, found.store
    trained = read_records(store, "models")
    twins = {(model.method, model.slot): model.name for model in plan.models if not model.control}
    lines = [_model_line(trained[model.address], model, twins) for model in found.models]
    cut = read_records(store, "shards")
    shards = [(shard.address, cut[shard.address]) for shard in plan.shards]
    seconds = [record.told("seconds", float, address) for address, record in shards]
    attacked = store.record(MATRIX)
    stages = [
        StageLine(name="shards", artifacts=len(shards), seconds=sum(seconds)),
        StageLine(name="training", artifacts=len(lines), seconds=sum(line.seconds for line in lines)),
        StageLine(
            name="attack and scoring",
            artifacts=attacked.told("units", int, MATRIX),
            seconds=attacked.told("attack_seconds", float, MATRIX),
        ),
    ]
    stages += [part.line for part in (found.alignments, found.guards, found.committees) if part]
    left_out = [str(name) for address, record in shards for name in record.told("left_out", list, address)]
    warnings = warn(found.scored, found.matrix, plan.study.parsed_attacks())
    return StudySummary(
        study=plan.study.name,
        settings=printable_settings(plan),
        matrix=found.matrix,
        models=lines,
        stages=stages,
        notes=[
            *_left_out(left_out),
            *_passed_through(plan.study),
            *left_undone(plan.study),
            *_stopped(plan.study),
            *found.notes,
            *warnings,
        ],
        attack_seconds=_attack_seconds(found.scored),
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
        **({"controls": str(study.controls)} if study.controls else {}),
        **({"keys attacked": str(study.sources)} if study.sources else {}),
        **({"precision": f"± {100 * study.precision:g} points"} if study.precision else {}),
        "method": study.method,
        "block size": str(study.block_size),
        **({"transform": study.transform} if study.transform != "shuffle" else {}),
        **({"lora rank": str(study.lora.lora_rank)} if "lora" in study.methods else {}),
        "attacks": " ".join(study.attacks),
        **({"ensembles": " ".join(study.ensembles)} if study.ensembles else {}),
        "threats": " ".join(map(str, study.parsed_ladders())),
        **({"committees": " ".join(study.committees)} if study.committees else {}),
        **({"detectors fitted on": " ".join(study.fitted_on)} if study.detect else {}),
        **({"gradients": "compared"} if study.gradients else {}),
        "seed": str(study.seed),
        **{f"epochs ({method})": str(study.recipe_of(method).epochs) for method in study.methods},
    }


def _model_line(
    record: ArtifactRecord, model: ModelRef, keyed: Mapping[tuple[Method, int], str]
) -> ModelLine:
    address, control = model.address, model.control
    twin = keyed[model.method, control.number] if control and control.kind != "seed" else ""
    return ModelLine(
        name=model.name,
        method=model.method,
        trainable_parameters=record.told("trainable_parameters", int, address),
        total_parameters=record.told("total_parameters", int, address),
        epochs=record.told("epochs", int, address),
        seconds=record.told("seconds", float, address),
        workers=record.told("workers", int, address),
        device=str(record.provenance.get("device", "")),
        twin=twin,
    )


def _attack_seconds(scored: Sequence[Scored]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for part in scored:
        source = part.address.split("/")[2]
        seconds[source] = seconds.get(source, 0.0) + part.record.told("seconds", float, part.address)
    return seconds


def _left_out(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(names[:5])
    return [f"{len(names)} images could not be read and were left out: {shown}."]


def left_undone(study: Study) -> list[str]:
    """Which attacks were not run under which norms, where they were under others."""
    balls = [ladder for ladder in study.parsed_ladders() if ladder.norm in BALLS]
    missing = {
        name: [str(ladder) for ladder in balls if ladder.norm not in attack.norms]
        for name, attack in study.parsed_attacks().items()
        if attack.norms & BALLS
    }
    words = [f"{name} under {' and '.join(ladders)}" for name, ladders in missing.items() if ladders]
    return [f"Not run, as not defined: {'; '.join(words)}."] if words else []


def _passed_through(study: Study) -> list[str]:
    if study.transform != "ffx":
        return []
    return [
        "Keys encrypt pixel values (ffx), which has no gradient: attacks that use gradients passed them "
        "straight through it. An attacker with a better stand-in may reach more."
    ]


def _stopped(study: Study) -> list[str]:
    early = [name for name, attack in study.parsed_attacks().items() if getattr(attack, "early", False)]
    if not study.committees or not early:
        return []
    return [
        f"{', '.join(early)} leaves an image alone once its source falls: its images say whether a "
        "committee can fall, and little of how often. Attack with apgd-ce beside it."
    ]
