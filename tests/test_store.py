"""The store contract: whole or absent, verified, private; one writer wins."""

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import DamagedArtifact, NotCommitted, StaleArtifact, StoreError
from orchestrator.store.artifacts import LocalStore, open_store
from orchestrator.store.files import list_files, read_file
from orchestrator.store.record import ArtifactRecord, FileEntry, recipe_digest


def commit(store: LocalStore, address: str = "a/b", content: bytes = b"payload", **recipe) -> bool:
    record = ArtifactRecord(recipe=recipe, files={"file.bin": FileEntry.of(content)})
    return store.commit(address, record, {"file.bin": content})


def test_a_committed_artifact_comes_back_as_it_was(store: LocalStore) -> None:
    assert commit(store, epochs=3)
    assert store.has("a/b")
    assert store.read("a/b", "file.bin") == b"payload"
    assert store.record("a/b", {"epochs": 3}).recipe == {"epochs": 3}
    assert list(store.addresses("a")) == ["a/b"]
    assert list(store.addresses("nothing")) == []


def test_an_uncommitted_artifact_is_invisible(store: LocalStore) -> None:
    assert not store.has("a/b")
    with pytest.raises(NotCommitted, match="a/b"):
        store.read("a/b", "file.bin")


def test_payload_without_a_record_is_invisible_and_gives_way(store: LocalStore) -> None:
    commit(store, "other")
    draft = store.root / ".drafts" / "killed"
    draft.mkdir()
    (draft / "file.bin").write_bytes(b"half")
    assert list(store.addresses("")) == ["other"]
    assert store.sweep(older_than_seconds=3600.0) == 0
    assert store.sweep(older_than_seconds=-1.0) == 1
    assert not draft.exists()


def test_the_first_of_two_writers_wins_whole(store: LocalStore) -> None:
    barrier, won = threading.Barrier(8), []

    def write(number: int) -> None:
        barrier.wait()
        if commit(store, content=b"%d" % number * 10_000, writer=number):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = won
    assert store.record("a/b").recipe == {"writer": winner}
    assert store.read("a/b", "file.bin") == b"%d" % winner * 10_000
    assert list((store.root / ".drafts").iterdir()) == []


def test_a_changed_byte_is_damage(store: LocalStore) -> None:
    commit(store)
    (store.root / "a/b/file.bin").write_bytes(b"paYload")
    with pytest.raises(DamagedArtifact, match="differs from its record"):
        store.read("a/b", "file.bin")


def test_a_missing_file_is_damage(store: LocalStore) -> None:
    commit(store)
    (store.root / "a/b/file.bin").unlink()
    with pytest.raises(DamagedArtifact, match="is gone"):
        store.read("a/b", "file.bin")
    with pytest.raises(DamagedArtifact, match="no file other"):
        store.read("a/b", "other.bin")


def test_a_changed_recipe_is_stale_and_says_what_changed(store: LocalStore) -> None:
    commit(store, epochs=3, rate=0.1)
    with pytest.raises(StaleArtifact, match="epochs 3 -> 4") as told:
        store.record("a/b", {"epochs": 4, "rate": 0.1})
    assert "rate" not in str(told.value)
    assert "--name" in str(told.value)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_a_poisoned_record_is_damage_and_never_a_crash(content: bytes) -> None:
    with pytest.raises(DamagedArtifact):
        ArtifactRecord.from_json(content, "a/b")


@pytest.mark.parametrize("change", [{"recipe": {"epochs": 4}}, {"files": 7}, {"format": 2}, {"digest": ""}])
def test_a_record_that_contradicts_itself_is_damage(change) -> None:
    record = ArtifactRecord(recipe={"epochs": 3}, files={})
    value = json.loads(record.to_json()) | change
    with pytest.raises(DamagedArtifact, match="a/b"):
        ArtifactRecord.from_json(json.dumps(value).encode(), "a/b")


def test_a_deleted_artifact_is_gone_and_can_be_made_again(store: LocalStore) -> None:
    commit(store, epochs=3)
    store.delete("a/b")
    store.delete("a/b")
    assert not store.has("a/b")
    assert commit(store, epochs=4)


def test_artifacts_are_for_their_owner_alone(store: LocalStore) -> None:
    commit(store)
    assert (store.root / "a/b").stat().st_mode & 0o077 == 0
    assert (store.root / "a/b/file.bin").stat().st_mode & 0o077 == 0
    assert store.root.stat().st_mode & 0o077 == 0


def test_a_store_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match=r"cannot be written .*--store"):
        commit(LocalStore(tmp_path / "file" / "study"))


def test_an_unknown_store_scheme_is_told() -> None:
    with pytest.raises(StoreError, match="ftp://"):
        open_store("ftp://host/store")


def test_a_digest_depends_on_values_and_not_on_their_order() -> None:
    assert recipe_digest({"a": 1, "b": [2, None]}) == recipe_digest({"b": [2, None], "a": 1})
    assert recipe_digest({"a": 1}) != recipe_digest({"a": 2})


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", float("nan")])
def test_a_digest_refuses_what_has_no_fixed_text(value) -> None:
    with pytest.raises((TypeError, ValueError)):
        recipe_digest({"value": value})


def test_input_files_are_listed_and_read_by_path_and_uri(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "1.png").write_bytes(b"one")
    for uri in (str(tmp_path), f"file://{tmp_path}"):
        assert list_files(uri) == ["train/cat/1.png"]
        assert read_file(f"{uri}/train/cat/1.png") == b"one"
    assert list_files(str(tmp_path / "absent")) == []
    with pytest.raises(StoreError, match="s4://"):
        list_files("s4://bucket/x")
    assert [path.name for path in tmp_path.iterdir()] == ["train"]
