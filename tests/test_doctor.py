"""The doctor: finds what is wrong with real servers, says what to do, leaves nothing behind."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import boto3
import psutil
import pytest
import safetensors.torch
from moto.server import ThreadedMotoServer
from PIL import Image
from ray_head import RayHead

from ceph import KMS_KEY, Ceph
from conftest import small_study
from jobs.doctor import doctor
from orchestrator import aws
from orchestrator.checkup.probe import Patient, Probe, ok
from orchestrator.models.backbone import Architecture
from orchestrator.pipeline.command import main, parse
from orchestrator.pipeline.roster import ensure_keys
from orchestrator.store.local import LocalStore

ROOT = Path(__file__).parent.parent
SEALED = f"?sse=kms&kms-key={KMS_KEY}"


class Visit(NamedTuple):
    """What the doctor said."""

    status: int
    text: str

    def lines(self, level: str) -> list[str]:
        return [line for line in self.text.splitlines() if line.startswith(f"{level} ")]

    def line(self, probe: str) -> str:
        (found,) = [line for line in self.text.splitlines() if f"  {probe}: " in line]
        return found


@pytest.fixture
def visit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The doctor as a person runs it, in this process and without Ray."""
    monkeypatch.setattr("os.umask", lambda mask: 0)

    def run(*arguments: str) -> Visit:
        places = ["--store", str(tmp_path / "store"), "--vault", str(tmp_path / "vault"), "--local"]
        monkeypatch.setattr(sys, "argv", ["doctor.py", *places, *arguments])
        with pytest.raises(SystemExit) as ended:
            main(doctor, parse)
        captured = capsys.readouterr()
        return Visit(ended.value.code, captured.out + captured.err)

    return run


def contents(bucket: str) -> list[str]:
    s3 = boto3.client("s3")
    objects = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return objects + [up["Key"] for up in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


def grant(bucket: str, user: str, actions: list[str]) -> None:
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": [f"arn:aws:iam:::user/{user}"]},
        "Action": actions,
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    boto3.client("s3").put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


def test_a_sound_bucket_and_vault_are_well_and_left_as_they_were(visit, bucket: str) -> None:
    told = visit(
        *("--store", f"s3://{bucket}/store{SEALED}"),
        *("--vault", f"s3://{bucket}/vault?kms-key={KMS_KEY}"),
    )
    assert told.status == 0, told.text
    assert told.lines("warn") == told.lines("fail") == told.lines("skip") == []
    assert "Ceph RGW" in told.line("server")
    assert "confirms aws:kms" in told.line("encryption")
    assert "one of 8 won, 5 times out of 5" in told.line("eight writers at once")
    assert "removed again" in told.line("creating keys")
    assert contents(bucket) == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "hush-hush"}, "the secret key is wrong: check profile"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "the access key is unknown there"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "out of reach: check endpoint and network"),
        ({"bucket": "absent-bucket"}, "the bucket does not exist: create it"),
        ({"user": "stranger"}, "s3:PutObject on s3://"),
    ],
    ids=lambda wrong: next(iter(wrong)) if isinstance(wrong, dict) else "",
)
def test_a_store_that_cannot_be_used_is_told_in_one_line(
    visit, bucket: str, ceph: Ceph, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str], told: str
) -> None:
    place = wrong.pop("bucket", bucket)
    with monkeypatch.context() as patched:
        if user := wrong.pop("user", ""):
            new = ceph.add_user(f"{user}-{bucket}")
            wrong = {"AWS_ACCESS_KEY_ID": new.access, "AWS_SECRET_ACCESS_KEY": new.secret}
        for name, value in wrong.items():
            patched.setenv(name, value)
        patched.setattr("orchestrator.checkup.doctor._PATIENCE_SECONDS", 2.0)
        began = time.monotonic()
        found = visit("--store", f"s3://{place}/store")
    assert time.monotonic() - began < 60.0
    assert found.status == 1
    assert told in found.line("write and read")
    assert found.line("second write").startswith("skip")
    assert found.line("done so far").startswith("skip")
    assert found.line("splits").startswith("ok")
    assert "hush-hush" not in found.text
    assert contents(bucket) == []


