"""The price of a study before it is paid: artifacts done and pending, model calls, devices, bytes."""

from dataclasses import dataclass

from orchestrator.models.backbone import Architecture
from orchestrator.models.ref import Method
from orchestrator.pipeline.plan import Plan
from orchestrator.pipeline.speed import Speed
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.study import Study
from orchestrator.transfer.work import UnitPlan, plan_units

# Measured on outcome files of 90 to 1,000 images: names, labels and predictions, zstd-compressed.
_ROW_BYTES = 12


@dataclass(frozen=True, kw_only=True)
class PriceLine:
    """One stage: what is there, what is to do, and what that takes."""

    stage: str
    done: int
    pending: int
    devices: str = ""
    """Devices the stage can use at once."""
    forwards: int = 0
    """Images through a model, forward, at most."""
    backwards: int = 0
    """Images through a model, backward, at most."""
    store_bytes: int = 0
    gpu_hours: float = 0.0
    """At most, on the GPU that was assumed."""


def price(
    plan: Plan, store: ArtifactStore, workers_per_model: int, speed: Speed | None = None
) -> list[PriceLine]:
    """The plan by stage, with what is recorded in the store subtracted; hours where a speed is given."""
    lines = [_shards_line(plan, store)]
    lines += [_training_line(plan, store, method, workers_per_model, speed) for method in _methods(plan)]
    lines.append(_attack_line(plan, plan_units(plan.units, store), speed))
    return lines


def _methods(plan: Plan) -> list[Method]:
    return list(dict.fromkeys(model.method for model in plan.models))


def _shards_line(plan: Plan, store: ArtifactStore) -> PriceLine:
    pending = [shard for shard in plan.shards if not store.has(shard.address)]
    images = sum(len(shard.items) for shard in pending)
    size = 3 * plan.study.architecture.image_size**2
    return PriceLine(
        stage="shards",
        done=len(plan.shards) - len(pending),
        pending=len(pending),
        devices="any CPUs",
        store_bytes=images * size,
    )


def _training_line(
    plan: Plan, store: ArtifactStore, method: Method, workers_per_model: int, speed: Speed | None
) -> PriceLine:
    units = [u for u in (plan.plain, *plan.keyed) if u.model.method == method]
    pending = [u for u in units if not store.has(u.model.address)]
    brought = method == "plain" and bool(plan.study.weights)
    images = 0 if brought else sum(len(shard.items) for shard in plan.train_shards)
    seen = sum(images * unit.recipe.epochs for unit in pending)
    group = 1 if method == "lora" else workers_per_model
    study, precision, hours = plan.study, plan.study.recipe_of(method).precision, 0.0
    if speed and seen:
        hours = speed.training_hours(study.architecture, method, seen, precision)
    return PriceLine(
        stage=f"{method} models",
        done=len(units) - len(pending),
        pending=len(pending),
        devices=f"{len(pending)} × {group} GPU" if pending and not brought else "",
        forwards=seen,
        backwards=seen,
        store_bytes=len(pending) * weight_bytes(study, method),
        gpu_hours=hours,
    )


def weight_bytes(study: Study, method: str) -> int:
    """Bytes of one stored model, counted on the architecture itself."""
    sizes = _tensor_sizes(study.architecture)
    if method != "lora":
        return 4 * sum(sizes.values())
    width = sizes["patch_embed.proj.bias"]
    blocks = sum(name.endswith("attn.qkv.weight") for name in sizes)
    adapters = blocks * study.lora.lora_rank * 4 * width
    kept = sum(sizes[n] for n in sizes if n.startswith(("patch_embed.proj", "head.")))
    return 4 * (adapters + kept)


def _tensor_sizes(architecture: Architecture) -> dict[str, int]:
    return {name: t.numel() for name, t in architecture.build().state_dict().items()}


def _attack_line(plan: Plan, units: UnitPlan, speed: Speed | None) -> PriceLine:
    attacks = plan.study.parsed_attacks()
    images = {shard.address: len(shard.items) for shard in plan.eval_shards}
    classes = plan.study.architecture.classes
    forwards = backwards = readings = rows = 0
    for unit in units.pending:
        calls = attacks[unit.attack].calls(classes)
        members, rungs = len(unit.source.members), len(unit.ladder.threats)
        count = images[unit.shard] * rungs
        # The attack on its source, one reading of the result there, and one a target; clean
        # readings are kept by the worker and counted once a target and shard below. Misreadings
        # are read twice.
        forwards += count * members * calls.forwards
        readings += count * 2 * (members + len(unit.targets))
        backwards += count * members * calls.backwards
        rows += count * len(unit.targets)
    read_clean = {(u.shard, t.address) for u in units.pending for t in u.targets}
    readings += sum(images[shard] for shard, _ in read_clean)
    return PriceLine(
        stage="attacks",
        done=len(units.scored),
        pending=len(units.pending),
        devices=f"{len(units.pending)} × 1 GPU" if units.pending else "",
        forwards=forwards + readings,
        backwards=backwards,
        store_bytes=rows * _ROW_BYTES,
        gpu_hours=_attack_hours(plan.study, speed, forwards + backwards, readings) if speed else 0.0,
    )


def _attack_hours(study: Study, speed: Speed, passes: int, readings: int) -> float:
    """Sources run in the precision the study sets; what a model reads is always judged in fp32."""
    attacked = speed.attack_hours(study.architecture, passes, study.attack_precision)
    return attacked + speed.attack_hours(study.architecture, readings, "fp32")
