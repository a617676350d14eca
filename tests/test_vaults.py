"""Vaults: one contract for the folder, S3 and Secrets Manager, and what each adds; the desk hands keys out.

The folder is a folder and S3 is a real server. Secrets Manager has no server to run at home, so moto
stands in for it: it shows that we speak its language, not that AWS keeps what it promises.
"""

import logging
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from leaks import leaks

from ceph import KMS_KEY, Ceph
from chaos import Chaos
from orchestrator import aws
from orchestrator.errors import VaultError
from orchestrator.keys.file_vault import FileVault
from orchestrator.keys.vault import VaultAt, open_vault
from orchestrator.pipeline.roster import check_apart

STRANGER = "k-000000000000"


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where moto listens."""
    program = Path(sys.executable).parent / "moto_server"
    if not program.exists():
        pytest.skip("no stand-in for Secrets Manager here: pip install '.[dev]'")
    log = tmp_path_factory.mktemp("moto") / "log"
    with log.open("w") as out:
        command = [str(program), "-H", "127.0.0.1", "-p", "0"]
        server = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        until = time.monotonic() + 60
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        yield found[0]
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def secrets(moto: str, monkeypatch: pytest.MonkeyPatch, request) -> str:
    """A vault in Secrets Manager, under a name of its own."""
    ambient = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in {**ambient, "AWS_ENDPOINT_URL": moto, "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    return f"aws-sm://multikey/{abs(hash(request.node.name))}"


@pytest.fixture
def objects(bucket: str) -> str:
    return f"s3://{bucket}/keys?kms-key={KMS_KEY}"


@pytest.fixture(params=["file", "s3", "aws-sm"])
def uri(request) -> str:
    """One vault of every kind."""
    return request.getfixturevalue({"file": "vault", "s3": "objects", "aws-sm": "secrets"}[request.param])


def place(uri: str, slot: int, text: str) -> None:
    """Put a text into a slot of study ``study``, behind the vault's back."""
    if uri.startswith("aws-sm:"):
        name, client = f"{uri.removeprefix('aws-sm://')}/study/{slot:05d}", aws.client("secretsmanager")
        try:
            client.create_secret(Name=name, SecretString=text)
        except client.exceptions.ResourceExistsException:
            client.put_secret_value(SecretId=name, SecretString=text)
    elif uri.startswith("s3:"):
        sealed = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": KMS_KEY}
        aws.client("s3").put_object(**the_object(uri, slot), **sealed, Body=text.encode())
    else:
        file = Path(uri, "study", f"{slot:05d}.key")
        file.touch(mode=0o600)
        file.write_text(text)


def the_object(uri: str, slot: int) -> dict[str, str]:
    return {"Bucket": uri.split("/")[2], "Key": f"keys/study/{slot:05d}.key"}


def test_a_vault_keeps_its_keys_and_grows(uri: str) -> None:
    two = open_vault(uri).ensure("study", 2)
    four = open_vault(open_vault(uri).uri).ensure("study", 4)
    assert four[:2] == two
    assert len(set(four)) == 4
    assert open_vault(uri).ensure("other", 1)[0] not in four
    assert VaultAt(uri).open("study", 3, four[3]).key_id == four[3]
    assert open_vault(uri).ensure("study", 40)[:4] == four


def test_looking_creates_nothing(uri: str) -> None:
    assert open_vault(uri).find_all("study", 3) == (None, None, None)
    (key_id,) = open_vault(uri).ensure("study", 1)
    assert open_vault(uri).find_all("study", 3) == (key_id, None, None)
    assert [open_vault(uri).find("study", slot) for slot in (0, 1)] == [key_id, None]


def test_another_key_in_the_slot_and_an_empty_slot_are_refused(uri: str) -> None:
    (key_id,) = open_vault(uri).ensure("study", 1)
    with pytest.raises(VaultError, match=f"holds {key_id} .* expects {STRANGER}"):
        open_vault(uri).open("study", 0, STRANGER)
    with pytest.raises(VaultError, match="Slot 1 of study study is empty"):
        open_vault(uri).open("study", 1, STRANGER)


