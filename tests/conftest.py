"""What many tests share: a store, a vault, a study of seconds, and its models made without Ray."""

import os
from dataclasses import replace
from pathlib import Path

# Before torch is imported: on a busy two-core machine two OpenMP threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers unpickle what tests define, and so must find these modules.
os.environ["PYTHONPATH"] = str(Path(__file__).parent)

import pytest

from orchestrator.cluster.workplace import LocalWorkplace
from orchestrator.pipeline.progress import PlainReporter
from orchestrator.pipeline.stages import StudyRun
from orchestrator.presets import digits
from orchestrator.store.artifacts import LocalStore
from orchestrator.study import Study


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store" / "study")


@pytest.fixture
def vault(tmp_path: Path) -> str:
    return str(tmp_path / "vault")


def small_study(**changes) -> Study:
    """Digits with two keys and one epoch: every stage in seconds, nothing learned."""
    study = digits()
    short = {"epochs": 1, "warmup_epochs": 0.0}
    return replace(
        study,
        **{
            "name": "small",
            "n_keys": 2,
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


def run_locally(study: Study, store: LocalStore, vault: str) -> tuple[StudyRun, list[str]]:
    """Run a study in this process; the run and what it said."""
    said: list[str] = []
    run = StudyRun(study, store, vault, LocalWorkplace(), PlainReporter(said.append))
    run.run()
    return run, said
