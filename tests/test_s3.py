"""What S3 adds to the store contract: races, faults, encryption, large payload, cache, catalogue."""

import io
import json
import multiprocessing
import os
import resource
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ceph import KMS_KEY, Ceph
from chaos import Chaos
from orchestrator import aws
from orchestrator.errors import DamagedArtifact, StoreError
from orchestrator.store import objects
from orchestrator.store.artifacts import ArtifactStore, open_store
from orchestrator.store.bulk import in_order
from orchestrator.store.cache import default_folder
from orchestrator.store.catalogue import read_records
from orchestrator.store.files import list_files, open_file
from orchestrator.store.record import ArtifactRecord, FileEntry

MEGABYTE = 1 << 20


@pytest.fixture
def store(bucket: str) -> ArtifactStore:
    return open_store(f"s3://{bucket}/store/study?cache-gb=0")


@pytest.fixture
def chaos(ceph: Ceph, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chaos]:
    """A proxy that stands between the ambient client and the server from here on."""
    with Chaos(ceph.port) as chaos:
        monkeypatch.setenv("AWS_ENDPOINT_URL", chaos.url)
        yield chaos


def commit(store: ArtifactStore, address: str = "a/b", content: bytes = b"payload", **recipe) -> bool:
    record = ArtifactRecord(recipe=recipe, files={"file.bin": FileEntry.of(content)})
    return store.commit(address, record, {"file.bin": content})


def keys(bucket: str) -> list[str]:
    found = boto3.client("s3").list_objects_v2(Bucket=bucket).get("Contents", [])
    return [item["Key"] for item in found]


def uploads(bucket: str) -> list[str]:
    found = boto3.client("s3").list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return [item["Key"] for item in found]


def requests(chaos: Chaos) -> Counter[str]:
    """How many requests of each kind went through: listings, and methods."""
    return Counter("LIST" if "list-type=2" in seen.path else seen.method for seen in chaos.seen)


def _race(uri: str, number: int, barrier: threading.Barrier, won: multiprocessing.Queue) -> None:
    store = open_store(uri)
    barrier.wait()
    won.put((number, commit(store, content=b"%d" % number * 100_000, writer=number)))


def test_one_of_eight_processes_wins_and_the_others_leave_nothing(
    store: ArtifactStore, bucket: str
) -> None:
    fork = multiprocessing.get_context("fork")
    barrier, won = fork.Barrier(8), fork.Queue()
    assert not store.has("a/b")  # this process has a client, which its children must not share
    writers = [fork.Process(target=_race, args=(store.uri, n, barrier, won)) for n in range(8)]
    for writer in writers:
        writer.start()
    told = dict(won.get(timeout=60) for _ in writers)
    for writer in writers:
        writer.join()
    (winner,) = [number for number, first in told.items() if first]
    assert store.record("a/b").recipe == {"writer": winner}
    assert store.read("a/b", "file.bin") == b"%d" % winner * 100_000
    assert len(keys(bucket)) == 2


def test_a_writer_whose_reply_was_lost_knows_its_own_record(
    store: ArtifactStore, bucket: str, chaos: Chaos
) -> None:
    chaos.add("lost_reply", n=1, method="PUT", path="record.json")
    assert commit(store)
    assert [seen.actions for seen in chaos.seen if "record.json" in seen.path and seen.method == "PUT"] == [
        ("lost_reply",),
        (),
    ]
    assert not commit(store, content=b"later")
    assert store.read("a/b", "file.bin") == b"payload"
    assert len(keys(bucket)) == 2


@pytest.mark.parametrize(
    "fault",
    [
        {"action": "status"},
        {"action": "status", "status": 500, "code": "InternalError"},
        {"action": "status", "status": 409, "code": "ConditionalRequestConflict", "method": "PUT"},
        {"action": "status", "status": 400, "code": "ExpiredToken", "n": 1},
        {"action": "reset", "after": 100},
        {"action": "truncate", "after": 300},
        {"action": "refuse"},
        {"action": "lost_reply"},
    ],
    ids=lambda fault: "-".join(str(value) for value in fault.values()),
)
def test_passing_trouble_is_ridden_out(store: ArtifactStore, bucket: str, chaos: Chaos, fault) -> None:
    content = os.urandom(1000)
    chaos.add(**{"n": 3, **fault})
    assert commit(store, content=content)
    chaos.add(**{"n": 3, **fault})
    assert store.read("a/b", "file.bin") == content
    assert list(store.addresses("")) == ["a/b"]
    store.delete("a/b")
    assert keys(bucket) == []


