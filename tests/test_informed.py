"""Informed attackers and rivals on a stored study: every keyed model is measured, all are told as one."""

from dataclasses import replace

import pytest

from conftest import run_locally, small_study
from orchestrator.attacks.threat import Threat
from orchestrator.detection.evasion import Evasion
from orchestrator.detection.insiders import Insider
from orchestrator.detection.recipe import BankRecipe
from orchestrator.detection.rejection import Sweep
from orchestrator.pipeline.guards import recall_guards
from orchestrator.pipeline.informed import Informed, Limits
from orchestrator.presets import digits
from orchestrator.store.local import LocalStore

SETTINGS = BankRecipe(
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


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> LocalStore:
    folder = tmp_path_factory.mktemp("informed")
    store = LocalStore(folder / "store" / "study")
    study = small_study(
        name="study",
        base=replace(digits().base, epochs=5, warmup_epochs=0.0),
        train_images=700,
        eval_images=180,
        shard_rows=180,
        attacks=("targeted-fgsm:steps=8",),
        threats=("linf:32/255",),
    )
    run_locally(study, store, str(folder / "vault"), {"keep_images": True})
    return store


def informed(site, **limits) -> Informed:
    return Informed(guards=recall_guards(site, SETTINGS, ()), limits=Limits(images=8, **limits))


def test_all_three_tables_are_measured_from_the_store_alone(site):
    resampled = informed(site, draws=12).resampled(Sweep(kept=(), neurons=(), draw=()))
    assert not resampled.notes
    assert [each.seen for each in resampled.found] == [True]
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
    strict = Informed(guards=recall_guards(site, replace(SETTINGS, effect=99.0), ()))
    collected = strict.contested()
    assert not collected.found
    assert len(collected.notes) == 2
    assert all("No class can be watched" in note for note in collected.notes.values())
