"""The main job on a real local Ray: whatever is killed, the same command ends in the same matrices.

One undisturbed run is the reference. It is also searched for every key: raw, hex, base64 and as the
permutation it stands for, in the store, the log and everything Ray wrote.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from leaks import appearances, leaks, study_keys

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parent.parent
STUDY = [
    "--ray", "local", "--method", "both", "--n-keys", "2", "--controls", "0",
    "--workers-per-model", "2", "--keys-per-device", "2",
    "--train-images", "512", "--eval-images", "80", "--shard-rows", "20",
    "--base.epochs", "25", "--recipe.epochs", "10", "--lora.epochs", "12",
    "--attacks", "apgd-ce:steps=40", "--gradients", "--committees", "1of2",
    "--detect", "--detector.neurons", "20", "--detector.proposals", "100", "--detector.kept", "20",
    "--detector.draw", "10", "--detector.effect", "0.2", "--detector.false-discoveries", "0.5",
    "--detector.least-images", "3", "--detector.least-held-out", "10",
]  # fmt: skip
PATIENCE_SECONDS = 900


@dataclass
class Job:
    """One study in one store; started and killed as an operator would."""

    store: Path
    vault: Path
    ray: Path
    process: subprocess.Popen | None = None

    def start(self) -> "Job":
        arguments = ["--store", str(self.store), "--vault", str(self.vault), *STUDY]
        environment = {
            **{n: v for n, v in os.environ.items() if n not in ("OMP_NUM_THREADS", "PYTHONPATH")},
            "RAY_TMPDIR": str(self.ray),
            "HOME": str(self.ray),
        }
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "jobs/proliferate.py"), *arguments],
                stdout=log,
                stderr=log,
                env=environment,
                cwd=ROOT,
            )
        return self

    @property
    def log(self) -> Path:
        return self.ray / "job.log"

    @property
    def study(self) -> Path:
        return self.store / "digits"

    def records(self, place: str) -> set[Path]:
        return set((self.study / place).rglob("record.json"))

    def wait_for(self, what: str, happened: Callable[[], object]) -> None:
        """Wait until something happened, while the job runs."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            assert self.process.poll() is None, f"ended before {what}:\n{self.log.read_text()}"
            assert time.monotonic() < until, f"no {what}:\n{self.log.read_text()}"
            time.sleep(0.02)

    def kill(self) -> None:
        """End the driver the hard way; its own Ray must end with it."""
        # Ray's two agents notice by themselves, after a minute if they were still starting.
        family = [process for process in self.family() if "Agent" not in process.name()]
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive, f"outlived their driver: {[process.name() for process in alive]}"

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill_worker(self, title: str) -> None:
        """End one Ray worker whose process title matches, the hard way."""
        for process in self.family():
            try:
                if re.search(title, " ".join(process.cmdline())):
                    process.kill()
                    return
            except psutil.NoSuchProcess:
                continue
        titles = [" ".join(p.cmdline())[:60] for p in self.family()]
        pytest.fail(f"no worker is called {title}: {titles}")

    def finish(self) -> str:
        """Wait for a good end; what the job said."""
        status = self.process.wait(timeout=PATIENCE_SECONDS)
        said = self.log.read_text()
        assert status == 0, said
        return said

    def results(self) -> dict[str, bytes]:
        """Matrices, cosines of gradients and judged committees, by their place in the study."""
        places = ("matrix/matrix", "detection/detection", "alignment/**/*", "committees/**/*")
        found = [path for place in places for path in self.study.glob(f"{place}.parquet")]
        return {str(path.relative_to(self.study)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # Short on purpose: Ray's sockets live below it, and a socket's path has 107 characters at most.
    path = Path(tempfile.mkdtemp(prefix="mk-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Job:
    job = Job(folder / "a", folder / "vault", folder / "ra")
    job.ray.mkdir()
    job.start().finish()
    return job


@pytest.fixture
def job(folder: Path, undisturbed: Job, request) -> Iterator[Job]:
    """The same study with the same keys in a store of its own."""
    name = request.node.name[5:12]
    job = Job(folder / name, undisturbed.vault, folder / f"r{name}")
    job.ray.mkdir()
    yield job
    if job.process.poll() is None:
        job.process.kill()


def test_the_undisturbed_study_separates_own_keys_from_others(undisturbed: Job) -> None:
    table = pq.read_table(undisturbed.study / "matrix/matrix.parquet").to_pylist()
    assert {row["method"] for row in table} == {"plain", "full", "lora"}
    assert len(table) == 1 + 8 + 8
    assert all(row["n"] == 80 for row in table)
    own = [row for row in table if row["source"] == row["target"]]
    assert all(row["fooled"] >= 0.9 * row["eligible"] for row in own)
    assert (undisturbed.study / "report/index.html").is_file()
    detected = pq.read_table(undisturbed.study / "detection/detection.parquet").to_pylist()
    assert len(detected) == 2 * (2 + 4)  # of each method: plain on two keys, and every key on every key
    assert all(row["stopped_at_0.05"] <= row["fooled"] for row in detected)
    stages = {place.split("/")[0] for place in undisturbed.results()}
    assert stages == {"matrix", "detection", "alignment", "committees"}
    assert list((undisturbed.study / "checkpoints").rglob("*.safetensors")) == []
    assert not (undisturbed.study / ".ray").exists()


def test_a_killed_driver_is_resumed_to_the_same_bytes(job: Job, undisturbed: Job) -> None:
    kept: dict[Path, int] = {}

    def keep(place: str) -> None:
        kept.update({path: path.stat().st_mtime_ns for path in job.records(place)})

    job.start()
    job.wait_for("a keyed model under way", lambda: job.records("checkpoints/"))
    job.kill()
    keep("shards")
    keep("models")
    job.start()
    job.wait_for("some outcomes", lambda: len(job.records("outcomes")) > 3)
    job.kill()
    keep("models")
    keep("outcomes")
    job.start()
    job.wait_for("images shown to a detector", lambda: job.records("guarded"))
    job.kill()
    keep("detectors")
    keep("guarded")
    job.start().finish()
    assert job.results() == undisturbed.results()
    assert len(kept) > 10
    redone = [path for path, modified in kept.items() if path.stat().st_mtime_ns != modified]
    assert redone == []


def test_killed_workers_of_every_kind_cost_nothing_but_time(
    job: Job, undisturbed: Job, tmp_path: Path
) -> None:
    job.start()
    job.wait_for("a full model under way", lambda: list(job.study.glob("checkpoints/*.full/*")))
    job.kill_worker("ray::.*TrainWorker")
    job.wait_for("a LoRA model under way", lambda: list(job.study.glob("checkpoints/*.lora/*")))
    # Tune's trial folders go when its training ends: they are searched for keys as they are now.
    shutil.copytree(job.study / ".ray", tmp_path / "trials")
    job.kill_worker("ray::.*(ImplicitFunc|_trial|partial)")
    job.wait_for("outcomes", lambda: len(job.records("outcomes")) > 1)
    job.kill_worker("ray::_Actor")
    job.wait_for("a committee judged", lambda: job.records("committees"))
    job.kill_worker("ray::_Actor")
    said = job.finish()
    assert said.count("an actor died") >= 2
    assert job.results() == undisturbed.results()
    names = [path.name for path in (tmp_path / "trials").rglob("*")]
    assert any(name.startswith(("tuner", "experiment_state", "searcher")) for name in names), names
    assert leaks(tmp_path / "trials", study_keys(job.vault)) == []
    assert leaks(job.ray, study_keys(job.vault)) == []


def test_no_key_appears_anywhere_but_in_the_vault(undisturbed: Job, tmp_path: Path) -> None:
    keys = study_keys(undisturbed.vault)
    assert len(keys) == 2
    # The search finds what there is to find: the vault itself, and every form planted on purpose.
    assert len(leaks(undisturbed.vault, keys)) == 2
    for number, text in enumerate(appearances(keys[0]).values()):
        (tmp_path / str(number)).write_bytes(b"before" + text + b"after")
    planted = leaks(tmp_path, keys[:1])
    assert {line.split(":")[0] for line in planted} == {str(path) for path in tmp_path.iterdir()}
    assert any(path.name.startswith("session_") for path in undisturbed.ray.rglob("session_*"))
    assert leaks(undisturbed.store, keys) == []
    assert leaks(undisturbed.ray, keys) == []
