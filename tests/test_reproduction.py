"""The paper's study as one command: run whole on a tiny scale, resumed for nothing, priced; its page."""

import csv
import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_report import Page, make_row, make_summary

from conftest import small_study
from jobs.ingest import ingest
from jobs.reproduce import reproduce
from orchestrator.cluster.workplace import LocalWorkplace
from orchestrator.models.backbone import Architecture, patch_size_of
from orchestrator.pipeline.command import main, parse
from orchestrator.pipeline.progress import PlainReporter
from orchestrator.pipeline.series import parse_series
from orchestrator.pipeline.speed import Speed, flops_of
from orchestrator.pipeline.stages import StudyRun
from orchestrator.presets import digits, imagenet
from orchestrator.report.reproduction.beside import budget_table
from orchestrator.report.reproduction.page import write_reproduction
from orchestrator.report.reproduction.published import counterpart
from orchestrator.report.reproduction.reproduced import Reproduced, Strand, lines
from orchestrator.shards.shard import read_pixels
from orchestrator.store.local import LocalStore

TINY = [
    "--preset", "digits", "--name", "tiny", "--local", "--method", "full", "--n-keys", "2",
    "--block-sizes", "4", "8", "--base.epochs", "1", "--recipe.epochs", "1",
    "--train-images", "64", "--eval-images", "20", "--shard-rows", "20",
    "--attacks", "apgd-ce:steps=2", "--threats", "linf:4/255", "linf:8/255", "l2:0.5",
]  # fmt: skip

SHORT = ["--local", "--shard-rows", "2", "--n-keys", "1"]


@pytest.fixture
def call(tmp_path: Path, monkeypatch, capsys):
    """A job as a person runs it, in this process: (status, output, error)."""
    monkeypatch.setattr("os.umask", lambda mask: 0)

    def run(job, read, *arguments: str) -> tuple[int, str, str]:
        places = ["--store", str(tmp_path / "store"), "--vault", str(tmp_path / "vault")]
        monkeypatch.setattr(sys, "argv", ["job.py", *places, *arguments])
        with pytest.raises(SystemExit) as ended:
            main(job, read)
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