def test_trouble_that_does_not_pass_is_told(
    store: ArtifactStore, chaos: Chaos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(objects, "TIDY_SECONDS", 0.5)
    chaos.add("status")
    with pytest.raises(StoreError, match=r"s3:PutObject on s3://.*asks to slow down"):
        commit(store)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"s3:GetObject on s3://.*out of reach: check endpoint"):
        store.has("a/b")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "hush"}, "the secret key is wrong"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "the access key is unknown"),
        ({"bucket": "absent-bucket"}, "the bucket does not exist"),
        ({"user": "stranger"}, "access is denied"),
        ({"AWS_PROFILE": "nobody"}, "profile .nobody. could not be found"),
        ({"AWS_ENDPOINT_URL": "nonsense"}, "Invalid endpoint: nonsense"),
    ],
    ids=lambda wrong: next(iter(wrong)) if isinstance(wrong, dict) else "",
)
def test_what_a_person_must_mend_is_told_at_once(
    store: ArtifactStore, bucket: str, ceph: Ceph, monkeypatch: pytest.MonkeyPatch, wrong, told: str
) -> None:
    if "user" in wrong:
        user = ceph.add_user(f"{wrong['user']}-{bucket}")
        wrong = {"AWS_ACCESS_KEY_ID": user.access, "AWS_SECRET_ACCESS_KEY": user.secret}
    if "bucket" in wrong:
        store = open_store("s3://absent-bucket/store")
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    asks = (store.has, store.record, lambda address: list(store.addresses(address)), commit.__get__(store))
    for ask in asks:
        with pytest.raises(StoreError, match=rf"s3:\w+ on s3://.*{told}") as error:
            ask("a/b")
        assert "hush" not in str(error.value)
    assert time.monotonic() - began < 10.0


def test_a_reader_without_the_right_is_told_which_one(
    store: ArtifactStore, bucket: str, ceph: Ceph, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store, "matrix")
    commit(store, "models/k-1/full")
    reader = ceph.add_user(f"reader-{bucket}")
    grant = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": [f"arn:aws:iam:::user/reader-{bucket}"]},
                "Action": ["s3:GetObject", "s3:ListBucket"],
                "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/store/study/matrix/*"],
            }
        ],
    }
    boto3.client("s3").put_bucket_policy(Bucket=bucket, Policy=json.dumps(grant))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", reader.access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", reader.secret)
    assert store.read("matrix", "file.bin") == b"payload"
    with pytest.raises(StoreError, match=r"s3:GetObject on s3://.*/models/k-1/full/record\.json.*denied"):
        store.read("models/k-1/full", "file.bin")
    with pytest.raises(StoreError, match=r"s3:PutObject on s3://.*/new/w-.*denied"):
        commit(store, "new")


def _die_after_payload(uri: str) -> None:
    from orchestrator.store.objects import Objects

    Objects.put_new = lambda *_: os._exit(9)
    commit(open_store(uri))


def test_a_killed_writer_leaves_nothing_visible_and_the_sweep_removes_the_rest(
    store: ArtifactStore, bucket: str
) -> None:
    fork = multiprocessing.get_context("fork")
    writer = fork.Process(target=_die_after_payload, args=(store.uri,))
    writer.start()
    writer.join()
    assert writer.exitcode == 9
    s3 = boto3.client("s3")
    s3.create_multipart_upload(Bucket=bucket, Key="store/study/a/b/w-0123456789abcdef/file.bin")
    s3.create_multipart_upload(Bucket=bucket, Key="elsewhere")
    s3.put_object(Bucket=bucket, Key="store/study/.ray/trial/state", Body=b"of a killed training")
    s3.put_object(Bucket=bucket, Key="store/study/notes", Body=b"not an artifact's")
    assert list(store.addresses("")) == []
    assert store.sweep(older_than_seconds=3600.0) == 0
    assert commit(store)
    assert len(keys(bucket)) == 5
    assert store.sweep(older_than_seconds=-60.0) == 3
    assert store.read("a/b", "file.bin") == b"payload"
    assert len(keys(bucket)) == 3
    assert uploads(bucket) == ["elsewhere"]


def test_encryption_by_kms_is_asked_for_and_checked(bucket: str) -> None:
    store = open_store(f"s3://{bucket}/store?sse=kms&kms-key={KMS_KEY}&cache-gb=0")
    large = os.urandom(20 * MEGABYTE)
    assert commit(store)
    assert commit(store, "large", large)
    s3 = boto3.client("s3")
    assert {s3.head_object(Bucket=bucket, Key=key).get("ServerSideEncryption") for key in keys(bucket)} == {
        "aws:kms"
    }
    assert store.read("a/b", "file.bin") == b"payload"
    assert store.read("large", "file.bin") == large


def test_a_server_that_ignores_encryption_is_refused_and_keeps_nothing(bucket: str) -> None:
    store = open_store(f"s3://{bucket}/store?sse=s3")
    with pytest.raises(StoreError, match="ignored sse=s3"):
        commit(store)
    with pytest.raises(StoreError, match="ignored sse=s3"):
        commit(store, content=bytes(20 * MEGABYTE))
    assert keys(bucket) == []


