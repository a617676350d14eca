"""jobs/detect.py on a stored study: banks are made once, and tried on what they never saw."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import run_locally, small_study
from orchestrator.detection.recipe import BankRecipe
from orchestrator.errors import StaleArtifact, StudyError
from orchestrator.pipeline.detectors import Detectors, told
from orchestrator.presets import digits
from orchestrator.store.local import LocalStore

ROOT = Path(__file__).parent.parent
SETTINGS = BankRecipe(
    neurons=20,
    proposals=100,
    kept=30,
    draw=5,
    effect=0.3,
    least_images=10,
    least_held_out=100,
    covariance=False,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> LocalStore:
    folder = tmp_path_factory.mktemp("detectors")
    store = LocalStore(folder / "store" / "study")
    study = small_study(
        name="study",
        n_keys=1,
        base=replace(digits().base, epochs=5, warmup_epochs=0.0),
        train_images=700,
        eval_images=360,
        shard_rows=180,
        attacks=("targeted-fgsm:steps=8", "i-fgsm"),
        threats=("linf:32/255",),
    )
    run_locally(study, store, str(folder / "vault"), {"keep_images": True})
    return store


@pytest.fixture(scope="module")
def found(site):
    return list(Detectors(store=site, settings=SETTINGS, fit_on=("targeted-fgsm-steps8",)).run())


def test_every_keyed_model_has_a_detector_tried_on_every_sort_of_images(site, found):
    assert [findings.model.partition(".")[2] for findings in found] == ["full"]
    for findings in found:
        assert site.has(f"detectors/{findings.model}")
        assert findings.fitted == {"targeted-fgsm-steps8"}
        sorts = [(each.sort.attack, each.sort.origin) for each in findings.tried]
        assert sorts == [(a, o) for a in ("i-fgsm", "targeted-fgsm-steps8") for o in ("own key", "plain")]
        assert findings.clean_images > 40
        assert all(share.rate < 0.25 for share in findings.clean.values())
        # A model of seconds, with a key of its own at every run, reads little: only counts are certain.
        assert 0 < sum(each.images for each in findings.tried) < 4 * findings.clean_images
        for each in findings.tried:
            assert each.images == 0 or each.stopped[0.05].rate >= each.stopped[0.01].rate


def test_the_same_findings_come_from_the_stored_bank(site, found):
    again = list(Detectors(store=site, settings=SETTINGS, fit_on=("targeted-fgsm-steps8",)).run())
    assert str(again) == str(found)
    with pytest.raises(StaleArtifact, match="detectors/"):
        list(Detectors(store=site, settings=SETTINGS).run())


def test_findings_are_rows_of_a_table(found):
    rows = list(told(found[0]))
    assert rows[0][1] == "clean"
    assert rows[1][1] == "i-fgsm linf:32/255 own key"
    assert rows[1][2] == "no"
    assert {row[2] for row in rows[3:5]} == {"yes"}
    assert all(len(row) == 8 for row in rows[:5])


def test_a_model_that_cannot_be_watched_is_told_and_others_go_on(site, found):
    site.delete(f"detectors/{found[0].model}")
    strict = replace(SETTINGS, effect=99.0)
    findings = list(Detectors(store=site, settings=strict).run())
    assert len(findings) == 1
    assert "none of its fingerprints tells clean from attacked" in findings[0].notes["all classes"]
    assert len(list(told(findings[0]))) == 1


def test_attacks_that_were_not_kept_cannot_be_fitted_on(site, store):
    with pytest.raises(StudyError, match="Images of fab-t are not kept here"):
        list(Detectors(store=site, settings=SETTINGS, fit_on=("fab-t",)).run())
    with pytest.raises(StudyError, match="No study was begun"):
        list(Detectors(store=store, settings=SETTINGS).run())


def test_the_job_prints_the_table(site):
    command = [
        sys.executable,
        str(ROOT / "jobs/detect.py"),
        "--store",
        str(site.root.parent),
        "--name",
        "study",
    ]
    options = [
        "--bank.proposals",
        "60",
        "--bank.kept",
        "20",
        "--bank.draw",
        "5",
        "--bank.least-images",
        "10",
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "what detectors stop" in done.stdout
    assert "AUROC" in done.stdout