def times(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_the_whole_runs_shares_what_it_can_and_runs_again_for_nothing(call, tmp_path: Path) -> None:
    status, said, error = call(reproduce, parse_series, *TINY)
    assert (status, error) == (0, "")
    place = tmp_path / "store/tiny/reproduction"
    assert said.splitlines()[-1].endswith(f"{place}/index.html")
    first, second = (tmp_path / "store" / name for name in ("tiny-m4", "tiny-m8"))
    # Five shards and the plain model were made once; keys are each study's own.
    assert "taken over: 6/6" in said
    assert LocalStore(second).record("models/plain").provenance["taken_from"] == str(first)
    weights = [path / "models/plain/weights.safetensors" for path in (first, second)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert {p.name for p in first.glob("models/k-*")}.isdisjoint(p.name for p in second.glob("models/k-*"))

    table = pq.read_table(second / "matrix/matrix.parquet").to_pylist()
    robust = [
        row["adv_correct"] / row["n"]
        for row in table
        if row["source"] == "plain" and row["method"] == "full" and row["norm"] == "linf"
        if row["epsilon"] == 8 / 255 and row["target"] != "plain"
    ]
    assert len(robust) == 2
    markdown = (place / "reproduction.md").read_text()
    row = next(line for line in markdown.splitlines() if line.startswith("| Full | 8 (16) |"))
    cells = [cell.strip() for cell in row.split("|")[3:-1]]
    assert cells[2].startswith(f"{100 * np.mean(robust):.1f} \\[")
    assert cells[1::2] == ["82.02", "78.69", "79.58", "0.89"]
    assert Page((place / "index.html").read_text()).seen["svg"] == 2  # a Fig. 4 for each block size

    before = times(tmp_path)
    status, said, _ = call(reproduce, parse_series, *TINY)
    assert status == 0
    assert said.count("attacks: 9/9 already there") == 2
    assert "taken over" not in said
    assert times(tmp_path) == before


def test_what_a_relative_has_by_another_recipe_or_damaged_is_made_here(tmp_path: Path, vault: str) -> None:
    giver, taker = (LocalStore(tmp_path / "store" / name) for name in ("giver", "taker"))
    said: list[str] = []
    options = (vault, LocalWorkplace(), PlainReporter(said.append))
    StudyRun(small_study(name="giver", eval_images=10), giver, *options).ingest()
    damaged = tmp_path / "store/giver/shards/train/00002/images.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    said.clear()
    study = small_study(name="taker", eval_images=20, n_keys=1)
    ending = StudyRun(study, taker, *options, relatives=[giver]).run()
    assert ending.failures == []
    # Seven shards to train on are the same; those to attack hold other images, and no model was there.
    assert any("taken over: 6/7, 1 failed" in line for line in said)
    assert any("shards/train/00002 is not taken over: DamagedArtifact" in line for line in said)
    taken = [
        address for address in taker.addresses("shards") if "taken_from" in taker.record(address).provenance
    ]
    assert len(taken) == 6
    assert len(read_pixels(taker, "shards/train/00002").names) == 20


def test_seeds_share_shards_and_have_plain_models_of_their_own(call, tmp_path: Path) -> None:
    one = ["--block-sizes", "8", "--n-keys", "1", "--threats", "linf:8/255", "--seeds", "2"]
    status, said, _ = call(reproduce, parse_series, *TINY, *one)
    assert status == 0
    assert "taken over: 5/5" in said
    models = [tmp_path / "store" / name / "models/plain" for name in ("tiny-m8", "tiny-m8-s1")]
    assert len({(place / "weights.safetensors").read_bytes() for place in models}) == 2
    rows = list(csv.DictReader(io.StringIO((tmp_path / "store/tiny/reproduction/cells.csv").read_text())))
    ours = {
        row["seed"]: float(row["ours"])
        for row in rows
        if row["method"] == "full" and row["quantity"] == "clean"
    }
    assert ours["all"] == pytest.approx((ours["0"] + ours["1"]) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--block-size", "4"], "Give --block-sizes, not --block-size"),
        (["--block-sizes", "8", "8"], "one of them twice"),
        (["--block-sizes", "5"], "do not tile"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--table-threat", "linf:3/255"], "linf:3/255 is not attacked"),
        (["--gpu.utilisation", "0"], "--gpu.utilisation is 0"),
        (["--gpu.lora-images", "-1"], "--gpu.lora-images is -1"),
    ],
)
def test_what_does_not_fit_ends_in_one_sentence_and_status_2(call, tmp_path, arguments, told) -> None:
    status, said, error = call(reproduce, parse_series, *TINY, *arguments)
    assert (status, said) == (2, "")
    assert told in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("preset", "blocks"), [("digits", [4, 8, 16]), ("cifar10", [8, 16]), ("imagenet", [4, 8, 16])]
)
def test_presets_are_whole_and_their_blocks_stand_beside_the_papers(preset: str, blocks: list[int]) -> None:
    command = parse_series(["--preset", preset])
    trials = command.reproduction.trials
    patch = patch_size_of(command.study.architecture.build())
    assert [counterpart(trial.block_size, patch) for trial in trials] == blocks
    assert [trial.study.name for trial in trials] == [f"paper-{preset}-m{t.block_size}" for t in trials]
    assert {"l2:0.5", "l2:2", "l2:3", command.table_threat} <= set(command.study.threats)
    assert command.study.methods == ("full", "lora")


def test_a_dry_run_prices_every_study_and_what_is_shared_once(call, tmp_path: Path) -> None:
    status, said, _ = call(reproduce, parse_series, *TINY, "--dry-run")
    assert status == 0
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if line[:1] == "│"
    ]
    plain = [row for row in rows if row[0] == "plain models"]
    assert [row[3] for row in plain] == ["1 × 1 GPU", "taken over"]
    assert [row[4] for row in plain] == ["64", "0"]
    # Per source and threat 20 images, 3 passes each way, two readings of 3 targets and of the source.
    attacks = 3 * 3 * 20 * (3 + 2 * (1 + 3)) + 3 * 20
    assert [row[4] for row in rows if row[0] == "attacks"] == [f"{attacks:,}"] * 2
    total = rows[-1]
    assert total[4] == f"{64 + 2 * (2 * 64 + attacks):,}"
    assert not (tmp_path / "store").exists()


def test_flops_of_the_papers_model_are_those_counted_by_hand() -> None:
    tokens, width, blocks = 14 * 14 + 1, 768, 12
    products = (
        blocks * (12 * tokens * width**2 + 2 * tokens**2 * width) + 14 * 14 * 768 * width + width * 1000
    )
    assert flops_of(imagenet().architecture) == pytest.approx(2 * products, rel=1e-3)


def test_hours_follow_the_stated_formula_or_a_measured_rate() -> None:
    tiny: Architecture = digits().architecture
    second = flops_of(tiny) / (100e12 * 0.5)
    speed = Speed(tflops=100.0, fp32_tflops=10.0, utilisation=0.5)
    assert speed.training_hours(tiny, "full", 1000, "bf16") == pytest.approx(3 * 1000 * second / 3600)
    assert speed.training_hours(tiny, "lora", 1000, "bf16") == pytest.approx(2 * 1000 * second / 3600)
    assert speed.attack_hours(tiny, 1000, "fp32") == pytest.approx(10 * 1000 * second / 3600)
    measured = replace(speed, full_images=50.0, lora_images=200.0, attack_passes=400.0)
    hours = [measured.training_hours(tiny, method, 3600, "bf16") for method in ("plain", "full", "lora")]
    assert [*hours, measured.attack_hours(tiny, 3600, "fp32")] == pytest.approx([0.02, 0.02, 0.005, 0.0025])


