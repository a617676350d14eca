"""The matrix: known answers, the house measures, growth touches only what is new."""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from conftest import run_locally, small_study
from orchestrator.attacks import ATTACKS, attack_settings
from orchestrator.attacks.answer import Found
from orchestrator.attacks.gradient.apgd_untargeted import ApgdUntargeted
from orchestrator.attacks.threat import Ladder, Threat
from orchestrator.errors import StaleArtifact, ThreatViolated, WeightsError
from orchestrator.models.ref import ModelRef
from orchestrator.pipeline.tally import tally
from orchestrator.shards.cutting import plan_shards
from orchestrator.shards.shard import write_shard
from orchestrator.store.local import LocalStore
from orchestrator.store.record import recipe_digest
from orchestrator.transfer.judge import predict
from orchestrator.transfer.matrix import Panel, TransferMatrix
from orchestrator.transfer.moved import kept_moved
from orchestrator.transfer.outcomes import OUTCOME_SCHEMA
from orchestrator.transfer.work import WorkUnit, plan_units, targets_of
from orchestrator.transfer.worker import OUTCOMES_FILE, TransferWorker


def model_ref(name: str) -> ModelRef:
    method = "plain" if name == "plain" else "full"
    return ModelRef(name=name, method=method, recipe={"name": name})


class Linear(nn.Module):
    """Two classes told apart by the pixels of one part of the image only."""

    def __init__(self, part: slice) -> None:
        super().__init__()
        self.part = part

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        score = (images[:, :, self.part].mean(dim=(1, 2, 3)) - 0.5) * 10
        return torch.stack([-score, score], dim=1)


PARTS = {"plain": slice(0, 4), "k-a": slice(4, 8), "k-b": slice(8, 12), "k-c": slice(4, 8)}


def load_linear(store: LocalStore, ref: ModelRef) -> nn.Module:
    return Linear(PARTS[ref.name])