def test_one_key_in_two_slots_is_refused(uri: str) -> None:
    (key_id,) = open_vault(uri).ensure("study", 1)
    place(uri, 1, open_vault(uri).open("study", 0, key_id).reveal().hex())
    with pytest.raises(VaultError, match="one key in two slots"):
        open_vault(uri).ensure("study", 2)


@pytest.mark.parametrize("content", ["abc", "zz" * 32, "00" * 31, "0" * 63 + "\n1", "12" * 5000])
def test_a_damaged_key_is_told_without_its_content(uri: str, content: str) -> None:
    (key_id,) = open_vault(uri).ensure("study", 1)
    place(uri, 0, content)
    with pytest.raises(VaultError, match=r"00000.* 64 hex digits") as refused:
        open_vault(uri).open("study", 0, key_id)
    assert content not in str(refused.value)


def test_no_key_reaches_the_log_however_much_is_logged(uri: str, caplog) -> None:
    logging.getLogger("botocore").setLevel(logging.NOTSET)
    caplog.set_level(logging.DEBUG)
    (key_id,) = open_vault(uri).ensure("study", 1)
    key = open_vault(uri).open("study", 0, key_id)
    assert key.reveal().hex() not in caplog.text


def test_a_key_source_travels_without_a_key(uri: str) -> None:
    (key_id,) = open_vault(uri).ensure("study", 1)
    shipped = pickle.dumps(VaultAt(open_vault(uri).uri))
    key = pickle.loads(shipped).open("study", 0, key_id)
    assert key.key_id == key_id
    assert key.reveal() not in shipped
    assert key.reveal().hex().encode() not in shipped


@pytest.mark.parametrize("kind", ["vault", "objects"])
def test_writers_at_once_agree_on_one_key(kind: str, request) -> None:
    uri = request.getfixturevalue(kind)
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: open_vault(uri).ensure("study", 3), range(16)))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=spawn) as processes:
        growing = [processes.submit(open_vault(uri).ensure, "study", 8) for _ in range(3)]
        grown = {future.result() for future in growing}
    assert len(found) == len(grown) == 1
    assert grown.pop()[:3] == found.pop()


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(VaultError, match="carrier-pigeon://"):
        open_vault("carrier-pigeon://loft")


@pytest.mark.parametrize("scheme", ["s3", "aws-sm"])
def test_a_remote_vault_is_written_down_as_it_is_read(scheme: str) -> None:
    full = f"{scheme}://root/a/b?kms-key=arn:aws:kms:eu-west-1:1:key/x&region=eu-west-1&endpoint=http://h:1"
    assert open_vault(full).uri == full
    assert open_vault(f"{scheme}://Root/a/").uri == f"{scheme}://Root/a"
    for wrong, told in {
        f"{scheme}://": "needs a place",
        f"{scheme}://root/a?kmskey=x": "no option 'kmskey'",
        f"{scheme}://root/a?region=x&region=y": "each option once",
        f"{scheme}://AKID:hush@root/a": "carries credentials",
        f"{scheme}://root/a?endpoint=http://AKID:hush@host": "carries credentials",
    }.items():
        with pytest.raises(VaultError, match=told) as refused:
            open_vault(wrong)
        assert "hush" not in str(refused.value)


# The folder.


def test_vault_files_are_for_their_owner_alone(vault: str) -> None:
    FileVault(Path(vault)).ensure("study", 1)
    file = Path(vault, "study", "00000.key")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert Path(vault).stat().st_mode & 0o777 == 0o700
    assert [path.name for path in file.parent.iterdir()] == ["00000.key"]
    assert open_vault(f"file://{vault}").find("study", 0) == open_vault(vault).find("study", 0)


def test_a_key_others_may_read_is_refused(vault: str) -> None:
    (key_id,) = FileVault(Path(vault)).ensure("study", 1)
    Path(vault, "study", "00000.key").chmod(0o644)
    with pytest.raises(VaultError, match="readable by others"):
        FileVault(Path(vault)).open("study", 0, key_id)


