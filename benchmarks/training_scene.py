"""What benchmarks/training.py trains: scenes, the plain model both sides start from, and our own side."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from orchestrator.cluster.runner import Failed
from orchestrator.cluster.workplace import LocalWorkplace
from orchestrator.keys.vault import VaultAt
from orchestrator.models.backbone import Architecture, normalisation_of
from orchestrator.models.ref import Method
from orchestrator.models.stored import PLAIN_ADDRESS, WEIGHTS_FILE, load_model
from orchestrator.pipeline.plan import Plan, make_plan, plan_images
from orchestrator.pipeline.progress import PlainReporter
from orchestrator.pipeline.roster import ensure_keys
from orchestrator.pipeline.stages import StudyRun
from orchestrator.presets import cifar10, digits
from orchestrator.shards.shard import read_pixels
from orchestrator.store.local import LocalStore
from orchestrator.study import Study
from orchestrator.training.finetune import EpochLine, build_trainable
from orchestrator.training.place import Place
from orchestrator.training.recipe import Recipe
from orchestrator.transfer.judge import read


def _imagenet_sized(name: str) -> Callable[[], Study]:
    """Digits at 224 px through a ViT of ImageNet's size: for throughput on a GPU, not for accuracy."""
    recipe = Recipe(batch_size=128, learning_rate=1e-4, precision="bf16")
    architecture = Architecture(name=name, image_size=224, classes=10)
    parts = {"architecture": architecture, "block_size": 16, "base": replace(recipe, epochs=1)}
    return lambda: replace(digits(), recipe=recipe, lora=recipe, **parts)


# A study's folder inside a store's: no vault may lie in the store, and it is beside it.
PREPARED = Path("store") / "bench"

SCENES: dict[str, Callable[[], Study]] = {
    "digits": digits,
    "cifar10": cifar10,
    "vit-s": _imagenet_sized("vit_small_patch16_224"),
    "vit-b": _imagenet_sized("vit_base_patch16_224"),
}


def scene(name: str, *, data: str, images: int, keys: int, epochs: int) -> Study:
    """A study of the scene: so many keys, no controls, both methods for so many epochs."""
    study = SCENES[name]()
    short = {"epochs": epochs, "warmup_epochs": min(1.0, epochs / 10)}
    base = replace(study.base, epochs=min(study.base.epochs, 8))
    return replace(
        study,
        name="bench",
        data=data or study.data,
        train_images=images,
        n_keys=keys,
        controls=0,
        method="both",
        base=base,
        recipe=replace(study.recipe, **short),
        lora=replace(study.lora, **short),
    )


def prepare(study: Study, root: Path) -> float:
    """Shards and plain model below root, and what the script needs beside them; clean accuracy."""
    store = LocalStore(root / PREPARED)
    run = StudyRun(study, store, str(root / "vault"), LocalWorkplace(), PlainReporter(lambda _: None))
    accuracy = run.pretrain()
    if accuracy is None:
        raise SystemExit(run.ending.failures[0].reason)
    (root / "plain.safetensors").write_bytes(store.read(PLAIN_ADDRESS, WEIGHTS_FILE))
    splits = {}
    for name, shards in (("train", "shards/train"), ("eval", "shards/eval")):
        parts = [read_pixels(store, address) for address in store.addresses(shards)]
        splits[name] = torch.cat([part.pixels for part in parts]).numpy()
        splits[f"{name}_labels"] = torch.cat([part.labels for part in parts]).numpy()
    np.savez(root / "images.npz", **splits)
    return accuracy.rate


