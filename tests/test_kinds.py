"""Threats that are no norms, through a study: who is attacked under what, outcomes, kept images."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from conftest import run_locally, small_study
from orchestrator.attacks.attack import Points
from orchestrator.attacks.patches import patch_sides
from orchestrator.attacks.rendering import render
from orchestrator.attacks.threat import Threat
from orchestrator.detection.guard.noise import noisy
from orchestrator.errors import StudyError
from orchestrator.pipeline.tally import read_matrix
from orchestrator.pipeline.write_up import left_undone
from orchestrator.shards.shard import read_pixels
from orchestrator.store.local import LocalStore
from orchestrator.transfer.outcomes import OUTCOME_SCHEMA
from orchestrator.transfer.worker import OUTCOMES_FILE

MIXED = {
    "attacks": (
        "apgd-ce:steps=3",
        "patch:places=1,scout=1,steps=2",
        "spatial:tries=4,closer=2",
        "colour:steps=2",
    ),
    "threats": ("linf:8/255", "patch:4,8", "spatial:0.1", "colour:16/255"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> LocalStore:
    folder = tmp_path_factory.mktemp("kinds")
    store = LocalStore(folder / "store" / "small")
    study = small_study(**MIXED, n_keys=1, eval_images=20)
    run, _ = run_locally(study, store, str(folder / "vault"), attacking={"keep_images": True})
    assert run.ending.failures == []
    return store


def outcomes_of(store: LocalStore, norm: str) -> list[pa.Table]:
    found = []
    for address in store.addresses("outcomes"):
        record = store.record(address)
        if record.recipe["norm"] == norm:
            found.append(pq.read_table(pa.BufferReader(store.read(address, OUTCOMES_FILE, record))))
    return found


def test_every_attack_runs_under_the_threats_that_it_is_made_for(store) -> None:
    panels = {(p.attack.partition("-")[0], p.norm, p.epsilon) for p in read_matrix(store).panels()}
    assert panels == {
        ("apgd", "linf", 8 / 255),
        ("patch", "patch", 4.0),
        ("patch", "patch", 8.0),
        ("spatial", "spatial", 0.1),
        ("colour", "colour", 16 / 255),
    }
    report = store.read("report", "report.md").decode()
    assert "patch side in px = 8" in report
    assert "spatial share = 0.1" in report
    assert "Not run" not in report
    names = set(store.record("report").files)
    assert any(name.startswith("curves-full-patch-") and name.endswith("patch.svg") for name in names)


def test_outcomes_say_how_far_an_image_went_in_the_threats_own_measure(store) -> None:
    for norm, most in (("patch", 8), ("spatial", 0.1), ("colour", 16 / 255)):
        (table, *_) = outcomes_of(store, norm)
        assert set(table.column_names) - set(OUTCOME_SCHEMA.names) == {f"distance_{norm}"}
        assert pa.compute.max(table[f"distance_{norm}"]).as_py() == pytest.approx(most, abs=1e-6)
        within = table[f"distance_{norm}"].to_numpy() <= table["epsilon"].to_numpy() + 1e-6
        assert within.all()
    (table, *_) = outcomes_of(store, "linf")
    assert table.schema.equals(OUTCOME_SCHEMA)


def test_kept_images_are_what_the_kept_moves_make_of_their_shard(store) -> None:
    looked_at = set()
    for address in store.addresses("adversarial"):
        record = store.record(address)
        tensors = safetensors.torch.load(store.read(address, "images.safetensors", record))
        norm = record.recipe["norm"]
        looked_at.add((norm, "worst_moves" in tensors))
        if "worst_moves" in tensors:
            images = read_pixels(store, record.provenance["shard"]).pixels.float() / 255
            drawn = render(images, tensors["worst_moves"][-1], norm)
            assert torch.equal(drawn, tensors["worst"][-1])
    assert looked_at == {("linf", False), ("patch", False), ("spatial", True), ("colour", True)}


def test_kept_images_of_a_study_that_grew_are_tried_on_the_new_key_and_not_made_again(
    store, tmp_path
) -> None:
    """Moves come back with the images they made, and with them the distances."""
    shutil.copytree(store.root.parent.parent, tmp_path / "again")
    again = LocalStore(tmp_path / "again" / "store" / "small")
    before = {address: again.record(address).digest for address in again.addresses("adversarial")}
    study = small_study(**MIXED, n_keys=2, eval_images=20)
    run, _ = run_locally(study, again, str(tmp_path / "again" / "vault"))
    assert run.ending.failures == []
    assert before == {a: again.record(a).digest for a in before}
    tables = pa.concat_tables(outcomes_of(again, "spatial"))
    assert len(set(tables["target"].to_pylist())) == 3
    assert pa.compute.min(tables["distance_spatial"]).as_py() >= 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"threats": ("patch:8",)},
            "Attack apgd-ce-steps3 is not defined for patch, only for l1, l2, linf",
        ),
        ({"threats": ("linf:8/255", "patch:8")}, "No attack of apgd-ce-steps3 is defined for patch:8"),
        ({"attacks": ("patch",), "threats": ("patch:32",)}, "A patch of 32 px covers images of 32 px"),
        ({"attacks": ("apgd-ce", "patch")}, "Attack patch is not defined for linf, only for patch"),
    ],
)
def test_an_attack_without_a_threat_and_a_threat_without_an_attack_are_refused(changes, sentence) -> None:
    with pytest.raises(StudyError, match=sentence):
        small_study(**changes)


def test_what_is_not_run_under_a_norm_is_told_and_that_a_patch_is_no_norm_is_not() -> None:
    study = small_study(
        attacks=("apgd-ce", "square", "patch"), threats=("linf:4/255", "l1:5,12", "patch:8")
    )
    assert left_undone(study) == ["Not run, as not defined: square under l1:5,12."]
    assert left_undone(small_study()) == []


def test_a_study_of_norms_alone_attacks_in_the_order_it_always_did() -> None:
    study = small_study(attacks=("apgd-ce", "mi-fgsm"), threats=("linf:4/255", "l2:0.5,1"))
    pairs = [(name, str(ladder)) for name, _, ladder in study.pairings()]
    assert pairs == [
        (name, ladder) for name in ("apgd-ce", "mi-fgsm") for ladder in ("linf:4/255", "l2:0.5,1")
    ]


@pytest.mark.parametrize("text", ["patch:5", "spatial:0.1", "colour:16/255"])
def test_noise_of_a_threat_is_as_large_as_the_threat_and_each_images_own(text) -> None:
    threat = Threat.parse(text)
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    points = Points.of(images, torch.zeros(6, dtype=torch.long), range(6))
    moved = noisy(points, threat)
    few = torch.tensor([4, 1])
    assert torch.equal(noisy(points.part(few), threat), moved[few])
    assert (moved != images).flatten(1).any(dim=1).all()
    assert ((moved >= 0) & (moved <= 1)).all()
    if threat.norm == "patch":
        assert patch_sides(moved, images).tolist() == [5] * 6
        corners = [tuple(change.nonzero()[0].tolist()) for change in (moved != images).any(dim=1)]
        assert len(set(corners)) > 1
    if threat.norm == "colour":
        assert 0.5 * threat.epsilon < (moved - images).abs().max() <= threat.epsilon + 1e-6
