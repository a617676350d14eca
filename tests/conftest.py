"""What many tests share: a store, a vault, a study of seconds, and its models made without Ray."""

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

# Before torch is imported: on a busy two-core machine two OpenMP threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers unpickle what tests define, and so must find these modules.
os.environ["PYTHONPATH"] = str(Path(__file__).parent)

import boto3
import hypothesis
import pytest

from ceph import PACKAGES, Ceph, missing
from orchestrator.cluster.workplace import LocalWorkplace
from orchestrator.pipeline.progress import PlainReporter
from orchestrator.pipeline.stages import StudyRun
from orchestrator.presets import digits
from orchestrator.store.local import LocalStore
from orchestrator.study import Study

# A busy machine makes nothing wrong.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store" / "study")


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A real S3 server on loopback, one for all tests of the session."""
    if missing():
        pytest.skip(f"no S3 server here ({', '.join(missing())}): apt-get install {PACKAGES}")
    server = Ceph(tmp_path_factory.mktemp("ceph")).start()
    yield server
    server.stop()


@pytest.fixture
def bucket(ceph: Ceph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket, with its server, credentials and cache ambient for this test and its processes."""
    ambient = {
        "AWS_ENDPOINT_URL": ceph.url,
        "AWS_ACCESS_KEY_ID": ceph.access,
        "AWS_SECRET_ACCESS_KEY": ceph.secret,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    for name, value in ambient.items():
        monkeypatch.setenv(name, value)
    name = f"t-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=name)
    return name


@pytest.fixture
def vault(tmp_path: Path) -> str:
    return str(tmp_path / "vault")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``small_study()`` was run to its end, for ``finished_study``."""
    root = tmp_path_factory.mktemp("finished")
    run, _ = run_locally(small_study(), LocalStore(root / "store" / "study"), str(root / "vault"))
    assert run.ending.failures == []
    return root


@pytest.fixture
def finished_study(made_once: Path, tmp_path: Path) -> Study:
    """``small_study()``, which the test finds done in its own ``store`` and ``vault``, to be spoiled."""
    shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)
    return small_study()


def small_study(**changes) -> Study:
    """Digits with two keys and one epoch: every stage in seconds, nothing learned."""
    study = digits()
    short = {"epochs": 1, "warmup_epochs": 0.0}
    return replace(
        study,
        **{
            "name": "small",
            "n_keys": 2,
            "controls": 0,
            "base": replace(study.base, **short),
            "recipe": replace(study.recipe, **short),
            "lora": replace(study.lora, **short),
            "train_images": 128,
            "eval_images": 40,
            "shard_rows": 20,
            "attacks": ("apgd-ce:steps=3",),
            **changes,
        },
    )


def run_locally(
    study: Study, store: LocalStore, vault: str, attacking: Mapping[str, bool] | None = None
) -> tuple[StudyRun, list[str]]:
    """Run a study in this process; the run and what it said."""
    said: list[str] = []
    run = StudyRun(study, store, vault, LocalWorkplace(), PlainReporter(said.append), attacking or {})
    run.run()
    return run, said