def test_large_payload_goes_in_parts_and_comes_in_ranges(
    store: ArtifactStore, bucket: str, chaos: Chaos
) -> None:
    content = os.urandom(40 * MEGABYTE + 1)
    chaos.add("status", n=2, method="PUT", path="partNumber=2")
    chaos.add("reset", n=1, method="PUT", path="partNumber=3", after=MEGABYTE)
    chaos.add("lost_reply", n=1, method="POST", path="uploadId")
    assert commit(store, content=content)
    chaos.clear()
    chaos.add("truncate", n=2, method="GET", path="file.bin", after=3 * MEGABYTE)
    assert store.read("a/b", "file.bin") == content
    assert len([seen for seen in chaos.seen if "file.bin" in seen.path]) == 6 + 2
    assert uploads(bucket) == []
    place = store.locate("a/b", "file.bin").removeprefix(f"s3://{bucket}/")
    boto3.client("s3").put_object(Bucket=bucket, Key=place, Body=content[: 9 * MEGABYTE])
    with pytest.raises(DamagedArtifact, match="differs from its record"):
        store.read("a/b", "file.bin")


@pytest.mark.parametrize("completed", [True, False])
def test_an_upload_that_is_gone_was_either_completed_or_ended_by_someone(
    store: ArtifactStore, bucket: str, chaos: Chaos, completed: bool
) -> None:
    content = os.urandom(17 * MEGABYTE)
    complete = {"method": "POST", "path": "uploadId", "n": 1}
    if completed:
        chaos.add("lost_reply", **complete)
    chaos.add("status", **complete, skip=int(completed), status=404, code="NoSuchUpload")
    if completed:
        assert commit(store, content=content)
        assert store.read("a/b", "file.bin") == content
    else:
        with pytest.raises(StoreError, match="not stored whole: someone ended its upload"):
            commit(store, content=content)
        assert keys(bucket) == []


def test_an_upload_that_fails_for_good_leaves_nothing(
    store: ArtifactStore, bucket: str, chaos: Chaos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws, "PATIENCE_SECONDS", 1.0)
    chaos.add("status", method="PUT", path="partNumber=2")
    with pytest.raises(StoreError, match="slow down"):
        commit(store, content=bytes(40 * MEGABYTE))
    assert keys(bucket) == uploads(bucket) == []


def test_a_server_that_is_killed_and_comes_back_is_waited_for(
    store: ArtifactStore, bucket: str, ceph: Ceph
) -> None:
    content = os.urandom(30 * MEGABYTE)
    began = threading.Event()

    def write() -> Iterator[bool]:
        for number in range(4):
            yield commit(store, f"a/{number}", content)
            began.set()

    done: list[bool] = []
    writer = threading.Thread(target=lambda: done.extend(write()))
    writer.start()
    assert began.wait(60)
    ceph.kill()
    time.sleep(0.5)
    ceph.start()
    writer.join(100)
    assert done == [True] * 4
    assert all(store.read(f"a/{number}", "file.bin") == content for number in range(4))
    assert len(keys(bucket)) == 8


def _read_many(uri: str, addresses: list[str], barrier: threading.Barrier) -> None:
    store = open_store(uri)
    barrier.wait()
    for address in addresses:
        store.read(address, "file.bin")


