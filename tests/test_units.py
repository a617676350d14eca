"""One unit from attack to record: however it is run, the same facts; and what it tells of itself."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from test_transfer import PARTS, Linear, load_linear, model_ref, units
from torch import nn

from orchestrator.attacks import ATTACKS
from orchestrator.attacks.answer import Found
from orchestrator.attacks.attack import Calls
from orchestrator.attacks.threat import Ladder, Threat, check_threat
from orchestrator.models.ensemble import EnsembleSpec
from orchestrator.models.ref import ModelRef
from orchestrator.shards.cutting import plan_shards
from orchestrator.shards.shard import write_shard
from orchestrator.store.local import LocalStore
from orchestrator.store.record import recipe_digest
from orchestrator.transfer import attacker as attacker_room
from orchestrator.transfer import parts as parts_room
from orchestrator.transfer.held import Models
from orchestrator.transfer.worker import OUTCOMES_FILE, TransferWorker

NAMES = ["plain", "k-a", "k-b"]


def rows_of(store, unit):
    return pq.read_table(pa.BufferReader(store.read(unit.address, OUTCOMES_FILE))).to_pylist()


class Net(nn.Module):
    """Two classes by one part of the image, through a matrix product, which runs in what it is told to."""

    def __init__(self, part: slice) -> None:
        super().__init__()
        self.part = part
        self.head = nn.Linear(3 * 16 * 4, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-10.0], [10.0]]).expand(-1, 192) / 192)
            self.head.bias.copy_(torch.tensor([5.0, -5.0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images[:, :, self.part].flatten(1))


def load_net(store: LocalStore, ref: ModelRef) -> nn.Module:
    return Net(PARTS[ref.name]).eval().requires_grad_(False)


def test_outcomes_of_compiled_models_are_the_same(tmp_path: Path) -> None:
    contents = []
    for compiled in (False, True):
        store = LocalStore(tmp_path / str(compiled))
        unit = units(store, tmp_path, NAMES[:2])[1]
        TransferWorker(store.uri, load_net, compiled=compiled).run(unit)
        contents.append(
            [
                (row["target"], row["adversarial_prediction"], row["forwards"])
                for row in rows_of(store, unit)
            ]
        )
    assert contents[0] == contents[1]


def test_an_attack_that_reaches_into_a_model_gets_it_as_it_is(store: LocalStore) -> None:
    models = Models(store, load_net, torch.device("cpu"), 1 << 30, compiled=True)
    assert isinstance(models.get(model_ref("k-a"), reached_into=True), Net)
    assert not isinstance(models.get(model_ref("k-a")), Net)


def test_a_source_in_bf16_is_judged_in_fp32(store: LocalStore, tmp_path: Path) -> None:
    short = replace(units(store, tmp_path, NAMES, epsilon=0.1)[1], precision="bf16")
    seen = set()

    class Watched(Net):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = super().forward(images)
            seen.add((images.dtype, logits.dtype))
            return logits

    def load(store: LocalStore, ref: ModelRef) -> nn.Module:
        return Watched(PARTS[ref.name])

    account = TransferWorker(store.uri, load, keep_images=True).run(short)
    assert (torch.float32, torch.bfloat16) in seen
    (kept,) = store.addresses("adversarial")
    tensors = safetensors.torch.load(store.read(kept, "images.safetensors"))
    shard = TransferWorker(store.uri, load).shards.get(short.shard)
    exact = load_net(store, model_ref("k-a"))(tensors["worst"][0])
    assert torch.equal(tensors["fooled"][0], exact.argmax(dim=1) != shard.labels)
    assert account.source_fooled == int(tensors["fooled"].sum())
    assert store.record(short.address).recipe["precision"] == "bf16"
    check_threat(tensors["worst"][0], shard.images, short.ladder.threats[0])


def test_an_image_has_the_same_outcomes_in_any_shard(tmp_path: Path) -> None:
    found = []
    for rows in (100, 5):
        store = LocalStore(tmp_path / str(rows))
        unit = units(store, tmp_path, NAMES, epsilon=0.1)[1]
        shards = plan_shards(
            str(tmp_path / "data"), "eval", classes=2, rows=rows, limit=0, image_size=16,
            crop_fraction=1.0, encoded=False,
        )  # fmt: skip
        worker, outcomes = TransferWorker(store.uri, load_linear), []
        for shard in shards:
            store.delete(shard.address)
            write_shard(store, shard)
            part = replace(unit, shard=shard.address, shard_digest=recipe_digest(shard.recipe))
            worker.run(part)
            outcomes += rows_of(store, part)
        found.append(sorted(outcomes, key=lambda row: (row["target"], row["image"])))
    assert len(found[0]) == 36
    assert found[0] == found[1]


@pytest.mark.parametrize("died_while", ["attacking", "scoring"])
def test_a_unit_whose_worker_died_goes_on_where_it_was(tmp_path: Path, monkeypatch, died_while) -> None:
    monkeypatch.setattr(parts_room, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(attacker_room, "_LONG", 1)
    monkeypatch.setattr(attacker_room, "_AT_MOST", 2)
    monkeypatch.setattr(attacker_room, "_AT_A_TIME", 2)
    shown, limit = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 10_000)

    class Mortal(Linear):
        name = ""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            shown[self.name] += len(images)
            if shown[self.name] > limit[self.name]:
                raise KeyboardInterrupt
            # What it misreads in a batch of two it reads right alone.
            return super().forward(images) * (-1 if len(images) == 2 and self.name == "k-a" else 1)

    def load(store: LocalStore, ref: ModelRef) -> nn.Module:
        model = Mortal(PARTS[ref.name])
        model.name = ref.name
        return model

    whole, broken = LocalStore(tmp_path / "whole"), LocalStore(tmp_path / "broken")
    unit = units(whole, tmp_path, NAMES, epsilon=0.001)[1]
    TransferWorker(whole.uri, load).run(unit)
    undisturbed = shown["k-a"]
    units(broken, tmp_path, NAMES)
    shown.update(dict.fromkeys(shown, 0))
    limit |= {"k-a": undisturbed // 2} if died_while == "attacking" else {"k-b": 0}
    with pytest.raises(KeyboardInterrupt):
        TransferWorker(broken.uri, load).run(unit)
    assert list(broken.addresses("partial"))
    limit.update(dict.fromkeys(PARTS, 10_000))
    before = shown["k-a"]
    TransferWorker(broken.uri, load).run(unit)
    assert shown["k-a"] - before < undisturbed
    assert list(broken.addresses("partial")) == []
    assert broken.read(unit.address, OUTCOMES_FILE) == whole.read(unit.address, OUTCOMES_FILE)
    told, expected = (dict(store.record(unit.address).provenance) for store in (broken, whole))
    for name in ("silent", "unconfirmed", "findings", "indicators"):
        assert told[name] == expected[name], name
    assert min(expected["unconfirmed"], expected["silent"]) > 0


@dataclass(frozen=True)
class TwoAnswers:
    """Sees the corner of the ball, and answers other images: one for the source, one to travel."""

    norms: ClassVar = frozenset({"linf"})
    access: ClassVar = "gradients"
    needs: ClassVar = frozenset()

    def __call__(self, source, points, threat):
        away = torch.where(points.labels == 0, 1.0, -1.0).view(-1, 1, 1, 1)
        source.findings["looks"] = source.findings.get("looks", 0) + 1
        rows = torch.arange(len(points))
        for few in points.slices(source.batch):
            corner = points.images[few] + away[few] * threat.epsilon
            wrong = source.decisions(corner, rows[few], points.labels[few])
            source.saw_misread(few[wrong])
        return Found(
            (points.images + 0.001 * away).clamp(0, 1), (points.images + threat.epsilon * away).clamp(0, 1)
        )

    def calls(self, classes: int) -> Calls:
        return Calls(1, 0)


def test_the_source_is_asked_of_the_worst_and_others_of_the_best(
    store: LocalStore, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setitem(ATTACKS, "two-answers", TwoAnswers())
    unit = replace(units(store, tmp_path, NAMES)[1], settings={"kind": "two-answers"})
    pair, *_ = EnsembleSpec.parse("plain+1").of(model_ref("plain"), [model_ref("k-a"), model_ref("k-b")])
    both = replace(unit, source=pair, attack="two-answers")
    worker = TransferWorker(store.uri, load_linear)
    for wanted, members in ((unit, {"k-a"}), (both, {"plain", "k-a"})):
        worker.run(wanted)
        for row in rows_of(store, wanted):
            expected = 0.001 if row["target"] in members else 0.2
            assert row["distance_linf"] == pytest.approx(expected, abs=1e-6), row
            assert (row["forwards"], row["backwards"]) == (len(members), 0)
    # The corner was misread on the way, and what was answered is not.
    record = store.record(unit.address)
    assert record.provenance["silent"] == 12
    assert record.provenance["findings"] == {"looks": 1}
    assert not any(row["source_fooled"] for row in rows_of(store, unit))


def test_kept_images_are_inside_every_threat_as_they_come_back(store: LocalStore, tmp_path: Path) -> None:
    ladder = Ladder((Threat("l2", 0.5), Threat("l2", 1.5)))
    unit = replace(units(store, tmp_path, NAMES)[1], ladder=ladder)
    worker = TransferWorker(store.uri, load_linear, keep_images=True)
    worker.run(unit)
    clean = worker.shards.get(unit.shard).images
    (kept,) = store.addresses("adversarial")
    tensors = safetensors.torch.load(store.read(kept, "images.safetensors"))
    for name in ("worst", "best"):
        stored = tensors.get(name, tensors["worst"])
        for rung, threat in enumerate(ladder.threats):
            check_threat(stored[rung], clean, threat)
            assert torch.equal(
                tensors[f"moved_{name}"][rung], (stored[rung] != clean).flatten(1).any(dim=1)
            )
