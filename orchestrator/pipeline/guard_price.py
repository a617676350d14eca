"""The price of a study's detectors before any image is there: passes through models, and bytes."""

from orchestrator.detection.examples import SHARES
from orchestrator.pipeline.guards import Guards
from orchestrator.pipeline.plan import Plan, sources_of
from orchestrator.pipeline.price import PriceLine
from orchestrator.pipeline.speed import Speed
from orchestrator.store.artifacts import ArtifactStore

# Measured on judged files of 80 images: names, readings, scores and p-values, zstd-compressed.
_ROW_BYTES = 30


def detector_line(plan: Plan, store: ArtifactStore, speed: Speed) -> PriceLine:
    """A detector for every key's model, and every test image of every source shown to it."""
    study = plan.study
    keyed = [unit.model for unit in plan.keyed if not unit.model.control]
    recorded = store.stamps("guarded")
    units = Guards(plan, store, plan.units).units
    done = sum(all(unit.address(each) in recorded for each in unit.sittings) for unit in units)
    images = sum(len(shard.items) for shard in plan.eval_shards)
    fit, held_out, test = (images * share // sum(SHARES.values()) for share in SHARES.values())
    noises = sum(len(ladder.threats) for ladder in study.parsed_ladders())
    rungs = {name: 0 for name in study.parsed_attacks()}
    for name, _, ladder in study.pairings():
        rungs[name] += len(ladder.threats)
    passes = 1 + study.detector.covariance  # over what is fitted on
    training = sum(len(shard.items) for shard in plan.train_shards)
    training = round(training * study.detector.training_share(training, study.architecture.classes))
    sources = len(sources_of(study, plan.models))
    # Fitted on a model's own images and on plain's; shown those of all sources, clean ones and noise.
    fitting = passes * (training + fit * (1 + 2 * sum(rungs[name] for name in study.fitted_on))) + held_out
    shown = test * (2 + noises + sources * sum(rungs.values()))
    pending = len(keyed) - done
    forwards = pending * (fitting + shown)
    bank = (study.architecture.classes + 1) * study.detector.state_bytes()
    return PriceLine(
        stage="detectors",
        done=done,
        pending=pending,
        devices=f"{pending} × 1 GPU" if pending else "",
        forwards=forwards,
        gpu_hours=speed.attack_hours(study.architecture, forwards, "fp32"),
        store_bytes=pending * (bank + shown * _ROW_BYTES),
    )
