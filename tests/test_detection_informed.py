"""What is told honestly of a bank: rejection sampling, attacks on both, and rivals, on one small scene."""

from dataclasses import replace

import pytest
import torch
from detection_scene import RECIPE, halves, watched
from test_detection_rivals import tuned_further

from orchestrator.attacks.threat import Threat
from orchestrator.detection.evasion import Evasion
from orchestrator.detection.fit import fit_bank
from orchestrator.detection.insiders import EVASION, Insider, Struck
from orchestrator.detection.origin import Sort
from orchestrator.detection.rejection import Resampled, Sweep, resample
from orchestrator.detection.rivals.contest import SECRETS, Contested, contest
from orchestrator.detection.subject import Subject
from orchestrator.errors import DataError
from orchestrator.pipeline.informed_rows import (
    CONTESTED,
    RESAMPLED,
    STRUCK,
    told_contested,
    told_resampled,
    told_struck,
)

SEEN, UNSEEN = (Sort(attack, "linf", 16 / 255, "own key") for attack in ("i-fgsm", "other"))
SWEEP = Sweep(kept=(5,), neurons=(), draw=(1, RECIPE.draw))


@pytest.fixture(scope="module")
def subject() -> Subject:
    scene = watched()
    fit = scene.fit(covariance=False)
    test = halves(scene.attacked["test"])
    weaker = [replace(part, images=(part.images + part.originals) / 2) for part in test]
    smaller = Sort("i-fgsm", "linf", 8 / 255, "own key")
    return Subject(
        model=scene.model,
        fit=fit,
        feed=scene.feed,
        bank=fit_bank(scene.model, fit, scene.feed),
        clean=halves(scene.clean["test"]),
        attacked={SEEN: test, UNSEEN: test[:1], smaller: weaker},
        fitted=frozenset({"i-fgsm"}),
    )


def test_only_moved_images_count_that_were_read_right_and_are_misread(subject):
    parts = subject.attacked[SEEN]
    examples = subject.fooling(SEEN, 10_000)
    assert 0 < len(examples.labels) < sum(len(part.labels) for part in parts)
    assert (subject.model(examples.images).argmax(dim=1) != examples.labels).all()
    assert (subject.model(examples.originals).argmax(dim=1) == examples.labels).all()
    still = [replace(part, images=part.originals) for part in parts]
    unmoved = replace(subject, attacked={SEEN: still})
    assert len(unmoved.fooling(SEEN, 10).labels) == 0
    assert torch.equal(subject.fooling(SEEN, 7).images, examples.images[:7])
    right = subject.read_right(9)
    assert len(right.labels) == 9
    assert (subject.model(right.images).argmax(dim=1) == right.labels).all()
    with pytest.raises(DataError, match="There are no test images"):
        replace(subject, clean=[]).read_right(3)
    assert set(subject.widest()) == {SEEN, UNSEEN}


def test_a_bank_of_another_draw_is_the_one_that_would_be_fitted(subject):
    recipe = replace(subject.fit.recipe, draw=3)
    wanted = fit_bank(subject.model, replace(subject.fit, recipe=recipe), subject.feed)
    found = subject.bank_of(recipe)
    assert found.draw == wanted.draw == 3
    assert torch.equal(found.fingerprints.members, wanted.fingerprints.members)
    assert torch.equal(found.calibration.scores["ratio"], wanted.calibration.scores["ratio"])
    assert subject.bank_of(subject.fit.recipe) is subject.bank


