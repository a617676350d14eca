"""The store contract, on a folder and on S3: whole or absent, verified; one writer wins."""

import json
import threading
from pathlib import Path

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import DamagedArtifact, NotCommitted, StaleArtifact, StoreError
from orchestrator.store.artifacts import ArtifactStore, open_store
from orchestrator.store.bulk import in_order
from orchestrator.store.catalogue import read_records
from orchestrator.store.files import list_files, open_file
from orchestrator.store.local import LocalStore
from orchestrator.store.record import ArtifactRecord, FileEntry, recipe_digest
from orchestrator.store.uri import StoreUri, below


@pytest.fixture(params=["folder", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    """The same store in both backends; S3 is a real server."""
    if request.param == "folder":
        return open_store(str(tmp_path / "store" / "study"))
    return open_store(f"s3://{request.getfixturevalue('bucket')}/store/study?cache-gb=0")


def commit(store: ArtifactStore, address: str = "a/b", content: bytes = b"payload", **recipe) -> bool:
    record = ArtifactRecord(recipe=recipe, files={"file.bin": FileEntry.of(content)})
    return store.commit(address, record, {"file.bin": content})


def spoil(store: ArtifactStore, address: str, file: str, content: bytes | None) -> None:
    """Put other bytes in the place of a payload file, or none, as a bad disk or a stranger would."""
    place = store.locate(address, file)
    if not place.startswith("s3://"):
        Path(place).write_bytes(content) if content is not None else Path(place).unlink()
        return
    bucket, key = place.removeprefix("s3://").split("/", 1)
    s3 = boto3.client("s3")
    if content is None:
        s3.delete_object(Bucket=bucket, Key=key)
    else:
        s3.put_object(Bucket=bucket, Key=key, Body=content)


def test_a_committed_artifact_comes_back_as_it_was(any_store: ArtifactStore) -> None:
    assert commit(any_store, epochs=3)
    assert any_store.has("a/b")
    record = any_store.record("a/b", {"epochs": 3})
    assert record.recipe == {"epochs": 3}
    assert any_store.read("a/b", "file.bin") == any_store.read("a/b", "file.bin", record) == b"payload"


def test_a_store_is_opened_elsewhere_by_its_uri(any_store: ArtifactStore) -> None:
    commit(any_store)
    again = open_store(any_store.uri)
    assert again.uri == any_store.uri
    assert again.read("a/b", "file.bin") == b"payload"
    part = open_store(below(any_store.uri, "a"))
    assert part.read("b", "file.bin") == b"payload"
    assert isinstance(again, ArtifactStore)


def test_addresses_are_those_at_and_below_a_prefix_sorted(any_store: ArtifactStore) -> None:
    for address in ("models/b", "models/a-b", "models/a", "models/a/c", "models2/x", "study"):
        commit(any_store, address)
    assert list(any_store.addresses("models")) == ["models/a", "models/a-b", "models/a/c", "models/b"]
    assert list(any_store.addresses("models/a")) == ["models/a", "models/a/c"]
    assert list(any_store.addresses("")) == sorted(any_store.stamps(""))
    assert len(any_store.stamps("")) == 6
    assert list(any_store.addresses("mod")) == list(any_store.addresses("nothing")) == []


def test_a_stamp_stays_until_its_record_is_replaced(any_store: ArtifactStore) -> None:
    commit(any_store, "a/b")
    commit(any_store, "a/c")
    before = any_store.stamps("a")
    assert any_store.stamps("a") == before
    any_store.delete("a/b")
    commit(any_store, "a/b")
    after = any_store.stamps("a")
    assert after["a/c"] == before["a/c"]
    assert after["a/b"] != before["a/b"]


def test_an_uncommitted_artifact_is_invisible(any_store: ArtifactStore) -> None:
    assert not any_store.has("a/b")
    for ask in (any_store.record, lambda address: any_store.read(address, "file.bin")):
        with pytest.raises(NotCommitted, match="a/b"):
            ask("a/b")


def test_an_artifact_may_have_many_files_or_none(any_store: ArtifactStore) -> None:
    files = {f"{number}.bin": bytes(number) for number in range(3)}
    record = ArtifactRecord(recipe={}, files={name: FileEntry.of(files[name]) for name in files})
    assert any_store.commit("many", record, files)
    assert {name: any_store.read("many", name) for name in files} == files
    assert any_store.commit("none", ArtifactRecord(recipe={}, files={}), {})
    assert list(any_store.addresses("")) == ["many", "none"]


def test_the_first_of_two_writers_wins_whole_and_the_others_leave_nothing(any_store: ArtifactStore) -> None:
    barrier, won = threading.Barrier(8), []

    def write(number: int) -> None:
        barrier.wait()
        if commit(any_store, content=b"%d" % number * 10_000, writer=number):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = won
    assert any_store.record("a/b").recipe == {"writer": winner}
    assert any_store.read("a/b", "file.bin") == b"%d" % winner * 10_000
    assert any_store.sweep(older_than_seconds=-60.0) == 0
    assert any_store.read("a/b", "file.bin") == b"%d" % winner * 10_000


def test_a_later_writer_changes_nothing(any_store: ArtifactStore) -> None:
    assert commit(any_store, content=b"first", epochs=3)
    assert not commit(any_store, content=b"second", epochs=4)
    assert any_store.record("a/b").recipe == {"epochs": 3}
    assert any_store.read("a/b", "file.bin") == b"first"


def test_records_are_read_at_once_and_are_those_read_singly(any_store: ArtifactStore) -> None:
    for number in range(3):
        commit(any_store, f"outcomes/{number}", number=number)
    commit(any_store, "elsewhere")
    records = read_records(any_store, "outcomes")
    assert records == {address: any_store.record(address) for address in any_store.addresses("outcomes")}
    assert [record.recipe["number"] for record in records.values()] == [0, 1, 2]


def test_a_map_over_threads_keeps_order_and_never_runs_far_ahead() -> None:
    begun: list[int] = []
    answers = in_order(lambda item: begun.append(item) or item * item, range(1000), 3)
    assert [next(answers) for _ in range(10)] == [item * item for item in range(10)]
    answers.close()
    assert len(begun) <= 10 + 2 * 3
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda item: 1 // item, [1, 0, 1], 2))


@pytest.mark.parametrize("content", [b"paYload", b"payload and more", b"pay", b""])
def test_a_changed_byte_is_damage(any_store: ArtifactStore, content: bytes) -> None:
    commit(any_store)
    spoil(any_store, "a/b", "file.bin", content)
    with pytest.raises(DamagedArtifact, match=r"a/b/file\.bin differs from its record"):
        any_store.read("a/b", "file.bin")


def test_a_missing_file_is_damage(any_store: ArtifactStore) -> None:
    commit(any_store)
    spoil(any_store, "a/b", "file.bin", None)
    with pytest.raises(DamagedArtifact, match="is gone"):
        any_store.read("a/b", "file.bin")
    with pytest.raises(DamagedArtifact, match="no file other"):
        any_store.read("a/b", "other.bin")


def test_a_damaged_record_is_told_and_can_be_deleted(any_store: ArtifactStore) -> None:
    commit(any_store)
    place = any_store.locate("a/b", "file.bin")
    if place.startswith("s3://"):
        bucket = place.split("/")[2]
        boto3.client("s3").put_object(Bucket=bucket, Key="store/study/a/b/record.json", Body=b"{}")
    else:
        Path(place).with_name("record.json").write_bytes(b"{}")
    with pytest.raises(DamagedArtifact, match="is not a record"):
        any_store.record("a/b")
    any_store.sweep(older_than_seconds=-60.0)
    any_store.delete("a/b")
    assert commit(any_store)
    assert any_store.read("a/b", "file.bin") == b"payload"


def test_a_changed_recipe_is_stale_and_says_what_changed(any_store: ArtifactStore) -> None:
    commit(any_store, epochs=3, rate=0.1)
    with pytest.raises(StaleArtifact, match="epochs 3 -> 4") as told:
        any_store.record("a/b", {"epochs": 4, "rate": 0.1})
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


def test_a_deleted_artifact_is_gone_and_can_be_made_again(any_store: ArtifactStore) -> None:
    commit(any_store, epochs=3)
    commit(any_store, "a/b/c")
    any_store.delete("a/b/c")
    any_store.delete("a/b")
    any_store.delete("a/b")
    assert not any_store.has("a/b")
    assert any_store.sweep(older_than_seconds=-60.0) == 0
    assert commit(any_store, epochs=4)


def test_drafts_of_killed_writers_are_swept_when_they_are_old(store: LocalStore) -> None:
    commit(store, "other")
    draft = store.root / ".drafts" / "killed"
    draft.mkdir()
    (draft / "file.bin").write_bytes(b"half")
    assert list(store.addresses("")) == ["other"]
    assert store.sweep(older_than_seconds=3600.0) == 0
    assert store.sweep(older_than_seconds=-1.0) == 1
    assert not draft.exists()


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


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket",
        "s3://bucket/a/b",
        "s3://bucket/a?sse=s3",
        "s3://bucket/a?sse=kms&kms-key=alias/weights&endpoint=https://host:9000&region=eu-west-1&cache-gb=0",
        "s3://bucket/a?cache-gb=1.5",
    ],
)
def test_the_uri_of_a_bucket_keeps_its_options_and_its_parts_lie_below(uri: str) -> None:
    assert StoreUri.parse(uri).text == uri
    assert StoreUri.parse(below(uri, "study")).text == below(uri, "study")
    assert StoreUri.parse(below(below(uri, "x"), "y")) == StoreUri.parse(below(uri, "x/y"))
    assert below(uri, "x").split("?")[1:] == uri.split("?")[1:]


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("s3://bucket/a?sse=none", "sse=s3 or sse=kms"),
        ("s3://bucket/a?kms-key=k", "needs sse=kms"),
        ("s3://bucket/a?cache-gb=much", "cache-gb is much"),
        ("s3://bucket/a?cache-gb=-1", "cache-gb is -1"),
        ("s3://bucket/a?secret_key=hush", "no option secret_key"),
        ("s3://user:hush@bucket/a", "holds credentials"),
        ("s3://bucket/a?endpoint=http://user:hush@host", "holds credentials"),
    ],
)
def test_an_option_that_does_not_exist_or_fit_is_told_and_never_a_secret(uri: str, told: str) -> None:
    with pytest.raises(StoreError, match=told) as error:
        open_store(uri)
    assert "hush" not in str(error.value)


def test_the_part_of_a_folder_lies_below_it() -> None:
    assert below("/a/b/", "c") == "/a/b/c"
    assert below("file:///a/b?c", "d/e") == "file:///a/b?c/d/e"


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
        with open_file(f"{uri}/train/cat/1.png") as file:
            assert file.read() == b"one"
    assert list_files(str(tmp_path / "absent")) == []
    with pytest.raises(StoreError, match="s4://"):
        list_files("s4://bucket/x")
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def test_records_that_name_the_same_targets_hold_them_once(store: LocalStore) -> None:
    targets = {f"k-{number:012x}.full": "0" * 64 for number in range(40)}
    for number in range(3):
        recipe = {"number": number, "targets": targets | ({"more": "1"} if number == 2 else {})}
        store.commit(f"outcomes/{number}", ArtifactRecord(recipe=recipe, files={}, parents=targets), {})
    first, second, third = read_records(store, "outcomes").values()
    assert first.recipe["targets"] is second.recipe["targets"]
    assert first.parents is third.parents
    assert third.recipe["targets"] == targets | {"more": "1"}
    assert [each.digest for each in (first, second, third)] == [
        store.record(f"outcomes/{number}").digest for number in range(3)
    ]