def test_a_user_who_may_not_list_is_told_which_right_is_missing(
    visit, bucket: str, ceph: Ceph, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = f"lister-{bucket}"
    new = ceph.add_user(user)
    grant(bucket, user, ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"])
    with monkeypatch.context() as patched:
        patched.setenv("AWS_ACCESS_KEY_ID", new.access)
        patched.setenv("AWS_SECRET_ACCESS_KEY", new.secret)
        found = visit("--store", f"s3://{bucket}/store")
    assert found.status == 1
    assert "Grant s3:ListBucket" in found.line("read what is not there")
    assert "s3:ListBucket on s3://" in found.line("listing after a write")
    assert found.line("second write").startswith("ok")
    # What is named can be deleted; the losers of the race could only be listed, had they left anything.
    assert contents(bucket) == []


def test_encryption_that_a_server_ignores_is_told_and_keeps_nothing(visit, bucket: str) -> None:
    found = visit("--store", f"s3://{bucket}/store?sse=s3")
    assert found.status == 1
    assert "ignored sse=s3" in found.line("write and read")
    assert "Use a server that encrypts" in found.line("write and read")
    assert contents(bucket) == []


def test_a_store_in_clear_is_something_to_think_about(visit, bucket: str) -> None:
    found = visit("--store", f"s3://{bucket}/store")
    assert found.status == 0
    (warned,) = found.lines("warn")
    assert "?sse=kms" in warned


def test_a_server_that_takes_any_key_is_told(visit, monkeypatch: pytest.MonkeyPatch, bucket: str) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        boto3.client("s3").create_bucket(Bucket=bucket)
        found = visit("--store", f"s3://{bucket}/store")
        assert contents(bucket) == []
    finally:
        server.stop()
    assert found.status == 1
    assert "takes any secret key" in found.line("wrong secret key")
    assert found.line("server").startswith("fail")
    assert "moto: it keeps everything in memory" in found.line("server")


def test_a_store_whose_conditions_fail_is_for_one_driver(visit, bucket: str) -> None:
    def unconditional(params: dict[str, object], **_: object) -> None:
        params.pop("IfNoneMatch", None)

    # What a server that ignores the condition comes to; this client is of this test's environment alone.
    client = aws.client("s3")
    client.meta.events.register("before-parameter-build.s3.PutObject", unconditional)
    found = visit("--store", f"s3://{bucket}/store")
    client.meta.events.unregister("before-parameter-build.s3.PutObject", unconditional)
    assert found.status == 1
    for probe in ("second write", "eight writers at once"):
        assert found.line(probe).startswith("fail")
        assert "Run one driver at a time" in found.line(probe)
    assert "8 of 8 writers were told they had won" in found.line("eight writers at once")
    assert contents(bucket) == []


def test_folders_are_well_and_left_as_they_were(visit, tmp_path: Path) -> None:
    found = visit()
    assert found.status == 0, found.text
    assert found.lines("fail") == found.lines("skip") == []
    assert "full models 0/8" in found.line("done so far")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "store").mkdir(mode=0o755)
    (warned,) = visit().lines("warn")
    assert "chmod 700" in warned


def test_a_store_that_is_a_file_is_told(visit, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("in the way")
    found = visit()
    assert found.status == 1
    assert "cannot be written" in found.line("write and read")
    assert (tmp_path / "store").read_text() == "in the way"


def test_a_vault_that_is_gone_is_told_before_keys_are_made(visit, tmp_path: Path) -> None:
    study, vault = small_study(name="digits"), tmp_path / "vault"
    ensure_keys(study, LocalStore(tmp_path / "store/digits"), str(vault))
    assert "has all 2 that the store has recorded" in visit("--n-keys=2").line("keys of the study")
    assert "no key is missing" in visit("--n-keys=2").line("creating keys")
    shutil.rmtree(vault)
    found = visit("--n-keys=2")
    assert found.status == 1
    assert "2 of 2 keys" in found.line("keys of the study")
    assert "Point --vault" in found.line("keys of the study")
    assert not vault.exists()


def test_a_vault_inside_the_store_is_told(visit, tmp_path: Path) -> None:
    found = visit("--vault", str(tmp_path / "store/vault"))
    assert found.status == 1
    assert "inside one another" in found.line("apart from the store")


def test_an_unsealed_vault_keeps_no_key(visit, bucket: str) -> None:
    found = visit("--vault", f"s3://{bucket}/vault?kms-key=no-such-key")
    assert found.status == 1
    assert found.line("creating keys").startswith("fail")
    assert contents(bucket) == []


def test_data_that_is_absent_or_unreadable_is_told(visit, tmp_path: Path) -> None:
    found = visit("--data", str(tmp_path / "absent"))
    assert found.status == 1
    assert "Point --data" in found.line("splits")
    assert found.line("images").startswith("skip")
    for number in range(40):
        for split in ("train", "val"):
            image = tmp_path / f"data/{split}/cat/{number:02d}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(image)
            if number == 0:
                image.write_bytes(b"a picture of nothing")
    found = visit("--data", str(tmp_path / "data"))
    assert found.status == 0
    assert "2 of 32 images" in found.line("images")
    assert found.line("images").startswith("warn")
    assert "outside 0..0" in visit("--data", "digits", "--architecture.classes=1").line("splits")


def test_weights_are_held_against_the_architecture(visit, tmp_path: Path) -> None:
    architecture = small_study().architecture
    wide = Architecture(**{**architecture.recipe(), "width": 32})
    tensors = {"right": architecture.build().state_dict(), "wrong": wide.build().state_dict()}
    for name, state in tensors.items():
        safetensors.torch.save_file(state, tmp_path / f"{name}.safetensors")
    assert visit("--weights", str(tmp_path / "right.safetensors")).line("plain weights").startswith("ok")
    found = visit("--weights", str(tmp_path / "wrong.safetensors"))
    assert found.status == 1
    assert "another architecture" in found.line("plain weights")
    assert "cannot be read" in visit("--weights", "/no/such/file").line("plain weights")


def test_a_study_begun_with_other_settings_is_told(visit, tmp_path: Path) -> None:
    from orchestrator.store.record import ArtifactRecord

    recipe = small_study().fixed() | {"seed": 7}
    LocalStore(tmp_path / "store/digits").commit("study", ArtifactRecord(recipe=recipe, files={}), {})
    found = visit()
    assert found.status == 1
    assert "Rename the study" in found.line("settings")
    assert found.line("done so far").startswith("skip")


def test_what_cannot_be_asked_at_all_ends_in_one_sentence(visit) -> None:
    for arguments in (["--store", "ftp://x"], ["--vault", "sftp://x"], ["--preset", "mnist"]):
        found = visit(*arguments)
        assert found.status == 2
        assert found.text.startswith("error: ")
        assert found.text.count("\n") == 1


def test_a_probe_ends_in_time_and_an_error_is_a_finding(tmp_path: Path) -> None:
    patient = Patient(parse(["--store", str(tmp_path / "store"), "--vault", str(tmp_path / "vault")]))

    def endless(patient: Patient) -> Iterator:
        yield ok("so far")
        time.sleep(30.0)

    def broken(patient: Patient) -> Iterator:
        yield ok("so far")
        raise LookupError("hush-hush")

    began = time.monotonic()
    ended, failed = (
        list(Probe(topic="x", name="x", look=look, advice="Do this.", seconds=0.3).findings(patient))
        for look in (endless, broken)
    )
    assert time.monotonic() - began < 5.0
    assert [finding.level for finding in (*ended, *failed)] == ["ok", "fail", "ok", "fail"]
    assert (ended[1].found, ended[1].advice) == ("no answer within 0 s", "Do this.")
    assert (failed[1].found, failed[1].advice) == ("LookupError", "Do this.")


@contextlib.contextmanager
def _node_with_a_gpu_it_has_not(head: RayHead) -> Iterator[None]:
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={head.address}", "--block",
        "--num-cpus=1", "--num-gpus=1", "--node-ip-address=127.0.0.1", "--object-store-memory=100000000",
        "--disable-usage-stats",
    ]  # fmt: skip
    up = "import ray; ray.init('auto', log_to_driver=False); raise SystemExit(len(ray.nodes()))"
    with (head.folder / "node.log").open("wb") as log:
        node = subprocess.Popen(command, env=head.environment, stdout=log, stderr=log)
        try:
            until = time.monotonic() + 60.0
            asked = [sys.executable, "-c", up]
            while subprocess.run(asked, env=head.environment, stderr=log, check=False).returncode != 2:
                assert time.monotonic() < until, "the second node did not come up"
            yield
        finally:
            for process in [*psutil.Process(node.pid).children(recursive=True), node]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            node.wait()


@pytest.mark.ray
def test_a_cluster_is_looked_at_node_by_node(bucket: str, tmp_path: Path) -> None:
    places = [
        "--store",
        f"s3://{bucket}/store{SEALED}",
        "--vault",
        f"s3://{bucket}/vault?kms-key={KMS_KEY}",
    ]
    with RayHead(cpus=1) as head, _node_with_a_gpu_it_has_not(head):

        def start(*arguments: str, **changed: str) -> subprocess.Popen[str]:
            environment = {**head.environment, "OMP_NUM_THREADS": "1", **changed}
            command = [sys.executable, "jobs/doctor.py", *places, *arguments]
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)

        running = (
            start(),
            start("--store", str(tmp_path / "store")),
            start(RAY_AUTH_MODE="disabled"),
        )
        texts = [process.communicate(timeout=200)[0] for process in running]
        found, folder, stranger = (
            Visit(process.returncode, text) for process, text in zip(running, texts, strict=True)
        )
    assert [visit.status for visit in (found, folder, stranger)] == [1, 1, 1]
    (failed,) = found.lines("fail")
    assert "torch sees 0 of 1 GPUs" in failed
    nodes = [line for line in found.text.splitlines() if " nodes: " in line]
    assert len(nodes) == 2
    assert sum("the driver's versions, reaches store" in line for line in nodes) == 1
    doors = [line for line in found.text.splitlines() if " doors: " in line]
    assert [line.split()[0] for line in doors] == ["ok", "ok"]
    assert "Ray asks for its token" in doors[0]
    assert "would not see it" in folder.line("size")
    assert "does not let this job in" in stranger.line("joined")
    assert "RAY_AUTH_MODE=token" in stranger.line("joined")
    assert contents(bucket) == []
    assert not (tmp_path / "store").exists()