def test_a_vault_others_may_write_is_refused(vault: str) -> None:
    (key_id,) = FileVault(Path(vault)).ensure("study", 1)
    Path(vault).chmod(0o777)
    with pytest.raises(VaultError, match="written by others"):
        FileVault(Path(vault)).open("study", 0, key_id)


def test_a_key_file_that_is_not_text_is_told(vault: str) -> None:
    (key_id,) = FileVault(Path(vault)).ensure("study", 1)
    Path(vault, "study", "00000.key").write_bytes(b"\xff" * 32)
    with pytest.raises(VaultError, match=r"Slot 0 of study study cannot be read .*not text"):
        FileVault(Path(vault)).open("study", 0, key_id)


# S3.


def test_an_object_of_a_vault_is_under_the_named_kms_key(objects: str) -> None:
    open_vault(objects).ensure("study", 1)
    head = aws.client("s3").head_object(**the_object(objects, 0))
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", KMS_KEY)


def test_a_server_that_leaves_keys_unencrypted_is_refused_and_keeps_none(objects: str) -> None:
    client = aws.client("s3")

    def ignore(params, **_) -> None:
        for name in [name for name in params["headers"] if "server-side-encryption" in name.lower()]:
            del params["headers"][name]

    client.meta.events.register("before-call.s3.PutObject", ignore)
    with pytest.raises(VaultError, match=r"without SSE-KMS; it was deleted again"):
        open_vault(objects).ensure("study", 1)
    client.meta.events.unregister("before-call.s3.PutObject", ignore)
    assert client.list_objects_v2(Bucket=objects.split("/")[2])["KeyCount"] == 0


def test_a_key_that_lies_unencrypted_is_refused(objects: str) -> None:
    aws.client("s3").put_object(**the_object(objects, 0), Body=b"12" * 32)
    with pytest.raises(VaultError, match=r"00000\.key .* is stored without SSE-KMS") as refused:
        open_vault(objects).ensure("study", 1)
    assert "1212" not in str(refused.value)


def test_a_bucket_open_to_the_public_is_refused(objects: str, bucket: str) -> None:
    open_vault(objects).ensure("study", 1)
    aws.client("s3").put_bucket_acl(Bucket=bucket, ACL="authenticated-read")
    with pytest.raises(VaultError, match=rf"{bucket} is open to the public \(by its .*ACL"):
        open_vault(objects).ensure("study", 2)


def test_a_key_whose_answer_was_lost_is_found_and_not_made_twice(
    ceph: Ceph, objects: str, monkeypatch
) -> None:
    with Chaos(ceph.port) as chaos:
        monkeypatch.setenv("AWS_ENDPOINT_URL", chaos.url)
        chaos.add("lost_reply", n=1, method="PUT", path="00000.key")
        ids = open_vault(objects).ensure("study", 2)
        assert sum(seen.method == "PUT" for seen in chaos.seen) == 3
    monkeypatch.setenv("AWS_ENDPOINT_URL", ceph.url)
    assert open_vault(objects).find_all("study", 2) == ids


def test_many_empty_slots_take_one_request(ceph: Ceph, objects: str, monkeypatch) -> None:
    with Chaos(ceph.port) as chaos:
        monkeypatch.setenv("AWS_ENDPOINT_URL", chaos.url)
        assert open_vault(objects).find_all("study", 10_000) == (None,) * 10_000
        assert len(chaos.seen) == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda uri: uri.replace("/t-", "/no-"), "bucket does not exist"),
        (lambda uri: uri.replace(KMS_KEY, "nobody"), "PutObject.*Or mend kms-key=nobody"),
    ],
)
def test_a_wrong_bucket_or_kms_key_is_told_at_once(objects: str, change: Callable, told: str) -> None:
    began = time.monotonic()
    with pytest.raises(VaultError, match=told):
        open_vault(change(objects)).ensure("study", 1)
    assert time.monotonic() - began < 10


