"""Controls: a rekeyed model is its twin to every attacker; the others are trained as they should be."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from conftest import run_locally, small_study
from jobs.report import Options, report
from orchestrator.errors import StudyError
from orchestrator.keys.vault import VaultAt, open_vault
from orchestrator.models.control import Control, control_of
from orchestrator.models.stored import KeyAccess, load_model
from orchestrator.pipeline.asked import asked_study, recall_plan
from orchestrator.pipeline.plan import Plan, make_plan, plan_images
from orchestrator.pipeline.retell import find
from orchestrator.store.local import LocalStore
from orchestrator.study import Study
from orchestrator.transfer.matrix import Panel, TransferMatrix

METHODS = ("full", "lora")


def plan_of(study: Study, store: LocalStore, vault: str) -> Plan:
    ids = open_vault(vault).ensure(study.name, study.n_keys)
    return make_plan(study, plan_images(study), ids, store.uri, VaultAt(vault))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small study of both methods with its controls, done; the study, its store and its vault."""
    root = tmp_path_factory.mktemp("controls")
    store, vault = LocalStore(root / "store" / "small"), str(root / "vault")
    study = small_study(n_keys=2, controls=1, method="both", attacks=("apgd-ce:steps=8",))
    tuned = {n: replace(getattr(study, n), epochs=3, warmup_epochs=1.0) for n in ("recipe", "lora")}
    study = replace(study, base=replace(study.base, epochs=10, warmup_epochs=1.0), **tuned)
    study = replace(study, train_images=512, shard_rows=40, threats=("linf:16/255",), gradients=True)
    run, _ = run_locally(study, store, vault)
    assert run.ending.failures == []
    return study, store, vault


def cells_of(store: LocalStore, method: str):
    table = pq.read_table(pa.BufferReader(store.read("matrix", "matrix.parquet")))
    return TransferMatrix(table).cells(Panel(method, "apgd-ce-steps8", "linf", 16 / 255))


@pytest.mark.parametrize("method", METHODS)
def test_images_made_on_a_model_fool_its_rekeyed_twin_every_time(finished, vault, method) -> None:
    study, store, vault = finished
    twin = open_vault(vault).find(study.name, 0)
    cells = cells_of(store, method)
    home, there, back = cells[twin, twin], cells[twin, "rekeyed-0"], cells["rekeyed-0", twin]
    assert home.fooled >= 5
    # Two ways to compute one function: rounding may turn an image or two that stand at the edge.
    assert abs(there.fooled - home.fooled) <= 1
    assert abs(back.fooled - cells["rekeyed-0", "rekeyed-0"].fooled) <= 1
    assert there.clean_correct == pytest.approx(home.clean_correct, abs=1)


