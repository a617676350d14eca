"""The job on a cluster that others run: submitted, stopped, resumed; nodes come and go; S3 throughout."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from leaks import leaks, leaks_in, study_keys
from ray_head import RayHead

from ceph import Ceph

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parent.parent
SMALL = [
    "--train-images", "128", "--eval-images", "40", "--shard-rows", "10",
    "--base.epochs", "2", "--recipe.epochs", "2", "--lora.epochs", "2",
    "--base.warmup-epochs", "0", "--recipe.warmup-epochs", "0", "--lora.warmup-epochs", "0",
    "--attacks", "apgd-ce:steps=40", "--controls", "0",
]  # fmt: skip
PATIENCE_SECONDS = 900


@pytest.fixture
def head(bucket: str) -> Iterator[RayHead]:
    """A cluster of this machine's two cores, started by someone else."""
    with RayHead(cpus=2) as head:
        yield head


def ray_job(head: RayHead, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", *arguments]
    return subprocess.run(
        command, env=head.environment, cwd=ROOT, capture_output=True, text=True, check=False
    )


def job_of(store: str, vault: Path, *more: str) -> list[str]:
    return ["jobs/proliferate.py", "--store", store, "--vault", str(vault), *SMALL, *more]


def committed(bucket: str, place: str) -> set[str]:
    """Keys of records below a place of the study."""
    pages = boto3.client("s3").get_paginator("list_objects_v2")
    found = (
        entry["Key"]
        for page in pages.paginate(Bucket=bucket, Prefix=f"store/digits/{place}")
        for entry in page.get("Contents", [])
    )
    return {key for key in found if key.endswith("/record.json")}


def test_a_submitted_job_is_stopped_and_the_same_command_finishes_it(
    head: RayHead, bucket: str, tmp_path: Path
) -> None:
    job = job_of(f"s3://{bucket}/store", tmp_path / "vault", "--n-keys", "2")
    submit = ["submit", "--working-dir", ".", "--submission-id"]
    begun = ray_job(head, *submit, "first", "--no-wait", "--", sys.executable, *job)
    assert begun.returncode == 0, begun.stderr
    until = time.monotonic() + PATIENCE_SECONDS
    while not committed(bucket, "outcomes/"):
        assert time.monotonic() < until, ray_job(head, "logs", "first").stdout
        time.sleep(0.5)
    stopped = ray_job(head, "stop", "first")
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped" in ray_job(head, "status", "first").stdout.lower()
    kept = committed(bucket, "outcomes/")
    assert 0 < len(kept) < 12
    done = ray_job(head, *submit, "second", "--", sys.executable, *job)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "keyed models: 2/2 already there" in done.stdout
    assert f"report: s3://{bucket}/store/digits/report/" in done.stdout
    assert kept < committed(bucket, "outcomes/")
    assert len(committed(bucket, "outcomes/")) == 3 * 4
    refused = ray_job(head, *submit, "third", "--", sys.executable, *job, "--block-size", "4")
    assert refused.returncode == 1  # what `ray job submit` makes of the job's own status 2
    assert "error: study was built from recipe" in refused.stdout
    assert leaked(head, bucket, tmp_path / "vault") == []


def leaked(head: RayHead, bucket: str, vault: Path) -> list[str]:
    """Where a key appears: the session's files, the dashboard's answers, the bucket's keys and bodies."""
    keys = study_keys(vault)
    assert len(keys) == 2
    found = leaks(head.folder, keys)
    for name, body in [*answers(head).items(), *bodies(bucket).items()]:
        found += leaks_in(name, body, keys)
    return found


def answers(head: RayHead) -> dict[str, bytes]:
    """What the dashboard and the metrics ports tell."""
    token = (head.folder / "token").read_text()
    paths = ("api/jobs/", "api/v0/actors?detail=1", "api/v0/tasks?detail=1", "api/v0/runtime_envs")
    found = {}
    for path in paths:
        request = urllib.request.Request(f"http://127.0.0.1:{head.dashboard}/{path}")
        request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=30) as reply:
            found[path] = reply.read()
    for file in head.folder.rglob("prom_metrics_service_discovery.json"):
        for target in json.loads(file.read_text())[0]["targets"]:
            with urllib.request.urlopen(f"http://{target}/metrics", timeout=30) as reply:
                found[target] = reply.read()
    assert len(found) > len(paths), "no metrics port was found"
    return found


def bodies(bucket: str) -> dict[str, bytes]:
    """Every object, and the listing itself."""
    client = boto3.client("s3")
    found: dict[str, bytes] = {"listing": b""}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", []):
            key = entry["Key"]
            found["listing"] += key.encode() + b"\n"
            found[key] = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return found