def test_a_file_is_fetched_once_for_all_processes_of_a_node(bucket: str, chaos: Chaos) -> None:
    store = open_store(f"s3://{bucket}/store")
    content = os.urandom(MEGABYTE)
    commit(store, "a", content)
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(4)
    readers = [fork.Process(target=_read_many, args=(store.uri, ["a"], barrier)) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert [reader.exitcode for reader in readers] == [0] * 4
    assert [seen.method for seen in chaos.seen if "file.bin" in seen.path].count("GET") == 1
    kept = default_folder() / FileEntry.of(content).sha256
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700


def test_the_cache_keeps_what_was_used_last_within_its_bound(bucket: str, chaos: Chaos) -> None:
    store = open_store(f"s3://{bucket}/store?cache-gb=0.0035")
    contents = [os.urandom(MEGABYTE) for _ in range(5)]
    for number, content in enumerate(contents):
        commit(store, str(number), content)
    for number in (0, 1, 2, 0, 3, 4, 0):
        assert store.read(str(number), "file.bin") == contents[number]
    held = {path.name for path in default_folder().iterdir() if not path.name.startswith(".")}
    assert held == {FileEntry.of(contents[number]).sha256 for number in (0, 3, 4)}
    assert Counter(seen.method for seen in chaos.seen if "file.bin" in seen.path) == {"PUT": 5, "GET": 5}


def test_a_damaged_cached_file_is_fetched_again(bucket: str, chaos: Chaos) -> None:
    store = open_store(f"s3://{bucket}/store")
    content = os.urandom(MEGABYTE)
    commit(store, content=content)
    for _ in range(2):
        assert store.read("a/b", "file.bin") == content
        (default_folder() / FileEntry.of(content).sha256).write_bytes(content[:-1] + b"?")
    assert store.read("a/b", "file.bin") == content
    assert [seen.method for seen in chaos.seen if "file.bin" in seen.path].count("GET") == 3


@pytest.mark.parametrize("obstacle", ["a file", "no room"])
def test_a_cache_that_cannot_work_is_harmless(bucket: str, tmp_path: Path, obstacle: str) -> None:
    if obstacle == "a file":
        (tmp_path / "cache").write_text("in the way of the folder")
    store = open_store(f"s3://{bucket}/store")
    content = os.urandom(MEGABYTE)
    commit(store, content=content)
    if obstacle == "no room":
        # What a disk does when it is full, for files of this process alone.
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MEGABYTE // 2, before[1]))
    try:
        assert store.read("a/b", "file.bin") == store.read("a/b", "file.bin") == content
    finally:
        if obstacle == "no room":
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            assert [path.name[:5] for path in default_folder().iterdir()] == [".lock"]


def test_inputs_are_read_from_s3_and_a_wrong_place_is_told_at_once(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3 = boto3.client("s3")
    s3.put_object(Bucket=bucket, Key="data/train/cat/what?.png", Body=b"one")
    assert list_files(f"s3://{bucket}/data") == ["train/cat/what?.png"]
    with open_file(f"s3://{bucket}/data/train/cat/what?.png") as file:
        assert file.read() == b"one"
    assert list_files(f"s3://{bucket}/absent") == []
    began = time.monotonic()
    with pytest.raises(StoreError, match="bucket absent-bucket does not exist"):
        list_files("s3://absent-bucket/data")
    with pytest.raises(FileNotFoundError):
        open_file(f"s3://{bucket}/absent")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    with pytest.raises(OSError, match="SIGNATURE_DOES_NOT_MATCH"):
        list_files(f"s3://{bucket}/data")
    assert time.monotonic() - began < 10.0


def test_records_of_a_large_study_take_a_handful_of_requests(bucket: str, chaos: Chaos) -> None:
    store = open_store(f"s3://{bucket}/store?cache-gb=0")
    addresses = [f"outcomes/{number:03d}" for number in range(100)]
    list(in_order(lambda address: commit(store, address, address.encode()), addresses, 8))
    chaos.clear()
    first = read_records(store, "outcomes")
    assert list(first) == addresses
    assert requests(chaos)["GET"] >= 100
    chaos.clear()
    assert read_records(store, "outcomes") == first
    assert requests(chaos) == {"LIST": 1, "GET": 2}
    store.delete(addresses[7])
    store.delete(addresses[9])
    commit(store, addresses[9], b"again", again=True)
    chaos.clear()
    again = read_records(store, "outcomes")
    assert requests(chaos) == {"LIST": 1, "GET": 3}
    assert again.pop(addresses[9]).recipe == {"again": True}
    assert again == {address: first[address] for address in (*addresses[:7], addresses[8], *addresses[10:])}


@pytest.mark.parametrize("harm", ["garbage", "another table", "no payload", "no right to write"])
def test_a_catalogue_that_is_damaged_or_cannot_be_written_only_costs_reading(
    bucket: str, ceph: Ceph, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    store = open_store(f"s3://{bucket}/store?cache-gb=0")
    addresses = [f"outcomes/{number:03d}" for number in range(70)]
    list(in_order(lambda address: commit(store, address), addresses, 8))
    if harm == "no right to write":
        grant = {
            "Version": "2012-10-17",
            "Statement": [dict(_READ_ALL, Resource=f"arn:aws:s3:::{bucket}*")],
        }
        boto3.client("s3").put_bucket_policy(Bucket=bucket, Policy=json.dumps(grant))
        reader = ceph.add_user(f"reader-{bucket}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", reader.access)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", reader.secret)
    else:
        table = io.BytesIO()
        pq.write_table(pa.table({"address": [1, 2]}), table)
        content = b"PAR1 garbage" if harm == "garbage" else table.getvalue()
        record = ArtifactRecord(recipe={}, files={"records.parquet": FileEntry.of(content)})
        store.commit("catalogue/outcomes", record, {"records.parquet": content})
        if harm == "no payload":
            place = store.locate("catalogue/outcomes", "records.parquet").split("/", 3)[3]
            boto3.client("s3").delete_object(Bucket=bucket, Key=place)
    assert list(read_records(store, "outcomes")) == addresses
    assert store.has("catalogue/outcomes") == (harm != "no right to write")


_READ_ALL = {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:ListBucket"]}