def test_a_wrong_secret_and_a_user_without_rights_are_told_at_once(
    ceph: Ceph, objects: str, monkeypatch
) -> None:
    stranger = ceph.add_user(f"stranger{os.getpid()}")
    (key_id,) = open_vault(objects).ensure("study", 1)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(VaultError, match=r"GetObject.*secret key is wrong"):
        open_vault(objects).open("study", 0, key_id)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", stranger.access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", stranger.secret)
    with pytest.raises(VaultError, match=r"GetObject.*access is denied"):
        open_vault(objects).open("study", 0, key_id)


# Secrets Manager.


def test_a_secret_somebody_else_made_is_kept(secrets: str) -> None:
    vault = open_vault(secrets)
    (key_id,) = vault.ensure("study", 1)
    vault._fill("study", 0)
    assert vault.find("study", 0) == key_id


def test_a_secret_is_made_under_the_named_kms_key(secrets: str) -> None:
    open_vault(f"{secrets}?kms-key=alias/keys").ensure("study", 1)
    name = f"{secrets.removeprefix('aws-sm://')}/study/00000"
    assert aws.client("secretsmanager").describe_secret(SecretId=name)["KmsKeyId"] == "alias/keys"


def test_a_secret_scheduled_for_deletion_is_told(secrets: str) -> None:
    (key_id,) = open_vault(secrets).ensure("study", 1)
    name = f"{secrets.removeprefix('aws-sm://')}/study/00000"
    aws.client("secretsmanager").delete_secret(SecretId=name)
    for ask in (lambda v: v.ensure("study", 1), lambda v: v.open("study", 0, key_id)):
        with pytest.raises(VaultError, match=f"scheduled for deletion.*restore-secret --secret-id {name}"):
            ask(open_vault(secrets))


# Store and vault.


@pytest.mark.parametrize(
    ("store", "vault", "apart"),
    [
        ("s3://b/store/study?sse=kms", "s3://b/store/keys?region=r", False),
        ("s3://b/a/store/study", "s3://b/a", False),
        ("s3://b/study", "s3://b/keys", False),
        ("s3://b/store/study", "s3://b/store-keys", True),
        ("s3://b/store/study", "s3://other/store", True),
        ("s3://b/store/study", "aws-sm://b/store", True),
        ("s3://b/store/study", "/b/store", True),
    ],
)
def test_store_and_vault_in_one_place_of_a_bucket_are_refused(store: str, vault: str, apart: bool) -> None:
    if apart:
        check_apart(store, vault)
        return
    with pytest.raises(VaultError, match=r"s3://b.* lie inside one another"):
        check_apart(store, vault)


# The desk.


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a Ray of its own; short, as Ray's sockets lie below it."""
    from orchestrator.cluster.session import joined

    folder = Path(tempfile.mkdtemp(prefix="mk-", dir="/tmp"))
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    with joined("local"):
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.ray
def test_a_worker_gets_a_key_from_the_desk_and_ray_writes_down_none(vault: str, session: Path) -> None:
    import ray

    from orchestrator.cluster.key_desk import open_desk

    @ray.remote(num_cpus=0)
    def ask(source, key_id: str) -> str:
        try:
            return source.open("study", 0, key_id).key_id
        except VaultError as error:
            return str(error)

    (key_id,) = open_vault(vault).ensure("study", 1)
    key = open_vault(vault).open("study", 0, key_id)
    with open_desk(vault) as source:
        assert source.open("study", 0, key_id) == key
        assert ray.get(ask.remote(source, key_id)) == key_id
        assert ray.get(ask.remote(source, STRANGER)).endswith("or rename the study.")
        _kill(source)
        assert ray.get(ask.remote(source, key_id)) == key_id
    assert "desk on the driver's node is gone" in ray.get(ask.remote(source, key_id))
    assert any(session.rglob("raylet.out"))
    assert leaks(session, [key]) == []
    (session / "planted").write_bytes(key.reveal())
    assert len(leaks(session, [key])) == 1


def _kill(source) -> None:
    """End the desk's process the hard way; Ray starts another."""
    import psutil

    (desk,) = (
        process
        for process in psutil.Process().children(recursive=True)
        if "ray::_Desk" in " ".join(process.cmdline())
    )
    desk.kill()
    desk.wait()