def write_images(store: LocalStore, tmp_path: Path, count: int = 12, size: int = 16) -> tuple[str, str]:
    """A shard of noisy images, dark or light; its address and digest."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(count):
        level = 0.4 + 0.2 * (number % 2)
        noisy = level + 0.02 * torch.randn(size, size, 3, generator=generator)
        rows.append((noisy.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
    encoded = []
    for pixels in rows:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        encoded.append(file.getvalue())
    labels = [number % 2 for number in range(count)]
    (tmp_path / "data").mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": encoded, "label": labels}), tmp_path / "data/test.parquet")
    (shard,) = plan_shards(
        str(tmp_path / "data"),
        "eval",
        classes=2,
        rows=100,
        limit=0,
        image_size=size,
        crop_fraction=1.0,
        encoded=False,
    )
    write_shard(store, shard)
    return shard.address, recipe_digest(shard.recipe)


def units(store: LocalStore, tmp_path: Path, names: list[str], epsilon: float = 0.2) -> list[WorkUnit]:
    shard, digest = write_images(store, tmp_path)
    models = [model_ref(name) for name in names]
    return [
        WorkUnit(
            attack="apgd-ce-steps10",
            settings=attack_settings(ApgdUntargeted(steps=10)),
            ladder=Ladder((Threat("linf", epsilon),)),
            source=source,
            shard=shard,
            shard_digest=digest,
            targets=targets_of(source.method, models),
            seed=0,
        )
        for source in models
    ]


def rates(store: LocalStore, wanted: list[WorkUnit], **options) -> dict[tuple[str, str], float]:
    worker = TransferWorker(store.uri, load_linear, **options)
    plan = plan_units(wanted, store)
    for unit in plan.pending:
        worker.run(unit)
    matrix = tally(store, plan_units(wanted, store).scored)
    (panel,) = matrix.panels()
    return {pair: cell.fooling.rate for pair, cell in matrix.cells(panel).items()}


def test_models_that_look_elsewhere_are_never_fooled_and_twins_always(
    store: LocalStore, tmp_path: Path
) -> None:
    found = rates(store, units(store, tmp_path, ["plain", "k-a", "k-b", "k-c"]))
    for (source, target), rate in found.items():
        together = PARTS[source] == PARTS[target]
        assert rate == (1.0 if together else 0.0), (source, target)
    assert len(found) == 16


def test_outcomes_do_not_depend_on_the_batch_or_the_models_held(tmp_path: Path) -> None:
    contents = []
    for name, options in (
        ("one", {"batch": 1}),
        ("all", {}),
        ("few", {"batch": 5, "keep_bytes": 1}),
    ):
        store = LocalStore(tmp_path / name)
        wanted = units(store, tmp_path, ["plain", "k-a", "k-b"], epsilon=0.03)
        rates(store, wanted, **options)
        contents.append([store.read(unit.address, OUTCOMES_FILE) for unit in wanted])
    assert contents[0] == contents[1] == contents[2]


def test_a_source_is_read_once_and_its_own_cell_says_what_its_attack_was_judged_by(tmp_path: Path) -> None:
    class Watched(Linear):
        """Keeps what it is shown."""

        shown: list[torch.Tensor]

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.shown.append(images.clone())
            return super().forward(images)

    def load(store: LocalStore, ref: ModelRef) -> nn.Module:
        model = Watched(PARTS[ref.name])
        model.shown = shown.setdefault(ref.name, [])
        return model

    shown: dict[str, list[torch.Tensor]] = {}
    whole, early = LocalStore(tmp_path / "whole"), LocalStore(tmp_path / "early")
    unit = units(whole, tmp_path, ["plain", "k-a"], epsilon=0.1)[1]
    assert TransferWorker(whole.uri, load).run(unit).source_fooled in range(1, 12)
    units(early, tmp_path, ["plain", "k-a"])
    TransferWorker(early.uri, load).run(unit.attack_unit)
    clean = TransferWorker(early.uri, load).shards.get(unit.shard).images
    shown.clear()
    TransferWorker(early.uri, load, keep_images=True).run(replace(unit, kept=True))
    assert torch.equal(shown["k-a"][0], clean)
    assert sum(len(images) for images in shown["k-a"]) == 12, "it is asked about clean images alone"
    assert sum(len(images) for images in shown["plain"]) == 24
    (kept,) = early.addresses("adversarial")
    images = safetensors.torch.load(early.read(kept, "images.safetensors"))
    rows = pq.read_table(pa.BufferReader(early.read(unit.address, OUTCOMES_FILE))).to_pylist()
    own = [row for row in rows if row["target"] == "k-a"]
    assert [row["adversarial_prediction"] for row in own] == images["read_as"][0].tolist()
    assert [row["source_fooled"] for row in own] == images["fooled"][0].tolist()
    assert [row["adversarial_prediction"] != row["label"] for row in own] == images["fooled"][0].tolist()
    assert early.read(unit.address, OUTCOMES_FILE) == whole.read(unit.address, OUTCOMES_FILE)


def test_outcome_rows_state_facts(store: LocalStore, tmp_path: Path) -> None:
    wanted = units(store, tmp_path, ["plain", "k-a"])
    TransferWorker(store.uri, load_linear).run(wanted[1])
    table = pq.read_table(pa.BufferReader(store.read(wanted[1].address, OUTCOMES_FILE)))
    assert table.schema.equals(OUTCOME_SCHEMA)
    rows = table.to_pylist()
    assert len(rows) == 24
    assert {row["target"] for row in rows} == {"plain", "k-a"}
    assert all(row["method"] == "full" and row["source"] == "k-a" for row in rows)
    assert all(row["distance_linf"] <= 0.2 + 1e-6 for row in rows)
    assert all(row["source_fooled"] and row["moved"] for row in rows)


def test_a_new_key_is_scored_without_touching_old_outcomes(store: LocalStore, tmp_path: Path) -> None:
    before = units(store, tmp_path, ["plain", "k-a"])
    rates(store, before)
    kept = {unit.address: store.read(unit.address, OUTCOMES_FILE) for unit in before}
    wanted = units(store, tmp_path, ["plain", "k-a", "k-b"])
    plan = plan_units(wanted, store)
    assert {part.address for part in plan.scored} == set(kept)
    todo = {unit.source.name: [t.name for t in unit.targets] for unit in plan.pending}
    assert todo == {"plain": ["k-b"], "k-a": ["k-b"], "k-b": ["plain", "k-a", "k-b"]}
    grown = rates(store, wanted)
    assert all(store.read(address, OUTCOMES_FILE) == content for address, content in kept.items())
    fresh = LocalStore(tmp_path / "fresh")
    assert grown == rates(fresh, units(fresh, tmp_path, ["plain", "k-a", "k-b"]))


def test_the_matrix_is_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    contents = []
    for name, step in (("forth", 1), ("back", -1)):
        store = LocalStore(tmp_path / name)
        rates(store, units(store, tmp_path, ["plain", "k-a", "k-b"])[::step])
        contents.append(store.read("matrix", "matrix.parquet"))
    assert contents[0] == contents[1]


def test_outcomes_of_other_models_are_stale(store: LocalStore, tmp_path: Path) -> None:
    wanted = units(store, tmp_path, ["plain", "k-a"])
    rates(store, wanted)
    retrained = ModelRef(name="k-a", method="full", recipe={"name": "k-a", "epochs": 9})
    changed = [replace(unit, targets=(unit.targets[0], retrained)) for unit in wanted]
    with pytest.raises(StaleArtifact, match="outcomes/"):
        plan_units(changed, store)


def test_shrinking_and_growing_again_counts_every_image_once(store: LocalStore, tmp_path: Path) -> None:
    names = ["plain", "k-a", "k-b", "k-c"]
    fresh = LocalStore(tmp_path / "fresh")
    expected = rates(fresh, units(fresh, tmp_path, names))
    for count in (2, 4, 3, 4, 2, 4):
        found = rates(store, units(store, tmp_path, names[:count]))
        assert found == {pair: expected[pair] for pair in found}
        assert len(found) == count**2
        assert all(cell.n == 12 for cell in _cells(store, None).values())


def test_keyed_sources_are_tried_on_their_own_method_and_plain() -> None:
    models = [
        model_ref("plain"),
        ModelRef(name="k-a", method="full", recipe={}),
        ModelRef(name="k-a", method="lora", recipe={}),
    ]
    assert [t.label for t in targets_of(models[0].method, models)] == ["plain", "k-a.full", "k-a.lora"]
    assert [t.label for t in targets_of(models[2].method, models)] == ["plain", "k-a.lora"]


def test_a_tie_is_read_as_the_label_and_no_number_is_no_answer() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    labels = torch.tensor([1, 1, 0])

    class Fixed(nn.Module):
        def __init__(self, values: torch.Tensor) -> None:
            super().__init__()
            self.values = values

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.values

    images = torch.zeros(3, 3, 4, 4)
    assert predict([Fixed(logits)], images, labels).tolist() == [1, 2, 0]
    with pytest.raises(WeightsError, match="not numbers"):
        predict([Fixed(logits / 0 * 0)], images, labels)


def test_an_attack_that_cheats_is_caught(store: LocalStore, tmp_path: Path, monkeypatch) -> None:
    @dataclass(frozen=True)
    class Cheat:
        norms, access, needs = frozenset({"linf"}), "gradients", frozenset()

        def __call__(self, source, points, threat):
            return Found.same(points.images * float("nan"))

        def calls(self, classes: int):
            return ATTACKS["apgd-ce"].calls(classes)

    monkeypatch.setitem(ATTACKS, "cheat", Cheat())
    unit = units(store, tmp_path, ["plain"])[0]
    with pytest.raises(ThreatViolated):
        TransferWorker(store.uri, load_linear).run(replace(unit, settings={"kind": "cheat"}))
    assert not store.has(unit.address)


def test_growing_a_finished_study_keeps_its_cells(store: LocalStore, vault: str) -> None:
    study = small_study(eval_images=20)
    run_locally(study, store, vault)
    panel = Panel("full", "apgd-ce-steps3", "linf", 8 / 255)
    small = _cells(store, panel)
    run, said = run_locally(replace(study, n_keys=3), store, vault)
    grown = _cells(store, panel)
    assert len(small) == 9
    assert len(grown) == 16
    assert {pair: grown[pair] for pair in small} == small
    assert any("attacks: 3/7 there, 4 to do" in line for line in said)
    assert run.ending.failures == []


def _cells(store: LocalStore, panel: Panel | None) -> dict:
    content = store.read("matrix", "matrix.parquet")
    matrix = TransferMatrix(pq.read_table(pa.BufferReader(content)))
    return matrix.cells(panel or (matrix.panels() or [Panel("full", "apgd-ce-steps10", "linf", 0.2)])[0])


def test_images_kept_for_good_serve_new_keys_without_another_attack(
    store: LocalStore, tmp_path: Path, monkeypatch
) -> None:
    attacked: list[int] = []

    @dataclass(frozen=True)
    class Counted:
        norms, access, needs = frozenset({"linf"}), "gradients", frozenset()

        def __call__(self, source, points, threat):
            attacked.append(len(points))
            return ApgdUntargeted(steps=10)(source, points, threat)

        def calls(self, classes: int):
            return ApgdUntargeted(steps=10).calls(classes)

    monkeypatch.setitem(ATTACKS, "counted", Counted())

    def wanted(names: list[str]) -> list[WorkUnit]:
        found = units(store, tmp_path, names)
        return [replace(unit, attack="counted", settings={"kind": "counted"}) for unit in found]

    def run(names: list[str]) -> None:
        pending = plan_units(wanted(names), store).pending
        kept = kept_moved(store, pending)
        worker = TransferWorker(store.uri, load_linear, keep_images=True)
        for unit in pending:
            worker.run(replace(unit, kept=unit.attack_unit.address in kept))

    run(["plain", "k-a"])
    assert attacked == [12, 12]
    run(["plain", "k-a", "k-b"])
    assert attacked == [12, 12, 12]  # the new key alone
    fresh = LocalStore(tmp_path / "fresh")
    before, store = tally(store, plan_units(wanted(["plain", "k-a", "k-b"]), store).scored), fresh
    run(["plain", "k-a", "k-b"])
    assert tally(fresh, plan_units(wanted(["plain", "k-a", "k-b"]), fresh).scored).table.equals(
        before.table
    )


def test_only_the_first_keys_are_attacked_where_a_study_says_so(store: LocalStore, vault: str) -> None:
    study = small_study(n_keys=3, sources=1, controls=1, eval_images=20, ensembles=("2",))
    run, _ = run_locally(study, store, vault)
    assert run.ending.failures == []
    cells = _cells(store, None)
    keys = [name for name in dict.fromkeys(target for _, target in cells) if name.startswith("k-")]
    sources = {source for source, _ in cells}
    assert len(keys) == 3
    assert {source for source in sources if source.startswith("k-")} == {_first_key(store)}
    assert {"plain", "seed-0", "same-key-0", "rekeyed-0"} <= sources
    assert all((source, key) in cells for source in sources for key in keys)


def _first_key(store: LocalStore) -> str:
    return store.record("keys/00000").recipe["key_id"]


@pytest.mark.parametrize("file", ["draws.parquet", "union.parquet"])
def test_damaged_draws_are_counted_again(store: LocalStore, tmp_path: Path, file: str) -> None:
    wanted = units(store, tmp_path, ["plain", "k-a", "k-b"])
    rates(store, wanted)
    content = store.read("matrix", file)
    Path(store.locate("matrix", file)).write_bytes(content[:-9])
    assert tally(store, plan_units(wanted, store).scored).draws is not None
    assert store.read("matrix", file) == content
