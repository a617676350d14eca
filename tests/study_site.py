"""A store, a cluster and a vault of their own for one small study, and what can befall them.

The store is Ceph behind the fault proxy; the cluster has a head, where drivers run, and further nodes
that can be lost whole. Nothing here is pretended but the machines: each node is a raylet on loopback.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import psutil
from proxy import Proxy
from ray_nodes import Head, Node

from ceph import Ceph
from orchestrator.store.artifacts import open_store

ROOT = Path(__file__).parent.parent
STUDY = (
    "--method", "both", "--n-keys", "2", "--controls", "0",
    "--train-images", "256", "--eval-images", "60", "--shard-rows", "10",
    "--base.epochs", "6", "--recipe.epochs", "4", "--lora.epochs", "4",
    "--attacks", "apgd-ce:steps=80",
)  # fmt: skip
TRAIN_WORKER, TUNE_WORKER = "ray::.*TrainWorker", "ray::.*(ImplicitFunc|_trial|partial)"
ATTACK_ACTOR, KEY_DESK = r"ray::_Actor\.run", "ray::_Desk"
BUCKET = "storm"
NODES = 2
PATIENCE_SECONDS = 600.0
# Larger than the models of the study, so that a node's cache is in use until the disk is full.
_CACHE_BYTES = 16 * 2**20


class Driver:
    """The main job for one study of the site; started, killed and started again as an operator would."""

    def __init__(self, site: "Site", name: str, workers: int, log: str) -> None:
        self.site, self.name, self.workers = site, name, workers
        self.log = site.folder / f"{log or name}.log"
        self.log.touch()
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._told = 0

    @property
    def store(self) -> str:
        """The study's part of the bucket, past the proxy."""
        return f"s3://{BUCKET}/{self.name}/digits?endpoint={self.site.ceph.url}"

    @property
    def said(self) -> str:
        """What the driver has said since it was last started."""
        return self.log.read_bytes()[self._told :].decode(errors="replace")

    def made(self, prefix: str) -> list[str]:
        """Addresses of the study's artifacts below a prefix."""
        return list(open_store(self.store).addresses(prefix))

    def start(self, *more: str) -> "Driver":
        """Begin, or go on with what is there."""
        options = ["--store", f"s3://{BUCKET}/{self.name}", "--vault", str(self.site.folder / "vault")]
        options += ["--workers-per-model", str(self.workers), *STUDY, *more]
        self._told = self.log.stat().st_size
        self.starts += 1
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "jobs/proliferate.py"), *options],
                stdout=log,
                stderr=log,
                env={**self.site.head.environment, "OMP_NUM_THREADS": "1"},
                cwd=ROOT,
            )
        return self

    def status(self) -> int | None:
        """The exit status; None while it runs."""
        assert self.process is not None, "it was never started"
        return self.process.poll()

    def kill(self) -> None:
        """End it the hard way."""
        assert self.process is not None, "it was never started"
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def wait_for(self, what: str, happened: Callable[[], object]) -> None:
        """Wait until something happened, while the job runs."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            assert self.status() is None, f"ended before {what}:\n{self.said}"
            assert time.monotonic() < until, f"no {what}:\n{self.said}"
            time.sleep(0.2)

    def end(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait for the end; the exit status."""
        assert self.process is not None, "it was never started"
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end:\n{self.said}") from None

    def finish(self) -> str:
        """Wait for a good end; what the driver said."""
        assert self.end() == 0, self.said
        return self.said


class Site:
    """Where a study runs: store, proxy, head, nodes, vault, and a small disk for the nodes' cache."""

    def __init__(self, seed: int = 0) -> None:
        # Short: Ray's sockets live below such a folder, and a socket's path has 107 characters at most.
        self.folder = Path(tempfile.mkdtemp(prefix="mks-", dir="/tmp"))
        self.cache = self.folder / "cache"
        self.cache.mkdir()
        self.small_disk = mounted(self.cache, _CACHE_BYTES)
        self.ceph = Ceph(self.folder / "ceph").start()
        self.proxy = Proxy(self.ceph.port, seed)
        self.ambient = {
            "AWS_ENDPOINT_URL": self.proxy.url,
            "AWS_ACCESS_KEY_ID": Ceph.access,
            "AWS_SECRET_ACCESS_KEY": Ceph.secret,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "XDG_CACHE_HOME": str(self.cache),
        }
        self.client().create_bucket(Bucket=BUCKET)
        self.head = Head(self.ambient)
        self.nodes: list[Node] = []
        self._numbers = iter(range(2, 250))

    def start(self) -> "Site":
        """Start the head and let the nodes join."""
        self.head.start()
        for _ in range(NODES):
            self.add_node()
        until = time.monotonic() + PATIENCE_SECONDS
        while len(self.head.listed("nodes", "state=ALIVE")) < 1 + NODES:
            assert time.monotonic() < until, "the nodes did not join"
        return self

    def stop(self) -> None:
        """End everything, and remove it."""
        for node in self.nodes:
            node.kill()
        self.head.stop()
        self.proxy.stop()
        self.ceph.stop()
        if self.small_disk:
            subprocess.run(["umount", "--lazy", str(self.cache)], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def driver(self, name: str, *, workers: int = 2, log: str = "") -> Driver:
        """The job for a study of its own, with the keys that all studies of this site share.

        Args:
            name: where in the bucket its store is.
            workers: data-parallel workers of a full fine-tune; one gives the bytes of one process.
            log: a name for its log, where two drivers work on one study.
        """
        return Driver(self, name, workers, log)

    def kill_worker(self, title: str) -> bool:
        """End one worker whose process title matches, the hard way; whether there was one."""
        found = self.workers(title)
        for process in found[:1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return bool(found)

    def add_node(self) -> None:
        """A new node joins, where others were."""
        self.nodes.append(Node(self.head, next(self._numbers)))

    def take_node(self, number: int = 0) -> Node:
        """One of the nodes, which is about to be lost."""
        return self.nodes.pop(number % len(self.nodes))

    def family(self) -> list[psutil.Process]:
        """Everything that runs on the head and on the nodes."""
        assert self.head.process is not None, "the head was never started"
        whole = psutil.Process(self.head.process.pid)
        nodes = [process for node in self.nodes for process in node.family()]
        return [whole, *whole.children(recursive=True), *nodes]

    def workers(self, title: str) -> list[psutil.Process]:
        """Ray's workers on all nodes whose process title matches."""
        return [process for process in self.family() if re.match(title, title_of(process))]

    def client(self) -> Any:
        """A client of the store, past the proxy."""
        names = {"aws_access_key_id": Ceph.access, "aws_secret_access_key": Ceph.secret}
        return boto3.client("s3", endpoint_url=self.ceph.url, region_name="us-east-1", **names)


def title_of(process: psutil.Process) -> str:
    """What a process calls itself; empty once it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def mounted(folder: Path, size_bytes: int) -> bool:
    """Whether a small disk of its own could be mounted on a folder; needs root."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
