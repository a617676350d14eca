"""Pre-training: the plain model alone, which the study finds and other studies start from."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import run_locally, small_study
from jobs.pretrain import Pretraining, pretrain
from orchestrator.models.stored import PLAIN_ADDRESS, WEIGHTS_FILE
from orchestrator.pipeline.command import main, parse_as
from orchestrator.store.local import LocalStore

SHORT = [
    "--base.epochs=2", "--base.warmup-epochs=0", "--base.mixup=0.2", "--base.augment=shift",
    "--train-images=256", "--eval-images=60", "--shard-rows=64",
]  # fmt: skip


@pytest.fixture
def job(tmp_path: Path, monkeypatch, capsys):
    """The job as a person runs it, in this process: (status, output, error)."""
    monkeypatch.setattr("os.umask", lambda mask: 0)

    def run(*arguments: str) -> tuple[int, str, str]:
        places = ["--store", str(tmp_path / "store"), "--vault", str(tmp_path / "vault"), "--local"]
        monkeypatch.setattr(sys, "argv", ["pretrain.py", *places, *SHORT, *arguments])
        with pytest.raises(SystemExit) as ended:
            main(pretrain, lambda given: parse_as(Pretraining, given))
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


def test_a_plain_model_is_trained_alone_and_other_studies_start_from_it(
    job, tmp_path: Path, vault: str
) -> None:
    out = tmp_path / "plain.safetensors"
    status, said, error = job("--out", str(out))
    assert (status, error) == (0, "")
    (accuracy,) = re.findall(r"clean accuracy: (\d+\.\d) % of evaluation images \[", said)
    assert 5 <= float(accuracy) <= 100
    store = LocalStore(tmp_path / "store/digits")
    assert store.read(PLAIN_ADDRESS, WEIGHTS_FILE) == out.read_bytes()
    assert list(store.addresses("keys")) == []
    assert not (tmp_path / "vault").exists()
    assert "plain model: 1/1 already there" in job()[1]
    other = LocalStore(tmp_path / "store/other")
    run, _ = run_locally(replace(small_study(n_keys=1), name="other", weights=str(out)), other, vault)
    assert run.ending.failures == []
    assert other.read(PLAIN_ADDRESS, WEIGHTS_FILE) == out.read_bytes()


@pytest.mark.parametrize("wrong", [["--weights", "pretrained"], ["--dry-run"]])
def test_what_leaves_nothing_to_train_is_told(job, wrong: list[str]) -> None:
    status, _, error = job(*wrong)
    assert status == 2
    assert "leave out --weights and --dry-run" in error