def test_rejection_sampling_is_measured_for_every_size_beside_detectors_that_drew_once(subject):
    found = list(resample(subject, SWEEP, most=40, rate=0.05, draws=12))
    sizes = [(20, 8, 6), (5, 8, 6), (20, 8, 1)]
    assert [(each.size, each.seen) for each in found] == [
        (s, seen) for s in sizes for seen in (True, False)
    ]
    assert found[0].fresh.shape == found[0].static.shape == (40, 12)
    assert max(found[2].kept) == 5
    before, after = found[0].after((0, 5))
    assert before.stopped.rate > after.stopped.rate
    # As many fingerprints from as many: every draw is the whole bank, and none is fresh.
    assert found[2].after((1,))[0].stopped.rate == 0
    twice = Resampled.joined([*found, *found])
    assert len(twice) == len(found)
    assert len(twice[0].fresh) == 80
    assert twice[0].stopped_once.rate == pytest.approx(found[0].stopped_once.rate)
    rows = list(told_resampled(found))
    assert all(len(row) == len(RESAMPLED) for row in rows)
    least, most = min(found[0].kept), max(found[0].kept)
    assert least < most == 20
    assert rows[0][:5] == [f"20 ({least}–20)", "8", "6", "yes", "40"]
    assert rows[-1][3] == "no"


def test_a_size_of_which_nothing_is_kept_is_said(subject):
    strict = replace(subject, fit=replace(subject.fit, recipe=replace(RECIPE, effect=99.0)))
    with pytest.raises(DataError, match="No class can be watched"):
        list(resample(strict, SWEEP, most=10, rate=0.05, draws=11))


def test_insiders_and_those_who_know_no_detector_attack_the_same_images(subject):
    insider = Insider(threats=(Threat("linf", 32 / 255),), evasion=Evasion(steps=20, rule="ratio"), draws=8)
    found = list(insider.strike(subject, 24))
    assert [each.attack for each in found] == [EVASION, "targeted-fgsm", "apgd-ce"]
    assert {len(each.fooled) for each in found} == {24}
    evasion, unaware, _ = found
    assert evasion.stopped.shape == (int(evasion.fooled.sum()), 8)
    assert evasion.fooling.rate > 0.5
    assert evasion.caught.rate < unaware.caught.rate
    assert evasion.through.rate == pytest.approx(evasion.fooling.rate * (1 - evasion.caught.rate))
    twice = Struck.joined([*found, *found])
    assert [len(each.fooled) for each in twice] == [48] * 3
    assert twice[0].caught.rate == pytest.approx(evasion.caught.rate)
    rows = list(told_struck(found))
    assert all(len(row) == len(STRUCK) for row in rows)
    assert rows[0][:3] == ["linf:32/255", "evasion", "24"]


def test_bank_and_rivals_judge_the_same_images_at_what_they_cost(subject):
    other = tuned_further(subject.model, watched())
    found = list(contest(subject, other, most=40))
    assert [each.detector for each in found] == list(SECRETS)
    assert [each.passes for each in found] == [0, 2, 0, 1]
    assert {len(each.attacked[SEEN]) for each in found} == {40}
    assert all(share.rate < 0.15 for each in found for share in each.stopped().values())
    assert found[0].auroc(SEEN).rate > 0.75
    assert not subject.model._forward_hooks
    assert len(list(contest(subject, None, most=5))) == 3
    few = [part.part((part.labels != 1).nonzero()[:, 0]) for part in subject.feed.clean]
    lacking = list(contest(replace(subject, feed=replace(subject.feed, clean=few)), None, most=5))
    assert [len(each.clean) > 0 for each in lacking] == [True, True, False]
    assert ["Mahalanobis", *lacking[2].notes] in list(told_contested(lacking))
    assert "Class 1 has no clean image that is read right" in lacking[2].notes[0]
    twice = Contested.joined([*found, *found])
    assert twice[0].auroc(SEEN).rate == pytest.approx(found[0].auroc(SEEN).rate)
    assert len(twice[0].clean) == 2 * len(found[0].clean)
    rows = list(told_contested(found))
    assert all(len(row) == len(CONTESTED) for row in rows)
    assert len(rows) == 4 * (1 + len(subject.attacked))
    seen = {(row[0], row[1]): row[2] for row in rows}
    assert seen[("bank", "i-fgsm linf:16/255")] == "yes"
    assert seen[("bank", "other linf:16/255")] == seen[("Mahalanobis", "i-fgsm linf:16/255")] == "no"
