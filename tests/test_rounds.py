"""Rounds: a study attacks as many images as its precision takes, and whoever goes on comes to the same."""

import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import run_locally, small_study
from orchestrator.errors import StudyError
from orchestrator.pipeline.asked import recall_plan
from orchestrator.pipeline.plan import plan_images
from orchestrator.pipeline.retell import retell
from orchestrator.pipeline.rounds import Rounds
from orchestrator.status.look import Watch
from orchestrator.store.local import LocalStore
from orchestrator.transfer.precision import half_widths


def coarse_study(**changes):
    return small_study(n_keys=2, eval_images=300, shard_rows=25, precision=0.2, **changes)


def matrix_table(store: LocalStore) -> pa.Table:
    return pq.read_table(pa.BufferReader(store.read("matrix", "matrix.parquet")))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("rounds")


@pytest.fixture(scope="module")
def coarse(place: Path) -> tuple[LocalStore, list[str]]:
    """The store of a coarse study, and what was said while it ran."""
    store = LocalStore(place / "store" / "study")
    run, said = run_locally(coarse_study(), store, str(place / "vault"))
    assert run.ending.failures == []
    return store, said


def test_a_study_stops_when_its_rates_are_as_precise_as_asked(coarse, place: Path) -> None:
    # Barely trained models read few images right, so fooling rates rest on few and take more shards.
    store, said = coarse
    table, first = matrix_table(store), store.read("matrix", "matrix.parquet")
    used = max(table["n"].to_pylist())
    halves = half_widths(table, 0.2)
    assert used == 300 or halves.max() <= 0.2
    assert halves[1].max() <= 0.2
    assert sum("attacks:" in line and "to do" in line for line in said) >= 1
    report = store.read("report", "report.md").decode()
    assert "as precisely as asked" in report
    # The same command finds nothing to do; the store alone gives the same report.
    _, said = run_locally(coarse_study(), store, str(place / "vault"))
    assert not any("attacks:" in line and "to do" in line for line in said)
    assert store.read("matrix", "matrix.parquet") == first
    store.delete("report")
    retell(store)
    assert store.read("report", "report.md").decode() == report


def test_a_finer_study_goes_on_from_a_coarse_one(coarse, place: Path, store: LocalStore) -> None:
    vault, (fresh, _) = str(place / "vault"), coarse
    run_locally(replace(coarse_study(), precision=0.3), store, vault)
    before = set(store.addresses("outcomes"))
    run_locally(coarse_study(), store, vault)
    assert before < set(store.addresses("outcomes"))
    plan = recall_plan(store)
    assert Rounds(plan, store).reach(plan.units).pending == ()
    state = Watch(str(store.root.parent), store.root.name).look(time.time())
    assert all(stage.to_do == 0 for stage in state.stages)
    assert matrix_table(fresh).equals(matrix_table(store))


def test_shards_of_a_precise_study_hold_images_in_no_order() -> None:
    ordered, drawn = (
        plan_images(replace(coarse_study(), precision=precision)).evaluation for precision in (0.0, 0.2)
    )
    assert [len(shard.items) for shard in ordered] == [len(shard.items) for shard in drawn]
    items = [[item for shard in shards for item in shard.items] for shards in (ordered, drawn)]
    assert sorted(items[0]) == sorted(items[1])
    assert items[0] != items[1]
    assert not {shard.address for shard in ordered} & {shard.address for shard in drawn}
    again = plan_images(coarse_study()).evaluation
    assert [shard.recipe for shard in again] == [shard.recipe for shard in drawn]


@pytest.mark.parametrize("precision", [-0.1, 0.5, 2.0])
def test_a_precision_that_is_none_is_refused(precision: float) -> None:
    with pytest.raises(StudyError, match="half-width"):
        small_study(precision=precision)