@pytest.mark.parametrize("method", METHODS)
def test_a_rekeyed_model_is_the_same_function_behind_another_shuffle(finished, method) -> None:
    study, store, vault = finished
    plan, keys = plan_of(study, store, vault), KeyAccess(keys=VaultAt(vault), study=study.name)
    rekeying = next(each for each in plan.rekeyed if each.model.method == method)
    rewritten = load_model(store, rekeying.model, study.architecture, keys).double()
    twin = load_model(store, rekeying.twin, study.architecture, keys).double()
    images = torch.rand(6, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(rewritten(images), twin(images), rtol=0, atol=1e-4)
    assert rewritten.transform is not None
    assert twin.transform is None
    weights = [model.backbone.patch_embed.proj.weight for model in (rewritten, twin)]
    assert not torch.allclose(weights[0], weights[1], atol=1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_a_rekeyed_model_are_its_twins_and_those_of_others_are_not(finished, method) -> None:
    study, store, vault = finished
    twin, other = (open_vault(vault).find(study.name, slot) for slot in (0, 1))
    (found,) = (each for each in find(store).alignments.findings() if each.method == method)
    # Plain pixels go in, and the two compute one function of them, whatever lies between.
    assert found.cosine(twin, "rekeyed-0").rate == pytest.approx(1, abs=1e-4)
    assert found.counted(twin, "rekeyed-0") == found.images == 40
    for name in (other, "same-key-0", "seed-0", "plain"):
        assert abs(found.cosine(twin, name).rate) < 0.9
        assert found.cosine("rekeyed-0", name).rate == pytest.approx(
            found.cosine(name, twin).rate, abs=1e-4
        )


def test_controls_have_the_key_they_say_and_a_seed_of_their_own(finished) -> None:
    study, store, vault = finished
    plan = plan_of(study, store, vault)
    by_name = {unit.model.name: unit for unit in plan.keyed if unit.model.method == "full"}
    first = by_name[open_vault(vault).find(study.name, 0)]
    again, keyless = by_name["same-key-0"], by_name["seed-0"]
    shuffle = [unit.keys.transform(unit.model, unit.block_size) for unit in (first, again)]
    assert shuffle[0].order.equal(shuffle[1].order)
    assert keyless.keys.transform(keyless.model, keyless.block_size) is None
    assert len({unit.seed for unit in by_name.values()}) == len(by_name)
    assert (
        again.model.recipe["training"] == first.model.recipe["training"] == keyless.model.recipe["training"]
    )


def test_more_controls_and_keys_leave_what_is_there_as_it_is(finished) -> None:
    study, store, vault = finished
    before = {model.label: model.digest for model in plan_of(study, store, vault).models}
    grown = plan_of(replace(study, n_keys=3, controls=2), store, vault)
    after = {model.label: model.digest for model in grown.models}
    assert before.items() <= after.items()
    added = {label for label in after.keys() - before.keys() if control_of(label.partition(".")[0])}
    assert added == {f"{name}-1.{method}" for name in ("seed", "same-key") for method in METHODS}


def test_blocks_that_do_not_tile_patches_cannot_be_rekeyed(store, vault) -> None:
    plan = plan_of(small_study(controls=1, block_size=16), store, vault)
    assert plan.rekeyed == ()
    assert [model.name for model in plan.models if model.control] == ["seed-0", "same-key-0"]


def test_names_of_controls_are_read_and_other_names_are_not() -> None:
    for name in ("seed-0", "same-key-3", "rekeyed-12"):
        assert control_of(name).name == name
    assert control_of("same-key-3") == Control("same-key", 3)
    for name in ("plain", "k-3f9a61c2d0e4", "seed", "seed-x", "same-key-0+plain", "seed-0.full"):
        assert control_of(name) is None


def test_a_report_is_made_again_from_the_store_alone(finished, capsys, tmp_path) -> None:
    study, store, vault = finished
    report_before = store.read("report", "report.md")
    store.delete("report")
    (tmp_path / "elsewhere").mkdir()
    root = store.root.parent
    assert report(Options(store=str(root), name="small")) == 0
    assert capsys.readouterr().out.strip().endswith("report/index.html")
    assert store.read("report", "report.md") == report_before
    assert [model.digest for model in recall_plan(store).models] == [
        model.digest for model in plan_of(study, store, vault).models
    ]
    assert asked_study(store)[0] == study


def test_where_no_study_was_begun_there_is_no_report(store) -> None:
    with pytest.raises(StudyError, match="No study was begun"):
        recall_plan(store)


def test_a_report_tells_what_the_controls_say_and_compares_studies(finished, capsys) -> None:
    _, store, vault = finished
    said = store.read("report", "report.md").decode()
    assert "same function, re-keyed" in said
    assert "With 1 same-key control" in said
    assert "This study has no controls" not in said
    twin = open_vault(vault).find("small", 0)
    assert report(Options(store=str(store.root.parent), name="small", against="small")) == 0
    capsys.readouterr()
    compared = store.read("report", "report.md").decode()
    row = next(line for line in compared.split("Studies compared")[1].splitlines() if "apgd" in line)
    assert row.split(" | ")[-1].startswith("0.0 "), row
    assert "Same settings." in compared
    assert twin in compared