def write_settings(study: Study, root: Path, method: Method, loaders: int) -> Path:
    """What the script is told."""
    architecture = study.architecture
    sizes = {"img_size": "image_size", "num_classes": "classes", "patch_size": "patch_size"}
    sizes |= {"embed_dim": "width", "depth": "depth", "num_heads": "heads"}
    given = {name: getattr(architecture, field) for name, field in sizes.items()}
    mean, std = normalisation_of(architecture.build())
    settings = {
        "model": architecture.name,
        "sizes": {name: value for name, value in given.items() if value is not None},
        "recipe": asdict(study.recipe_of(method)),
        "block_size": study.block_size,
        "mean": mean,
        "std": std,
        "method": method,
        "keys": study.n_keys,
        "loaders": loaders,
        "plain": str(root / "plain.safetensors"),
        "images": str(root / "images.npz"),
    }
    path = root / f"{method}.json"
    path.write_text(json.dumps(settings))
    return path


def train_ours(study: Study, root: Path, method: Method, workers: int, compiled: bool) -> dict[str, object]:
    """Train every key of a method on a Ray of this machine, from a fresh copy of what is prepared."""
    from orchestrator.cluster.ray_workplace import RayWorkplace
    from orchestrator.cluster.session import joined

    began = time.monotonic()
    folder = root / f"ours-{time.time_ns()}"
    store = LocalStore(folder / PREPARED)
    shutil.copytree(root / PREPARED, store.root)
    plan = _plan(study, store, folder)  # with keys of its own
    units = [unit for unit in plan.keyed if unit.model.method == method]
    lines: list[EpochLine] = []
    copied = time.monotonic() - began
    with joined("local") as cluster:
        options = {"workers_per_model": workers, "pack": 0, "actors": 0, "compiled": compiled}
        workplace = RayWorkplace(cluster, store.uri, **options)
        ready, ready_at = time.monotonic(), time.time()
        accounts = list(workplace.train(units, lines.append))
        closed_at = time.time()
    failed = [account for account in accounts if isinstance(account, Failed)]
    if failed:
        raise SystemExit(failed[0].reason)
    shut = time.monotonic()
    keys = [_key(plan, store, unit.model.label, lines, workers) for unit in units]
    # From the first step of the first models to the record of the last; lines reach this process later.
    done = [store.times(unit.model.address)[unit.model.address] for unit in units]
    first = min(at - key["seconds"] for at, key in zip(done, keys, strict=True))
    return {
        "keys": keys,
        "steady": max(done) - first,
        "ray": ready - began - copied,
        "group": first - ready_at,
        "winding_up": closed_at - max(done),
        "unmeasured": copied + time.monotonic() - shut,
    }


def _plan(study: Study, store: LocalStore, root: Path) -> Plan:
    vault = str(root / "vault")
    return make_plan(study, plan_images(study), ensure_keys(study, store, vault), store.uri, VaultAt(vault))


def _key(plan: Plan, store: LocalStore, label: str, lines: list, workers: int) -> dict[str, float]:
    """What a key came to: seconds of its epochs, of waiting, and how many test images it reads right."""
    own = [line for line in lines if line.model == label]
    unit = next(unit for unit in plan.keyed if unit.model.label == label)
    model = load_model(store, unit.model, unit.architecture, unit.keys)
    parts = [read_pixels(store, shard.address) for shard in plan.eval_shards]
    pixels, labels = (torch.cat([getattr(p, name) for p in parts]) for name in ("pixels", "labels"))
    right = read([model], pixels.float() / 255, labels, 256).classes == labels
    spent = {name: sum(getattr(line, name) for line in own) / workers for name in ("seconds", "waited")}
    return {**spent, "accuracy": float(right.double().mean())}


def flops_per_image(study: Study, root: Path, method: Method) -> float:
    """Multiplications and additions of a training step, forward and backward, for one image."""
    folder = root / f"counted-{method}"
    plan = _plan(study, LocalStore(folder / PREPARED), folder)
    unit = next(unit for unit in plan.keyed if unit.model.method == method)
    model = build_trainable(unit, LocalStore(root / PREPARED)).to(Place.here().device).train()
    size = study.architecture.image_size
    images = torch.rand(2, 3, size, size, device=Place.here().device)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    return counter.get_total_flops() / 2
