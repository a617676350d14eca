"""Status: what a store alone tells of its studies, while they run and after; nothing is written."""

import json
import os
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from conftest import run_locally, small_study
from jobs.status import Options, status
from orchestrator.errors import StoreError, StudyError
from orchestrator.pipeline.retell import retell
from orchestrator.pipeline.tally import replace_artifact
from orchestrator.status.look import Watch, names_below
from orchestrator.status.pace import Made, pace
from orchestrator.status.state import StudyState
from orchestrator.store.artifacts import open_store
from orchestrator.store.catalogue import read_records
from orchestrator.store.local import LocalStore
from orchestrator.store.record import ArtifactRecord
from orchestrator.store.snapshot import Snapshot

NOW = 2_000_000_000.0


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> LocalStore:
    """A small study with controls and two attacks, done; its store."""
    root = tmp_path_factory.mktemp("status")
    store = LocalStore(root / "store" / "small")
    study = small_study(controls=1, eval_images=20, attacks=("apgd-ce:steps=3", "apgd-ce:steps=2"))
    run, _ = run_locally(study, store, str(root / "vault"))
    assert run.ending.failures == []
    return store


@pytest.fixture
def copied(finished: LocalStore, tmp_path: Path) -> LocalStore:
    """The same, to be spoiled."""
    copytree(finished.root, tmp_path / "store" / "small")
    return LocalStore(tmp_path / "store" / "small")


def look(store: LocalStore) -> StudyState:
    return Watch(str(store.root.parent), store.root.name).look(NOW)


def counts(state: StudyState) -> dict[str, tuple[int, int | None]]:
    return {stage.name: (stage.done, stage.to_do) for stage in state.stages}


def files_of(root: Path) -> dict[str, tuple[int, int]]:
    found = ((path, path.stat()) for path in root.rglob("*"))
    return {str(path): (stat.st_mtime_ns, stat.st_size) for path, stat in found}


def test_a_finished_study_is_told_whole_and_nothing_is_written(finished: LocalStore) -> None:
    before = files_of(finished.root)
    state = look(finished)
    assert counts(state) == {
        "keys": (2, 0),
        "shards": (8, 0),
        "plain model": (1, 0),
        "full models": (2, 0),
        "full controls": (3, 0),
        "apgd-ce-steps3": (6, 0),
        "apgd-ce-steps2": (6, 0),
    }
    assert state.complete
    assert (state.note, list(state.under_way), list(state.failed)) == ("", [], [])
    assert state.counted == "The matrix of all 12 outcome files."
    assert [panel.cells for panel in state.panels] == [(36, 36)] * 2
    records = {**read_records(finished, "models"), **read_records(finished, "outcomes")}
    shards = read_records(finished, "shards").values()
    took = sum(record.provenance["seconds"] for record in (*records.values(), *shards))
    assert state.device_seconds == {"cpu": pytest.approx(took)}
    assert files_of(finished.root) == before


def test_a_study_under_way_is_told_with_what_is_left(copied: LocalStore) -> None:
    whole = look(copied)
    copied.delete("matrix")
    label = next(address for address in copied.addresses("models") if "/k-" in address).split("/")[1]
    copied.delete(f"models/{label}/full")
    for address in [*copied.addresses("outcomes")][:4]:
        copied.delete(address)
    checkpoint = ArtifactRecord(recipe={}, files={})
    copied.commit(f"checkpoints/{label}.full/00001", checkpoint, {})
    state = look(copied)
    left = counts(state)
    assert left["full models"] == (1, 1)
    assert left["apgd-ce-steps3"][1] + left["apgd-ce-steps2"][1] == 4
    assert list(state.under_way) == [f"{label}.full: 1 of 1 epochs"]
    assert not state.complete
    assert state.quiet  # by a clock of years later
    assert state.counted == "Counted from all 8 outcome files."
    told = {panel.panel: panel for panel in whole.panels}
    for panel in state.panels:
        assert (panel.eligible <= told[panel.panel].eligible).all()
    assert sum(each.eligible.sum() for each in state.panels) < sum(
        each.eligible.sum() for each in whole.panels
    )


def test_of_very_many_outcomes_a_part_is_counted_and_said_so(copied: LocalStore, monkeypatch) -> None:
    monkeypatch.setattr("orchestrator.status.counted.MOST_FILES", 8)
    assert look(copied).counted == "The matrix of all 12 outcome files."
    last = [*copied.addresses("outcomes")][-1]
    content, record = copied.read(last, "outcomes.parquet"), copied.record(last)
    copied.delete("matrix")
    assert look(copied).counted == "Counted from 6 of 12 outcome files, spread evenly."
    copied.delete(last)
    retell(copied)
    copied.commit(last, record, {"outcomes.parquet": content})
    assert look(copied).counted == "The matrix as it was last written: 11 of 12 outcome files."


@pytest.mark.parametrize(
    ("gone", "told", "done"),
    [
        ("shards/train/00003", "is not there yet", {"shards": (7, 1), "models": (6, None)}),
        ("keys/00001", "has no key in slot 1 yet", {"keys": (1, 1), "outcomes": (12, None)}),
        ("asked", "did not record what was asked", {"keys": (2, None), "shards": (8, None)}),
    ],
)
def test_a_study_whose_plan_is_not_known_is_told_in_part(copied: LocalStore, gone, told, done) -> None:
    copied.delete(gone)
    state = look(copied)
    assert told in state.note
    assert done.items() <= counts(state).items()
    assert not state.complete


def test_outcomes_of_other_settings_are_named_not_counted(copied: LocalStore) -> None:
    asked = copied.record("asked").recipe
    base = {**asked["study"]["base"], "epochs": 2}
    other = {**asked, "study": {**asked["study"], "base": base}}
    replace_artifact(copied, "asked", other, {}, {})
    state = look(copied)
    assert "was built from recipe" in state.note
    assert counts(state)["outcomes"] == (12, None)


