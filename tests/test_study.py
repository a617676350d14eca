"""The command line and its refusals: one sentence, status 2, nothing lost or half-written."""

import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from shutil import copytree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch

from conftest import run_locally
from jobs.proliferate import proliferate
from orchestrator.errors import StudyError, ThreatError
from orchestrator.pipeline.command import main, parse
from orchestrator.presets import PRESETS, digits, imagenet
from orchestrator.store.local import LocalStore

SHORT = [
    "--base.epochs=1", "--recipe.epochs=1", "--n-keys=2", "--controls=0", "--train-images=128",
    "--eval-images=40", "--shard-rows=20", "--attacks", "apgd-ce:steps=3",
]  # fmt: skip


def run_job(root: Path, *arguments: str) -> int | str | None:
    """The main job as a person runs it, in this process: its status."""
    places = ["--store", str(root / "store"), "--vault", str(root / "vault"), "--local"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.umask", lambda mask: 0)
        patch.setattr(sys, "argv", ["proliferate.py", *places, *SHORT, *arguments])
        with pytest.raises(SystemExit) as ended:
            main(proliferate, parse)
    return ended.value.code


@pytest.fixture
def job(tmp_path: Path, capsys):
    """The main job: (status, output, error)."""

    def run(*arguments: str) -> tuple[int | str | None, str, str]:
        status = run_job(tmp_path, *arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("done")
    assert run_job(root) == 0
    return root


@pytest.fixture
def rerun(done: Path, job, tmp_path: Path):
    """The main job, where it was done once."""
    copytree(done, tmp_path, dirs_exist_ok=True)
    return job


def files_of(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_a_study_runs_to_its_report_and_runs_again_for_nothing(job, tmp_path: Path) -> None:
    status, said, error = job()
    assert (status, error) == (0, "")
    assert said.splitlines()[-1].endswith("store/digits/report/index.html")
    matrix = tmp_path / "store/digits/matrix/matrix.parquet"
    before, modified = matrix.read_bytes(), matrix.stat().st_mtime_ns
    status, said, _ = job()
    assert status == 0
    assert "keyed models: 2/2 already there" in said
    assert "attacks: 6/6 already there" in said
    assert (matrix.read_bytes(), matrix.stat().st_mtime_ns) == (before, modified)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--n-keys", "0"], "--n-keys is 0"),
        (["--n-keys", "-3"], "--n-keys is -3"),
        (["--block-size", "5"], "Blocks of 5 px do not tile images of 32 px"),
        (["--threats", "linf:-8/255"], "is not a positive number"),
        (["--threats", "linf:8"], "Did you mean linf:8/255"),
        (["--threats", "l3:1"], "'l3' is unknown"),
        (["--threats", "eight"], "NORM:EPSILON"),
        (["--attacks", "magic"], "'magic' is unknown"),
        (["--attacks", "apgd-ce:steps=0"], "at least 1"),
        (["--preset", "mnist"], "no preset mnist"),
        (["--data", ""], "--data"),
        (["--data", "/no/such/folder"], "Point --data"),
        (["--weights", "/no/such/file.safetensors"], "cannot be read"),
        (["--architecture.name", "resnet18"], "timm cannot build resnet18"),
        (["--architecture.classes", "5"], "outside 0..4"),
        (["--recipe.epochs", "0"], "epochs 0"),
        (["--workers-per-model", "0"], "--workers-per-model is 0"),
        (["--name", "a/b"], "cannot be a folder's name"),
        (["--store", "ftp://x/y"], "ftp://"),
        (["--vault", "sftp://x"], "sftp://"),
    ],
)
def test_wrong_input_ends_in_one_sentence_and_status_2(job, tmp_path, arguments, told) -> None:
    status, _, error = job(*arguments)
    assert status == 2
    assert told in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    # Wrong weights are met once keys and shards are there; everything else before anything is.
    assert (tmp_path / "store").exists() == ("--weights" in arguments)
    assert bool(files_of(tmp_path)) == ("--weights" in arguments)
    if files_of(tmp_path):  # where nothing was left, it would be the first run of a study once more
        assert job()[0] == 0


def test_a_vault_inside_the_store_is_refused(job, tmp_path: Path) -> None:
    status, _, error = job("--vault", str(tmp_path / "store/digits/vault"))
    assert status == 2
    assert "inside one another" in error
    assert not (tmp_path / "store").exists()
    (tmp_path / "detour").symlink_to(tmp_path / "store")
    for vault in (tmp_path / "store/vault", tmp_path / "x/../store/vault", tmp_path / "detour/v"):
        assert job("--vault", str(vault))[0] == 2


def test_a_store_that_cannot_be_written_is_told(job, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where a folder should be")
    status, _, error = job()
    assert status == 2
    assert "cannot be written" in error


def test_a_rerun_with_other_settings_is_refused_and_loses_nothing(rerun, tmp_path: Path) -> None:
    before = files_of(tmp_path)
    for change in (
        ["--seed", "1"],
        ["--recipe.epochs", "2"],
        ["--block-size", "4"],
        ["--eval-images", "30"],
    ):
        status, _, error = rerun(*change)
        assert status == 2, change
        assert "Rename the study" in error, change
    assert files_of(tmp_path) == before
    assert rerun()[0] == 0


def test_a_rerun_with_another_vault_is_refused(rerun, tmp_path: Path) -> None:
    status, _, error = rerun("--vault", str(tmp_path / "other"))
    assert status == 2
    assert "Point --vault to the vault this study was begun with" in error
    assert not (tmp_path / "other").exists()
    key = tmp_path / "vault/digits/00001.key"
    key.unlink()
    status, _, error = rerun("--n-keys", "3")
    assert status == 2
    assert "00001" not in files_of(tmp_path / "vault/digits")
    assert not key.exists()


def test_equal_spellings_of_an_attack_are_one_attack(rerun) -> None:
    status, said, _ = rerun("--attacks", "apgd-ce:steps=3,restarts=1", "apgd-ce:steps=3")
    assert status == 0
    assert "attacks: 6/6 already there" in said


def test_weights_of_another_architecture_are_refused(job, tmp_path: Path) -> None:
    other = replace(digits().architecture, width=32).build()
    safetensors.torch.save_file(other.state_dict(), tmp_path / "other.safetensors")
    status, _, error = job("--weights", str(tmp_path / "other.safetensors"))
    assert status == 2
    assert "another architecture" in error


def test_weights_brought_along_become_the_plain_model(job, tmp_path: Path) -> None:
    own = digits().architecture.build()
    safetensors.torch.save_file(own.state_dict(), tmp_path / "own.safetensors")
    status, said, _ = job("--weights", str(tmp_path / "own.safetensors"))
    assert status == 0
    assert "plain model: taking weights from" in said
    stored = (tmp_path / "store/digits/models/plain/weights.safetensors").read_bytes()
    assert safetensors.torch.load(stored)["norm.weight"].equal(own.state_dict()["norm.weight"])


def test_a_dry_run_prints_the_plan_and_makes_nothing(job, tmp_path: Path) -> None:
    status, said, _ = job("--dry-run", "--method", "both")
    assert status == 0
    rows = {line.split("│")[1].strip(): line for line in said.splitlines() if line.startswith("│")}
    # Per source: 40 images, 4 forwards and backwards of the attack, and at most two readings back and
    # two of each target; plain on 5, two keys of two methods on 3 each; clean readings of 5 models.
    forwards = 40 * (5 * (4 + 2) + 2 * (5 + 4 * 3)) + 40 * 5
    assert f"{forwards:,}" in rows["attacks"]
    assert f"{40 * 5 * 4:,}" in rows["attacks"]
    assert "2 × 1 GPU" in rows["lora models"]
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "vault").exists()


def test_a_dry_run_subtracts_what_is_there(rerun) -> None:
    status, said, _ = rerun("--dry-run", "--n-keys", "3")
    assert status == 0
    pending = {
        cells[1].strip(): (cells[2].strip(), cells[3].strip())
        for line in said.splitlines()
        if line.startswith("│")
        for cells in [line.split("│")]
    }
    assert pending["full models"] == ("2", "1")
    assert pending["attacks"] == ("6", "8")


def test_every_field_of_a_study_can_be_set_on_the_command_line() -> None:
    arguments = [
        "--preset", "imagenet", "--n-keys", "3", "--lora.lora-rank", "4",
        "--architecture.image-size", "384", "--threats", "l2:3", "--attacks", "apgd-ce",
        "--recipe.mixup", "0.5", "--crop-fraction", "1.0",
    ]  # fmt: skip
    study = parse(arguments).study
    assert (study.n_keys, study.lora.lora_rank, study.architecture.image_size) == (3, 4, 384)
    assert (study.threats, study.recipe.mixup, study.crop_fraction) == (("l2:3",), 0.5, 1.0)
    assert study.lora.learning_rate == imagenet().lora.learning_rate


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_are_frozen_all_the_way_down(preset: str) -> None:
    study = PRESETS[preset]()
    assert hash(study) == hash(PRESETS[preset]())
    for field in fields(study):
        value = getattr(study, field.name)
        assert not is_dataclass(value) or value.__dataclass_params__.frozen


def test_a_study_needs_attacks_and_threats() -> None:
    with pytest.raises(StudyError, match="at least one attack"):
        replace(digits(), attacks=())
    with pytest.raises(ThreatError):
        replace(digits(), threats=("linf:0",))


def test_a_unit_that_fails_does_not_stop_the_others(finished_study, store: LocalStore, vault: str) -> None:
    shard = store.root / "shards/eval/00001/images.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    run, said = run_locally(replace(finished_study, attacks=("apgd-ce:steps=2",)), store, vault)
    assert len(run.ending.failures) == 3
    assert all("DamagedArtifact" in failure.reason for failure in run.ending.failures)
    assert run.ending.report
    assert sum(line.split(" ", 2)[2].startswith("failed: ") for line in said) == 3


def test_cifar_like_parquet_with_a_corrupt_image_is_noted_in_the_report(job, tmp_path: Path) -> None:
    from test_shards import picture

    (tmp_path / "data").mkdir()
    for name, count in (("train", 80), ("test", 40)):
        images = [picture(number, 32, 32) for number in range(count)]
        images[7] = b"corrupt"
        labels = np.arange(count) % 10
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / f"data/{name}.parquet")
    status, _, error = job(
        "--preset", "cifar10", "--data", str(tmp_path / "data"), "--train-images", "0",
        "--architecture.depth", "1", "--architecture.width", "24", "--base.batch-size", "32",
        "--recipe.batch-size", "32", "--threats", "linf:8/255", "l2:0.5",
    )  # fmt: skip
    assert (status, error) == (0, "")
    report = (tmp_path / "store/cifar10/report/report.md").read_text()
    assert "2 images could not be read and were left out" in report
    table = pq.read_table(tmp_path / "store/cifar10/matrix/matrix.parquet").to_pylist()
    assert {row["norm"] for row in table} == {"linf", "l2"}
    assert {row["n"] for row in table} == {39}
