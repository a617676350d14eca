"""The price of a study's alignments before any model is there: passes through models, and bytes."""

from orchestrator.pipeline.alignments import ALIGNMENT, plan_alignment
from orchestrator.pipeline.missing import missing
from orchestrator.pipeline.plan import Plan
from orchestrator.pipeline.price import PriceLine
from orchestrator.pipeline.speed import Speed
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.transfer.alignment.worker import passed

# Of a float32, which compresses hardly.
_COSINE_BYTES = 4


def gradient_line(plan: Plan, store: ArtifactStore, speed: Speed) -> PriceLine:
    """Every model sees every image that is attacked once, forward and back."""
    study = plan.study
    units = plan_alignment(study.methods, plan.models, plan.units)
    pending = missing(store, units, ALIGNMENT, lambda unit: unit)
    images = {shard.address: len(shard.items) for shard in plan.eval_shards}
    passes = sum(passed(images[unit.shard]) * len(unit.models) for unit in pending)
    cosines = sum(images[unit.shard] * len(unit.pairs) for unit in pending)
    return PriceLine(
        stage="gradients",
        done=len(units) - len(pending),
        pending=len(pending),
        devices=f"{len(pending)} × 1 GPU" if pending else "",
        forwards=passes,
        backwards=passes,
        gpu_hours=speed.attack_hours(study.architecture, 2 * passes, "fp32"),
        store_bytes=cosines * _COSINE_BYTES,
    )