@pytest.mark.parametrize(
    ("side", "patch", "theirs"),
    [(4, 16, 4), (16, 16, 16), (2, 8, 4), (8, 8, 16), (2, 4, 8), (1, 16, None), (3, 8, None)],
)
def test_a_block_stands_beside_the_one_that_is_the_same_share_of_its_patch(side, patch, theirs) -> None:
    assert counterpart(side, patch) == theirs


def strand(block_size: int, seed: int, clean: int, robust: dict[str, int]) -> Strand:
    """A study of three keys, full and LoRA, 200 images a cell; ``robust``: read right, by method."""
    keys = [f"k-{block_size}{seed}{name}" for name in "abc"]
    rows = [make_row(("plain", "apgd", "linf", 4 / 255), "plain", "plain", clean=170, adversarial=0)]
    for method in ("full", "lora"):
        panel = (method, "apgd", "linf", 4 / 255)
        rows += [make_row(panel, "plain", key, clean=clean, adversarial=150) for key in keys]
        rows += [
            make_row(panel, source, key, clean=clean, adversarial=robust[method])
            for source in keys
            for key in keys
        ]
    return Strand(block_size, seed, make_summary(rows, methods=("full", "lora"), study=f"s{seed}"))


def reproduced(*strands: Strand) -> Reproduced:
    return Reproduced(name="whole", patch_size=16, table_epsilon=4 / 255, strands=strands)


def test_every_cell_of_table_one_stands_beside_the_papers() -> None:
    found = reproduced(
        strand(4, 0, 160, {"full": 155, "lora": 20}), strand(16, 0, 160, {"full": 155, "lora": 2})
    )
    table = budget_table(found, found.budgets[0])
    rows = {(row[0], row[1]): row[2:] for row in table.rows}
    assert rows["Plain", "–"] == ["85.0", "85.10", "0.0", "0.00", "–", "–", "–", "–"]
    assert rows["Full", "4 (4)"] == ["80.0", "83.40", "75.0", "78.76", "77.5", "81.45", "2.5", "2.69"]
    assert rows["LoRA", "4 (4)"] == ["80.0", "81.12", "75.0", "78.44", "10.0", "51.56", "-65.0", "-26.88"]
    assert rows["LoRA", "16 (16)"][4:6] == ["1.0", "0.73"]


def test_seeds_are_pooled_with_every_key_of_all_of_them() -> None:
    found = reproduced(
        strand(4, 0, 160, {"full": 150, "lora": 20}), strand(4, 1, 180, {"full": 170, "lora": 20})
    )
    full = next(line for line in lines(found, found.budgets[0]) if line.method == "full")
    assert (full.clean.value, full.adaptive.value) == pytest.approx((0.85, 0.8))
    assert len(full.adaptive.without) == 6
    files = write_reproduction(found)
    assert "Seed by seed" in files["index.html"].decode()
    assert write_reproduction(found) == files
    rows = list(csv.DictReader(io.StringIO(files["cells.csv"].decode())))
    assert {row["seed"] for row in rows} == {"all", "0", "1"}


def test_a_study_without_a_method_or_an_l2_threat_still_has_a_page() -> None:
    found = reproduced(Strand(16, 0, make_summary([])))
    page = Page(write_reproduction(found)["index.html"].decode())
    assert "Nothing was attacked" in page.text


def test_images_are_taken_in_apart_and_those_left_out_are_listed(call, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(6):
            folder = tmp_path / "data" / split / f"class{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 255, (40, 40, 3), np.uint8)).save(
                folder / f"{number}.png"
            )
    (tmp_path / "data/train/class1/3.png").write_bytes(b"no image")
    study = [*SHORT, "--data", str(tmp_path / "data"), "--architecture.classes", "2"]
    status, said, error = call(ingest, parse, *study)
    assert (status, error) == (0, "")
    assert "left out: train/class1/3.png" in said.splitlines()
    row = next(line for line in said.splitlines() if "│ train" in line)
    assert [cell.strip() for cell in row.split("│")[1:5]] == ["train", "3", "5", "1"]
    assert not (tmp_path / "vault").exists()
    before = times(tmp_path / "store/digits/shards")
    status, said, _ = call(ingest, parse, *study)
    assert status == 0
    assert "shards: 6/6 already there" in said
    assert "left out: train/class1/3.png" in said.splitlines()
    assert times(tmp_path / "store/digits/shards") == before