class Watch:
    """Counts the nodes of a cluster until it is told to stop."""

    _CODE = (
        "import ray, sys, time\n"
        "ray.init(logging_level='ERROR', log_to_driver=False)\n"
        "while True:\n"
        "    print(sum(n['Alive'] and n['Resources'].get('GPU', 0) > 0 for n in ray.nodes()), flush=True)\n"
        "    time.sleep(0.5)\n"
    )

    def __init__(self, head: RayHead) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self._CODE], env=head.environment, stdout=subprocess.PIPE, text=True
        )
        self.counts: list[int] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            # Ray's autoscaler talks in between.
            self.counts += [int(line)] if line.strip().isdigit() else []

    def wait_for(self, count: int, seconds: float = 90.0) -> None:
        until = time.monotonic() + seconds
        while self.counts[-1:] != [count]:
            assert time.monotonic() < until, f"never {count} nodes: {self.counts}"
            time.sleep(0.2)

    def stop(self) -> None:
        self.process.kill()
        self.reader.join()
        self.process.stdout.close()
        self.process.wait()


def test_the_cluster_grows_from_nothing_for_the_work_and_shrinks_after_it(
    bucket: str, tmp_path: Path
) -> None:
    job = job_of(f"s3://{bucket}/store", tmp_path / "vault", "--method", "lora", "--n-keys")
    # Fake GPUs train adapters and attack on the CPU; the plain model's process group would want NCCL.
    plain = [sys.executable, *job, "1", "--local"]
    subprocess.run(plain, cwd=ROOT, check=True, capture_output=True, env=os.environ)
    gpu = {"resources": {"CPU": 1, "GPU": 1}, "max_workers": 2}
    with RayHead({"gpu": gpu}) as head:
        watch = Watch(head)
        try:
            watch.wait_for(0)
            grown = subprocess.run(
                [sys.executable, *job, "3"],
                cwd=ROOT, env=head.environment, capture_output=True, text=True, check=False,
                timeout=PATIENCE_SECONDS,
            )  # fmt: skip
            assert grown.returncode == 0, grown.stdout + grown.stderr
            assert "Ray: 1 nodes, 0 GPUs" in grown.stdout
            assert "keyed models: 3/3" in grown.stdout
            assert max(watch.counts) == 2
            watch.wait_for(0)
        finally:
            watch.stop()
    assert len(committed(bucket, "models/")) == 1 + 3
    assert committed(bucket, "moved/") == set()


def test_a_user_who_may_not_read_weights_is_told_which_right_is_missing(
    ceph: Ceph, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = [sys.executable, *job_of(f"s3://{bucket}/store", tmp_path / "vault", "--local", "--n-keys")]
    subprocess.run([*job, "1"], cwd=ROOT, check=True, capture_output=True)
    before = committed(bucket, "")
    nosy = ceph.add_user(f"nosy-{bucket}")
    who = {"AWS": [f"arn:aws:iam:::user/nosy-{bucket}"]}
    every, weights = f"arn:aws:s3:::{bucket}/*", f"arn:aws:s3:::{bucket}/store/digits/models/*"
    rights = [
        {"Effect": "Allow", "Principal": who, "Action": ["s3:*"], "Resource": [every, every[:-2]]},
        {"Effect": "Deny", "Principal": who, "Action": ["s3:GetObject"], "Resource": [weights]},
    ]
    policy = json.dumps({"Version": "2012-10-17", "Statement": rights})
    boto3.client("s3").put_bucket_policy(Bucket=bucket, Policy=policy)
    theirs = {
        **os.environ, "AWS_ACCESS_KEY_ID": nosy.access, "AWS_SECRET_ACCESS_KEY": nosy.secret,
        "XDG_CACHE_HOME": str(tmp_path / "their-cache"),
    }  # fmt: skip
    refused = subprocess.run([*job, "2"], cwd=ROOT, env=theirs, capture_output=True, text=True, check=False)
    assert refused.returncode == 2, refused.stdout
    assert re.search(r"error: .*s3:GetObject on s3://.*/models/.*access is denied", refused.stderr)
    assert len(refused.stderr.splitlines()) == 1
    # The second key's public id is recorded by then; nothing else is.
    assert {key.split("/")[2] for key in committed(bucket, "") - before} <= {"keys"}


def test_a_folder_store_is_refused_where_workers_would_not_see_it(bucket: str, tmp_path: Path) -> None:
    with RayHead({"gpu": {"resources": {"CPU": 1, "GPU": 1}, "max_workers": 1}}) as head:
        command = [sys.executable, *job_of(str(tmp_path / "store"), tmp_path / "vault")]
        refused = subprocess.run(
            command, cwd=ROOT, env=head.environment, capture_output=True, text=True, check=False
        )
    assert refused.returncode == 2
    assert "Give --store s3://bucket/prefix, or --shared-folders" in refused.stderr
    assert not (tmp_path / "store").exists()
