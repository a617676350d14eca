"""The price of a study's committees before any image is there: readings, insiders' attacks, and bytes."""

from orchestrator.pipeline.committees import COMMITTEES, Committees
from orchestrator.pipeline.plan import Plan
from orchestrator.pipeline.price import PriceLine
from orchestrator.pipeline.speed import Speed
from orchestrator.store.artifacts import ArtifactStore

# Measured on judged files of 90 images: names, labels and counts, zstd-compressed.
_ROW_BYTES = 30


def committee_line(plan: Plan, store: ArtifactStore, speed: Speed) -> PriceLine:
    """Every source's images shown to every committee, and what insiders take, once where they share it."""
    study, recorded = plan.study, store.stamps(COMMITTEES)
    planned = Committees(plan, store, plan.units).planned
    pending = [unit for unit in planned if unit.address not in recorded]
    images = {shard.address: len(shard.items) for shard in plan.eval_shards}
    attacks, classes = study.parsed_attacks(), study.architecture.classes
    made = set(store.stamps("adversarial"))
    forwards = backwards = readings = rows = stored = 0
    for unit in pending:
        rungs = len(unit.work.ladder.threats) if unit.work else 1
        count = images[unit.shard] * rungs
        # Misread images are read twice: at most all of them.
        readings += 2 * count * len(unit.committee.members)
        rows += count
        place = unit.work.attack_unit.for_good if unit.work else ""
        if unit.work and unit.inside and place not in made:
            made.add(place)
            calls, held = attacks[unit.work.attack].calls(classes), len(unit.work.source.members)
            forwards += count * held * calls.forwards
            backwards += count * held * calls.backwards
            # Read once by the attack's own judge; kept in float32, the worst and the best.
            readings += 2 * count * held
            stored += 2 * count * 12 * study.architecture.image_size**2
    hours = speed.attack_hours(study.architecture, forwards + backwards, study.attack_precision)
    return PriceLine(
        stage=COMMITTEES,
        done=len(planned) - len(pending),
        pending=len(pending),
        devices=f"{len(pending)} × 1 GPU" if pending else "",
        forwards=forwards + readings,
        backwards=backwards,
        gpu_hours=hours + speed.attack_hours(study.architecture, readings, "fp32"),
        store_bytes=stored + rows * _ROW_BYTES,
    )