def test_damage_is_told_in_a_sentence_beside_what_is_sound(copied: LocalStore) -> None:
    first, *_, last = copied.addresses("outcomes")
    copied.delete("matrix")
    (copied.root / last / "outcomes.parquet").write_bytes(b"other bytes")
    state = look(copied)
    assert f"{last}/outcomes.parquet differs from its record" in state.counted
    assert (state.note, state.complete) == ("", True)
    (copied.root / first / "record.json").write_bytes(b"{")
    state = look(copied)
    assert f"{first}/record.json is not a record" in state.note
    assert counts(state)["keys"] == (2, 0)
    assert not state.complete
    assert status(Options(store=str(copied.root.parent))) == 0


def test_failures_of_the_last_run_are_told(copied: LocalStore) -> None:
    recipe = {"notes": ["x/y could not be done: DamagedArtifact: z", "something else"]}
    replace_artifact(copied, "report", recipe, {}, {})
    assert list(look(copied).failed) == ["x/y could not be done: DamagedArtifact: z"]


def test_where_no_study_was_begun_a_sentence_says_so(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="No study was begun"):
        Watch(str(tmp_path), "small").look(NOW)
    with pytest.raises(StudyError, match="There is no study in"):
        status(Options(store=str(tmp_path)))


def test_the_job_prints_tables_and_numbers_where_there_is_no_terminal(finished, capsys) -> None:
    assert status(Options(store=str(finished.root.parent), name="small")) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    lines = said.splitlines()
    assert lines[0].startswith("small: all is done; last artifact ")
    assert any(line.split()[:3] == ["full", "controls", "3"] for line in lines)
    assert sum(line.startswith(" 0 plain") for line in lines) == 1
    assert max(map(len, lines)) <= 120


def test_scripts_get_the_same_as_json(finished, capsys) -> None:
    assert status(Options(store=str(finished.root.parent), name="small", json=True)) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["complete"] is True
    assert {stage["stage"]: stage["to_do"] for stage in told["stages"]}["apgd-ce-steps2"] == 0
    panel = told["matrix"]["panels"][0]
    state = look(finished)
    assert panel["fooled"] == state.panels[0].fooled.tolist()
    assert panel["models"] == list(state.panels[0].axis.labels)


def test_every_study_of_a_store_has_a_line(copied: LocalStore, capsys) -> None:
    other = LocalStore(copied.root.parent / "other")
    other.commit("study", ArtifactRecord(recipe={}, files={}), {})
    assert names_below(str(copied.root.parent)) == ["other", "small"]
    assert status(Options(store=str(copied.root.parent))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("other")
    small = next(line for line in lines if line.startswith("small"))
    assert small.split()[1:3] == ["6/6", "12/12"]
    assert status(Options(store=str(copied.root.parent), json=True)) == 0
    assert [state["study"] for state in json.loads(capsys.readouterr().out)] == ["other", "small"]


def test_the_pace_is_that_of_the_last_spell_without_a_pause() -> None:
    old = [Made(NOW - 90_000 + 600 * n, 30.0) for n in range(5)]
    made = [*old, *(Made(NOW - 100 + 10 * n, 20.0) for n in range(10))]
    going = pace(made, 12, NOW)
    assert (going.per_minute, going.seconds_left) == (pytest.approx(6.0), pytest.approx(120.0))
    assert not going.idle
    later = pace(made, 12, NOW + 10_000)
    assert (later.idle, later.seconds_left) == (True, None)
    assert pace([Made(NOW - 5, 30.0)], 4, NOW).seconds_left == pytest.approx(120.0)
    assert pace([Made(NOW - 5, 0.0)], 4, NOW).per_minute is None
    assert pace([], 4, NOW).seconds_left is None
    assert pace(made, 0, NOW).seconds_left == 0


def test_a_snapshot_reads_a_record_once_and_writes_nothing(copied: LocalStore) -> None:
    snapshot = Snapshot(copied)
    before = read_records(snapshot, "keys")
    assert before == read_records(copied, "keys")
    assert snapshot.record("keys/00000") == before["keys/00000"]
    copied.delete("keys/00000")
    copied.commit("keys/00000", ArtifactRecord(recipe={"slot": 0, "key_id": "k-new"}, files={}), {})
    os.utime(copied.root / "keys/00000/record.json", (NOW, NOW))
    assert read_records(snapshot, "keys")["keys/00000"].recipe["key_id"] == "k-new"
    assert snapshot.times("keys")["keys/00000"] == NOW
    for change in (
        lambda: snapshot.commit("x", before["keys/00001"], {}),
        lambda: snapshot.delete("keys/00001"),
        snapshot.sweep,
    ):
        with pytest.raises(StoreError, match="only looked at"):
            change()
    assert snapshot.has("keys/00001")


def test_a_status_of_a_bucket_writes_no_catalogue(bucket: str, finished: LocalStore, monkeypatch) -> None:
    monkeypatch.setattr("orchestrator.store.catalogue._FEW", 4)
    root = f"s3://{bucket}/studies?cache-gb=0"
    store = open_store(f"s3://{bucket}/studies/small?cache-gb=0")
    for address in finished.addresses(""):
        record = finished.record(address)
        files = {
            name: finished.read(address, name) for name in record.files if name != "weights.safetensors"
        }
        store.commit(address, replace(record, files={n: record.files[n] for n in files}), files)
    before = store.stamps("")
    state = Watch(root, "small").look(NOW)
    assert (state.complete, state.counted) == (True, "The matrix of all 12 outcome files.")
    assert names_below(root) == ["small"]
    assert store.stamps("") == before
