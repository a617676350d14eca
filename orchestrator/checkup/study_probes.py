"""Probes of the study itself: data, weights, what it was begun with, and what is left to do."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.checkup.probe import Finding, Patient, Probe, fail, ok, warn
from orchestrator.errors import DataError
from orchestrator.keys.vault import VaultAt
from orchestrator.models.backbone import load_plain, parse_weights
from orchestrator.pipeline.plain import PRETRAINED, read_weights
from orchestrator.pipeline.plan import make_plan, plan_images
from orchestrator.pipeline.price import price
from orchestrator.pipeline.roster import known_keys
from orchestrator.shards.pixels import canonical_pixels
from orchestrator.shards.shard import Shard, decode
from orchestrator.shards.sources import open_source

_SAMPLE = 16
_HUB_FILE = "model.safetensors"
_HUB_SECONDS = 10.0


def _architecture(patient: Patient) -> Iterator[Finding]:
    sizes = [tensor.numel() for tensor in patient.study.architecture.build().state_dict().values()]
    yield ok(f"{patient.study.architecture.name}, {sum(sizes) / 1e6:.1f} million parameters")


def _splits(patient: Patient) -> Iterator[Finding]:
    images = plan_images(patient.study)
    counts = [sum(len(shard.items) for shard in part) for part in (images.train, images.evaluation)]
    shards = len(images.train) + len(images.evaluation)
    yield ok(
        f"{counts[0]:,} images to train on, {counts[1]:,} to attack, in {shards:,} shards; "
        f"every label is in 0..{patient.study.architecture.classes - 1}"
    )


def _decodes(patient: Patient) -> Iterator[Finding]:
    images = plan_images(patient.study)
    bad = [told for part in (images.train, images.evaluation) for told in _unreadable(part)]
    if len(bad) == 2 * _SAMPLE:
        yield fail(f"none of {len(bad)} images could be decoded, first: {bad[0]}", "Mend the data.")
    elif bad:
        yield warn(
            f"{len(bad)} of {2 * _SAMPLE} images tried could not be decoded, first: {bad[0]}",
            "A run leaves such images out and records which; mend them if they are to count.",
        )
    else:
        yield ok(f"{2 * _SAMPLE} images from all over both splits were read and decoded")


def _unreadable(shards: Sequence[Shard]) -> Iterator[str]:
    """Why images of a sample cannot be decoded, spread evenly over some shards."""
    items = [item for shard in shards for item in shard.items]
    sample = [items[place * len(items) // _SAMPLE] for place in range(_SAMPLE)]
    for raw in open_source(shards[0].data).read(sample):
        try:
            canonical_pixels(decode(raw), shards[0].image_size, shards[0].crop_fraction)
        except DataError as error:
            yield str(error)


def _weights(patient: Patient) -> Iterator[Finding]:
    study = patient.study
    if not study.weights:
        yield ok("none are brought: the plain model is trained here first")
    elif study.weights == PRETRAINED:
        yield from _hub(patient)
    else:
        tensors = parse_weights(read_weights(study.weights), study.weights)
        fresh = load_plain(study.architecture.build(), tensors, study.weights)
        if fresh:
            yield warn(
                f"{study.weights} fits but for {', '.join(fresh)}, which would start at random",
                "Fine where the classes are others; else set --architecture.classes.",
            )
        else:
            yield ok(f"{study.weights}: {len(tensors)} tensors, all of them fit")


def _hub(patient: Patient) -> Iterator[Finding]:
    """Whether timm's weights are on this machine, or can be fetched; they are not fetched."""
    # A library of timm's own, imported for this one question.
    import huggingface_hub as hub

    config: Any = patient.study.architecture.build().pretrained_cfg
    name = str(config.get("hf_hub_id") or "")
    if not name:
        yield fail(
            f"timm has no weights for {patient.study.architecture.name}",
            "Choose another --architecture.name (timm.list_pretrained()), or give a .safetensors file.",
        )
    elif isinstance(hub.try_to_load_from_cache(name, _HUB_FILE), str):
        yield ok(f"{name} is on this machine already")
    else:
        size = hub.get_hf_file_metadata(hub.hf_hub_url(name, _HUB_FILE), timeout=_HUB_SECONDS).size or 0
        yield ok(f"{name} can be fetched, {size / 1e6:.0f} MB")


def _begun(patient: Patient) -> Iterator[Finding]:
    study, store = patient.study, patient.store
    if not store.has("study"):
        yield ok(f"study {study.name} is new here")
        return
    store.record("study", study.fixed())
    yield ok(f"study {study.name} was begun with these settings")


def _left_to_do(patient: Patient) -> Iterator[Finding]:
    study, store, vault = patient.study, patient.store, patient.vault_uri
    plan = make_plan(study, plan_images(study), known_keys(study, vault), store.uri, VaultAt(vault))
    lines = price(plan, store, patient.command.workers_per_model)
    stages = ", ".join(f"{line.stage} {line.done}/{line.done + line.pending}" for line in lines)
    forwards, backwards, size = (
        sum(getattr(line, name) for line in lines) for name in ("forwards", "backwards", "store_bytes")
    )
    told = f"{stages}; {forwards:.1e} forwards, {backwards:.1e} backwards, {size / 1e6:,.0f} MB to store"
    free = float("inf") if patient.in_bucket else _free_bytes(patient.bench.folder)
    if free < size:
        yield fail(f"{told}, and {free / 1e6:,.0f} MB are free", "Free space, or name another --store.")
    else:
        yield ok(told)


def _free_bytes(folder: Path) -> int:
    """Room on the disk that a folder, which may not be there yet, is or would be on."""
    return shutil.disk_usage(next(place for place in folder.parents if place.exists())).free


_DATA = "Look whether --data can be reached from here, then run the doctor again."
_FETCH = (
    "timm's hub cannot be asked from here. Mend the way out, or fetch the weights elsewhere and give "
    "--weights a .safetensors file."
)
_MEND = "Run jobs/proliferate.py with --dry-run to see more."

PROBES = (
    Probe(topic="data", name="splits", look=_splits, advice=_DATA, seconds=120.0, vital=True),
    Probe(topic="data", name="images", look=_decodes, advice=_DATA, seconds=120.0),
    Probe(topic="weights", name="architecture", look=_architecture, advice=_FETCH, vital=True),
    Probe(topic="weights", name="plain weights", look=_weights, advice=_FETCH, seconds=60.0),
    Probe(topic="study", name="settings", look=_begun, advice=_MEND, needs=("store",), vital=True),
    Probe(
        topic="study",
        name="done so far",
        look=_left_to_do,
        advice=_MEND,
        seconds=120.0,
        needs=("store", "vault", "data", "weights"),
    ),
)
