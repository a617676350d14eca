"""Detectors in a study: fitted after the attacks, tried on every source, counted into a matrix."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from conftest import run_locally, small_study
from jobs.detect import Options, detect
from orchestrator.attacks.threat import Threat
from orchestrator.cluster.workplace import LocalWorkplace
from orchestrator.detection.evasion import Evasion
from orchestrator.detection.guard.judged import JUDGED_SCHEMA
from orchestrator.detection.guard.matrix import build_guard_matrix
from orchestrator.detection.insiders import Insider
from orchestrator.detection.recipe import BankRecipe
from orchestrator.detection.rejection import Sweep
from orchestrator.errors import StudyError
from orchestrator.pipeline.command import reader
from orchestrator.pipeline.detected import stopped_tables
from orchestrator.pipeline.guard_price import detector_line
from orchestrator.pipeline.guards import DETECTION, DETECTION_FILE, Guards, recall_guards
from orchestrator.pipeline.informed import Informed, Limits
from orchestrator.pipeline.progress import PlainReporter
from orchestrator.pipeline.speed import Speed
from orchestrator.presets import digits
from orchestrator.store.local import LocalStore
from orchestrator.store.parquet import read_exactly
from orchestrator.transfer.matrix import Panel

SETTINGS = BankRecipe(
    neurons=20,
    proposals=100,
    kept=30,
    draw=5,
    effect=0.3,
    least_images=10,
    least_held_out=100,
)
STUDY = small_study(
    name="study",
    base=replace(digits().base, epochs=5, warmup_epochs=0.0),
    train_images=700,
    eval_images=360,
    shard_rows=180,
    attacks=("i-fgsm", "targeted-fgsm:steps=8"),
    threats=("linf:32/255",),
    detect=True,
    detector=SETTINGS,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("guards")


@pytest.fixture(scope="module")
def run(folder):
    """A study without detectors that is then asked for some: its images were not kept."""
    store, vault = LocalStore(folder / "store" / "study"), str(folder / "vault")
    run_locally(replace(STUDY, detect=False), store, vault)
    return run_locally(STUDY, store, vault)


@pytest.fixture(scope="module")
def site(run) -> LocalStore:
    return run[0].store


@pytest.fixture(scope="module")
def guards(site) -> Guards:
    return recall_guards(site, SETTINGS, ())


@pytest.fixture(scope="module")
def found(guards):
    return guards.findings()


def said_by(guards: Guards) -> list[str]:
    said: list[str] = []
    assert not guards.run(LocalWorkplace(), PlainReporter(said.append))
    return said


def test_a_study_that_asks_for_detectors_attacks_once_more_what_was_not_kept(run, site):
    _, said = run
    assert len(list(site.addresses("adversarial"))) == 12  # plain and two keys, two attacks, two shards
    assert any("detectors: 2/2" in line for line in said)
    assert not any("recorded by another driver" in line for line in said)


def test_every_key_has_a_detector_and_no_control_or_plain_has(site, guards):
    labels = [unit.model.label for unit in guards.units]
    assert len(labels) == 2
    assert sorted({address.split("/")[1] for address in site.addresses("detectors")}) == sorted(labels)
    for unit in guards.units:
        assert {each.source for each in unit.sittings} == {"clean", "plain", *labels}
        assert unit.fitted.keys() < site.stamps("adversarial").keys()
        assert all("targeted-fgsm" in address for address in unit.fitted)
        assert {address.split("/")[2] for address in unit.fitted} == {"plain", unit.model.label}


def test_findings_are_of_test_images_alone(site, guards, found):
    assert found.images["training"] == 700
    assert sum(found.images.values()) - 700 == 359  # 20 % of scikit-learn's digits
    assert found.images["fit"] > found.images["held-out"] > found.images["test"] > 40
    names = set(found.matrix.bare.table["n"].to_pylist())
    assert names == {found.images["test"]}


def test_the_detection_matrix_is_committed_with_its_counts(site, found):
    stored = read_exactly(site.read(DETECTION, DETECTION_FILE), found.matrix.table.schema)
    assert stored == found.matrix.table
    assert len(stored) == 2 * 3 * 2  # attacks, sources, targets: plain has no detector
    for row in stored.to_pylist():
        assert 0 <= row["stopped_at_0.01"] <= row["stopped_at_0.05"] <= row["fooled"] <= row["eligible"]
        assert row["adv_correct"] <= row["safe_at_0.01"] <= row["safe_at_0.05"] <= row["n"]


def test_what_is_seen_is_what_was_fitted_on(found):
    for line in found.sorts:
        fitted = line.panel.attack.startswith("targeted-fgsm") and line.origin != "another key"
        assert line.seen == fitted
        assert line.images > 0
        assert line.stopped[0.01].value <= line.stopped[0.05].value
        assert (line.roc.false_positives[-1], line.roc.true_positives[-1]) == (1.0, 1.0)
    assert {line.kind for line in found.harmless} == {
        "clean images", "clean images that are misread", "noise linf:32/255"
    }  # fmt: skip
    assert all(line.bare.value <= line.guarded[0.05].value for line in found.safe)
    accuracy = found.clean_accuracy["full"]
    assert accuracy[0.0].value >= accuracy[0.01].value >= accuracy[0.05].value


def test_a_second_look_makes_nothing_and_finds_the_same(site, guards, found):
    before = site.stamps("")
    assert any("already there" in line for line in said_by(guards))
    assert str(guards.findings()) == str(found)
    assert site.stamps("") == before


def test_what_is_lost_is_judged_again_alike(site, guards, found):
    unit = guards.units[0]
    lost = unit.address(unit.sittings[1])
    before = site.read(lost, "judged.parquet")
    site.delete(lost)
    said_by(guards)
    assert site.read(lost, "judged.parquet") == before


def test_without_one_models_detector_the_others_are_told(site, guards, found):
    unit = guards.units[0]
    lost = [unit.bank.address, *(unit.address(sitting) for sitting in unit.sittings)]
    for address in lost:
        site.delete(address)
    left = guards.findings()
    assert left.images == found.images
    assert set(left.matrix.table["target"].to_pylist()) == {guards.units[1].model.name}
    said_by(guards)
    assert str(guards.findings()) == str(found)


def test_other_settings_make_detectors_of_their_own_beside_the_first(site, guards):
    other = recall_guards(site, replace(SETTINGS, draw=3), ("i-fgsm",))
    said_by(other)
    assert len(list(site.addresses("detectors"))) == 4
    assert {line.panel.attack for line in other.findings().sorts if line.seen} == {"i-fgsm"}
    assert guards.findings() is not None


def test_a_model_that_cannot_be_watched_fails_by_itself(site):
    hopeless = recall_guards(site, replace(SETTINGS, effect=99.0), ())
    failures = hopeless.run(LocalWorkplace(), PlainReporter(lambda _: None))
    assert [failed.unit for failed in failures] == hopeless.units
    assert "No class can be watched" in failures[0].reason
    assert hopeless.findings() is None


def test_detectors_have_a_price_until_they_are_there(site, guards, store):
    there, before = (detector_line(guards.plan, each, Speed()) for each in (site, store))
    assert (there.done, there.pending, there.forwards) == (2, 0, 0)
    assert (before.done, before.pending) == (0, 2)
    # Twice over 700 training images and 179 to fit on, these thrice: clean, and moved on two sources.
    fitted, shown = 2 * (700 + 179 * 3) + 107, 71 * (2 + 1 + 3 * 2)
    assert before.forwards == 2 * (fitted + shown)
    assert before.gpu_hours > 0


def test_attacks_that_were_not_made_cannot_be_fitted_on(site, store):
    with pytest.raises(StudyError, match="cannot be fitted on fab-t"):
        recall_guards(site, SETTINGS, ("fab-t",))
    with pytest.raises(StudyError, match="No study was begun"):
        recall_guards(store, SETTINGS, ())


def test_findings_are_rows_of_tables(found):
    for table in stopped_tables(found):
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.header)}


def test_the_job_prints_the_tables(site, capsys):
    options = [f"--bank.{name}={getattr(SETTINGS, name)}" for name in ("neurons", "proposals", "kept")]
    options += ["--bank.draw=5", "--bank.effect=0.3", "--bank.least-images=10"]
    place = ["--store", str(site.root.parent), "--name", "study"]
    assert detect(reader(Options, "")([*place, *options])) == 0
    said = capsys.readouterr().out
    assert "What detectors stop" in said
    assert "AUROC" in said


# Those who know the bank, and rivals.


SMALL = BankRecipe(
    neurons=10,
    proposals=60,
    kept=20,
    draw=5,
    false_discoveries=1.0,
    effect=0.0,
    least_images=5,
    least_held_out=100,
    covariance=False,
    rule="ratio",
)


def informed(site, **limits) -> Informed:
    return Informed(guards=recall_guards(site, SMALL, ()), limits=Limits(images=8, **limits))


def test_all_three_tables_are_measured_from_the_store_alone(site):
    resampled = informed(site, draws=12).resampled(Sweep(kept=(), neurons=(), draw=()))
    assert not resampled.notes
    assert [each.seen for each in resampled.found] == [True, False]
    evasion = Evasion(steps=3, rule="ratio")
    insider = Insider(threats=(Threat("linf", 8 / 255),), evasion=evasion, draws=2)
    struck = informed(site, models=1).struck(insider)
    assert [each.attack for each in struck.found] == ["evasion", "targeted-fgsm", "apgd-ce"]
    contested = informed(site).contested()
    assert [each.detector for each in contested.found][-1] == "disagreement"
    alone = informed(site, models=1).contested().found[0]
    both = contested.found[0]
    assert len(both.clean) == 2 * len(alone.clean) > 0
    assert alone.clean.equal(both.clean[: len(alone.clean)])


def test_a_model_that_cannot_be_watched_is_told(site):
    strict = Informed(guards=recall_guards(site, replace(SMALL, effect=99.0), ()))
    collected = strict.contested()
    assert not collected.found
    assert len(collected.notes) == 2
    assert all("No class can be watched" in note for note in collected.notes.values())


# Counts.


def judged(*images) -> pa.Table:
    """Rows of images made on k-a and shown to k-b: (name, clean reading, reading, p-value); label 1."""
    facts = {
        "source": "k-a",
        "target": "k-b",
        "method": "full",
        "attack": "a",
        "norm": "linf",
        "epsilon": 0.1,
    }
    moved = {"label": 1, "moved": True, "score": 0.0}
    lines = [
        {**facts, **moved, "image": i, "clean_prediction": c, "adversarial_prediction": r, "p_value": p}
        for i, c, r, p in images
    ]
    return pa.Table.from_pylist(lines, JUDGED_SCHEMA)


def test_counts_of_known_rows():
    table = judged(
        ("fooled and stopped", 1, 2, 0.01),
        ("fooled, stopped at five", 1, 2, 0.05),
        ("fooled and passed", 1, 0, 0.6),
        ("read right", 1, 1, 0.9),
        ("read right and stopped", 1, 1, 0.001),
        ("never read right", 2, 2, 0.5),
    )
    matrix = build_guard_matrix([table], (0.01, 0.05), draws=10)
    (row,) = matrix.table.to_pylist()
    assert (row["n"], row["eligible"], row["fooled"], row["adv_correct"]) == (6, 5, 3, 2)
    assert (row["stopped_at_0.01"], row["stopped_at_0.05"]) == (1, 2)
    assert (row["safe_at_0.01"], row["safe_at_0.05"]) == (3, 4)
    pairs = matrix.stopped(Panel("full", "a", "linf", 0.1), 0.05)
    assert (pairs.hits[0, 0], pairs.trials[0, 0]) == (2, 3)
    assert pairs.hits.shape == (1, 11)
    assert pc.sum(matrix.table["n"]).as_py() == 6
