"""Numbers that detectors stand on: moments, selection, scores, shrinkage, thresholds and measures."""

import importlib.util
import itertools
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.covariance import OAS
from sklearn.metrics import roc_auc_score

from orchestrator.detection.calibration import Calibration
from orchestrator.detection.draws import draw, draw_seeds
from orchestrator.detection.measures import auroc, flagged_at
from orchestrator.detection.moments import Moments, merge
from orchestrator.detection.proposals import propose
from orchestrator.detection.recipe import BankRecipe
from orchestrator.detection.scores import SCORES, Drawn, Gaussians
from orchestrator.detection.selection import choose, effects
from orchestrator.detection.shrinkage import shrunk
from orchestrator.errors import DataError, StudyError


def normal(*shape, seed=0, mean=0.0, std=1.0):
    generator = torch.Generator().manual_seed(seed)
    return mean + std * torch.randn(*shape, generator=generator, dtype=torch.float64)


def one_row(values, **options):
    return Moments.of(values, torch.zeros(len(values), dtype=torch.int64), 1, **options)


# Moments.


@settings(max_examples=25)
@given(st.lists(st.integers(0, 40), max_size=5), st.floats(-1e6, 1e6))
def test_moments_merged_in_any_split_are_those_of_all_values(cuts, shift):
    values = normal(40, 3, mean=shift)
    rows = torch.arange(40) % 2
    ends = [0, *sorted(cuts), 40]
    parts = [slice(start, end) for start, end in itertools.pairwise(ends)]
    merged = merge(Moments.of(values[part], rows[part], 2, products=True) for part in parts)
    for row in (0, 1):
        own = values[rows == row].numpy()
        np.testing.assert_allclose(merged.mean[row], own.mean(axis=0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(merged.std[row], own.std(axis=0, ddof=1), rtol=1e-9)
        np.testing.assert_allclose(merged.correlation[row], np.corrcoef(own.T), rtol=0, atol=1e-9)
    assert merged.count.tolist() == [20, 20]


def test_a_row_without_values_has_a_count_of_nothing_and_spoils_nothing():
    empty, full = Moments.of(normal(0, 2), torch.zeros(0, dtype=torch.int64), 1), one_row(normal(9, 2))
    for merged in (empty.merged(full), full.merged(empty)):
        assert torch.equal(merged.mean, full.mean)
        assert torch.equal(merged.std, full.std)
    assert empty.std.tolist() == [[0, 0]]


# Proposals and draws.


@pytest.mark.parametrize("total", [20, 5000])
def test_proposals_are_subsets_and_every_neuron_is_as_likely(total):
    drawn = propose(1, "model", "0", proposals=2000, neurons=10, total=total).long()
    assert (drawn[:, 1:] > drawn[:, :-1]).all()
    seen = torch.bincount(drawn.flatten(), minlength=total)
    wanted = 2000 * 10 / total
    chi = ((seen - wanted) ** 2 / wanted).sum().item()
    # Draws without repetition spread a little less than a multinomial.
    assert chi < stats.chi2(total - 1).ppf(0.9999)
    assert torch.equal(drawn, propose(1, "model", "0", proposals=2000, neurons=10, total=total))
    for other in ((2, "model", "0"), (1, "another", "0"), (1, "model", "1")):
        assert not torch.equal(drawn, propose(*other, proposals=2000, neurons=10, total=total).long())


def test_a_fingerprint_larger_than_the_model_is_refused():
    with pytest.raises(StudyError, match="50 neurons cannot be drawn from 49"):
        propose(1, "model", "0", proposals=5, neurons=50, total=49)


def test_draws_are_fresh_unless_seeded_and_all_fingerprints_are_as_likely():
    kept = torch.full((3000,), 7)
    places, real = draw(draw_seeds(range(3000), 3), kept, 10, 4)
    assert real.all()
    assert places.max() < 7
    assert all(len(set(row)) == 4 for row in places.tolist())
    share = torch.bincount(places.flatten(), minlength=7) / 3000
    assert (share - 4 / 7).abs().max() < 4 * (4 / 7 * 3 / 7 / 3000) ** 0.5
    assert torch.equal(places, draw(draw_seeds(range(3000), 3), kept, 10, 4)[0])
    fresh = [draw(draw_seeds(range(3000), None), kept, 10, 4)[0] for _ in range(2)]
    assert not torch.equal(*fresh)


def test_a_class_with_few_fingerprints_has_all_of_them_drawn():
    places, real = draw(draw_seeds(range(5), 3), torch.tensor([2, 0, 3, 10, 2]), 10, 4)
    assert real.sum(dim=1).tolist() == [2, 0, 3, 4, 2]
    assert sorted(places[2][real[2]].tolist()) == [0, 1, 2]


# Selection.


def sides(clean, attacked):
    return one_row(clean), one_row(attacked)


def test_fingerprints_are_chosen_by_welchs_test_and_the_size_of_the_effect():
    shift = torch.linspace(0, 1.5, 60, dtype=torch.float64)
    clean, attacked = normal(50, 60), shift + normal(80, 60, seed=1, std=2.0)
    recipe = BankRecipe(kept=100, effect=0.2, false_discoveries=0.05)
    places = choose(*sides(clean, attacked), recipe, 0)[0].places
    chances = stats.ttest_ind(clean.numpy(), attacked.numpy(), equal_var=False).pvalue
    kept = stats.false_discovery_control(chances) <= 0.05
    pooled = np.sqrt(
        (49 * clean.numpy().var(axis=0, ddof=1) + 79 * attacked.numpy().var(axis=0, ddof=1)) / 128
    )
    d = (clean.mean(dim=0) - attacked.mean(dim=0)).numpy() / pooled
    assert places.tolist() == np.flatnonzero(kept & (abs(d) >= 0.2)).tolist()
    assert 10 < len(places) < 50
    top = choose(*sides(clean, attacked), BankRecipe(kept=5, effect=0.2), 0)[0].places
    assert set(top.tolist()) == set(np.argsort(-abs(d))[:5].tolist())
    some = [
        choose(*sides(clean, attacked), BankRecipe(kept=5, keep="random"), s)[0].places for s in (1, 1, 2)
    ]
    assert torch.equal(some[0], some[1])
    assert some[0].tolist() != some[2].tolist()


def test_of_fingerprints_that_differ_by_chance_alone_few_are_chosen():
    found = [
        len(
            choose(
                *sides(normal(40, 200, seed=s), normal(40, 200, seed=99 - s)), BankRecipe(effect=0.0), 0
            )[0].places
        )
        for s in range(20)
    ]
    assert sum(count > 0 for count in found) <= 3  # at 1 % each, three of twenty has a chance of 0.001


def test_identical_fingerprints_of_clean_and_attacked_fail_loudly():
    clean = normal(50, 30)
    with pytest.raises(DataError, match="50 clean and 50 attacked images are identical"):
        choose(*sides(clean, clean.flip(0)), BankRecipe(), 0)


def test_fingerprints_that_do_not_vary_are_not_chosen():
    clean, attacked = normal(50, 3), normal(50, 3, seed=1, mean=2.0)
    clean[:, 1], attacked[:, 1] = 1.0, 5.0
    assert choose(*sides(clean, attacked), BankRecipe(), 0)[0].places.tolist() == [0, 2]


# Scores.


@pytest.fixture(scope="module")
def released():
    """The authors' class; their wheel lacks its own logger, which says nothing that matters here."""
    if importlib.util.find_spec("fingerprints_armor") is None:
        pytest.skip("pip install --no-deps fingerprints-armor==1.0.1")
    logger = types.ModuleType("src.logger_config")
    logger.get_logger = __import__("logging").getLogger
    sys.modules |= {"src": types.ModuleType("src"), "src.logger_config": logger}
    try:
        from fingerprints_armor import fingerprints
    finally:
        del sys.modules["src"], sys.modules["src.logger_config"]
    return fingerprints


def test_scores_are_those_of_the_released_code_on_the_same_neurons(released):
    members = propose(3, "model", "0", proposals=15, neurons=6, total=40).long()
    clean, attacked, shown = (normal(30, 40, seed=s, mean=s / 5, std=1 + s / 10) for s in range(3))
    armor = released.SingleClassFingerprintsArmor(6)
    for chosen in members.tolist():
        means = [pd.DataFrame(side.numpy()).loc[:, chosen].mean(axis=1) for side in (clean, attacked)]
        told = [(mean.mean(), mean.std()) for mean in means]
        armor._fingerprints.append(released.Fingerprint(chosen, *means, *told))
    ours = [one_row(side[:, members].mean(dim=2)) for side in (clean, attacked)]
    gaussians = [Gaussians(side.mean.expand(30, -1), side.std.expand(30, -1)) for side in ours]
    values = shown[:, members].mean(dim=2)
    drawn = Drawn(values, torch.ones_like(values, dtype=torch.bool), *gaussians)
    frame = pd.DataFrame(shown.numpy())
    for rule, theirs in (("ratio", "likelihood_ratio"), ("vote", "vote"), ("anomaly", "likelihood")):
        np.testing.assert_allclose(SCORES[rule](drawn), getattr(armor, theirs)(frame), rtol=1e-12)
    theirs = [armor._compute_abs_d_effect_size(each) for each in armor._fingerprints]
    np.testing.assert_allclose(effects(*ours).abs()[0], theirs, rtol=1e-12)


def drawn_of(values, shift, correlation=None):
    mean, one = torch.zeros_like(values), torch.ones_like(values)
    matrix = None if correlation is None else correlation.expand(len(values), -1, -1)
    sides = (Gaussians(mean, one, matrix), Gaussians(mean + shift, one, matrix))
    return Drawn(values, one.bool(), *sides)


def test_the_ratio_of_known_gaussians_is_the_analytic_one_and_so_is_its_auroc():
    shift, count = 0.4, 10
    clean, attacked = normal(4000, count), normal(4000, count, seed=1, mean=shift)
    scores = [SCORES["ratio"](drawn_of(values, shift)) for values in (clean, attacked)]
    # log N(v; 0, 1) - log N(v; δ, 1) = δ (δ / 2 - v), summed.
    torch.testing.assert_close(scores[0], shift * (count * shift / 2 - clean.sum(dim=1)))
    found = auroc(*scores, resamples=200)
    wanted = stats.norm.cdf(shift * (count / 2) ** 0.5)
    assert found.low <= wanted <= found.high
    assert found.high - found.low < 0.03


def test_the_shrunk_ratio_is_that_of_multivariate_gaussians_and_knows_what_is_not_real():
    mixing = normal(4, 4)
    covariance = mixing @ mixing.T
    std = covariance.diagonal().sqrt()
    correlation = covariance / std[:, None] / std
    values, shift = normal(7, 4, seed=1), normal(4, seed=2)
    sides = [
        Gaussians((centre * shift).expand(7, 4), scale * std.expand(7, 4), correlation.expand(7, 4, 4))
        for centre, scale in ((0.0, 1.0), (1.0, 1.5))
    ]
    score = SCORES["shrunk-ratio"](Drawn(values, torch.ones(7, 4, dtype=torch.bool), *sides))
    densities = [
        stats.multivariate_normal(centre * shift.numpy(), scale**2 * covariance.numpy()).logpdf(
            values.numpy()
        )
        for centre, scale in ((0.0, 1.0), (1.0, 1.5))
    ]
    np.testing.assert_allclose(score, densities[0] - densities[1], rtol=1e-9)
    real = torch.tensor([True, False, True, True]).expand(7, 4)
    some = [stats.multivariate_normal(
        (centre * shift).numpy()[[0, 2, 3]], scale**2 * covariance.numpy()[np.ix_([0, 2, 3], [0, 2, 3])]
    ).logpdf(values.numpy()[:, [0, 2, 3]]) for centre, scale in ((0.0, 1.0), (1.0, 1.5))]  # fmt: skip
    np.testing.assert_allclose(
        SCORES["shrunk-ratio"](Drawn(values, real, *sides)), some[0] - some[1], rtol=1e-9
    )


def test_fingerprints_that_do_not_correlate_have_the_same_ratio_either_way():
    drawn = drawn_of(normal(9, 5), 0.7, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(SCORES["shrunk-ratio"](drawn), SCORES["ratio"](drawn))


def test_correlations_are_shrunk_as_scikit_learn_shrinks_them():
    values = normal(30, 6) @ normal(6, 6, seed=1)
    moments = one_row(values, products=True)
    standard = (values - values.mean(dim=0)) / values.std(dim=0, correction=0)
    wanted = OAS(assume_centered=True).fit(standard.numpy()).covariance_
    found = shrunk(moments.correlation, torch.tensor([6]), moments.count)[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
    filled = torch.nn.functional.pad(moments.correlation, (0, 3, 0, 3), value=0.9)
    padded = shrunk(filled, torch.tensor([6]), moments.count)[0]
    torch.testing.assert_close(padded[:6, :6], found)
    assert torch.equal(padded[6:], torch.eye(9, dtype=torch.float64)[6:])


# Thresholds.


def held_out(scores, classes, least=50):
    return Calibration({"ratio": scores}, classes, least)


def test_no_more_clean_images_are_flagged_than_asked_for():
    flagged = []
    for seed in range(200):
        scores = normal(120, seed=seed)
        calibration = held_out(scores[:100], torch.zeros(100, dtype=torch.int64))
        p = calibration.p_values("ratio", scores[100:], torch.zeros(20, dtype=torch.int64))
        flagged.append((p <= 0.05).double().mean().item())
    assert abs(np.mean(flagged) - 5 / 101) < 4 * np.std(flagged) / 200**0.5


def test_a_threshold_flags_what_the_p_value_flags():
    calibration = held_out(normal(99), torch.zeros(99, dtype=torch.int64))
    scores = normal(400, seed=1)
    p = calibration.p_values("ratio", scores, torch.zeros(400, dtype=torch.int64))
    for rate in (0.005, 0.01, 0.02, 0.05, 0.5, 0.999):
        assert torch.equal(scores < calibration.threshold("ratio", 0, rate), p <= rate)


def test_a_class_with_few_held_out_images_is_judged_by_all():
    classes = torch.tensor([0] * 60 + [1] * 5)
    scores = torch.cat([normal(60), normal(5, seed=1, mean=9.0)])
    calibration = held_out(scores, classes)
    assert len(calibration.peers("ratio", 0)) == 60
    assert len(calibration.peers("ratio", 1)) == len(calibration.peers("ratio", 2)) == 65


def test_thresholds_need_held_out_images_and_as_many_as_the_rate_asks_for():
    with pytest.raises(DataError, match="no held-out clean images"):
        held_out(normal(0), torch.zeros(0, dtype=torch.int64))
    calibration = held_out(normal(98), torch.zeros(98, dtype=torch.int64))
    with pytest.raises(StudyError, match=r"rate of 0\.01 cannot be kept with 98 held-out"):
        calibration.check_rate(0.01)
    calibration.check_rate(0.02)
    with pytest.raises(StudyError, match="rate of 1 "):
        calibration.check_rate(1.0)


# Measures.


def test_shuffled_labels_have_an_auroc_of_one_half_within_its_interval():
    values = torch.cat([normal(300, 8), normal(300, 8, seed=1, mean=1.0)])
    shuffled = values[torch.randperm(600, generator=torch.Generator().manual_seed(4))]
    moments = [one_row(shuffled[rows]) for rows in (slice(0, 150), slice(150, 300))]
    sides = [Gaussians(side.mean.expand(300, -1), side.std.expand(300, -1)) for side in moments]
    scores = SCORES["ratio"](Drawn(shuffled[300:], torch.ones(300, 8, dtype=torch.bool), *sides))
    found = auroc(scores[:150], scores[150:])
    assert found.low <= 0.5 <= found.high
    assert found.high - found.low < 0.2


def test_auroc_is_that_of_scikit_learn_ties_and_all():
    clean, attacked = normal(90).round(decimals=1), normal(70, seed=1, mean=-0.5).round(decimals=1)
    wanted = roc_auc_score([0] * 90 + [1] * 70, -torch.cat([clean, attacked]).numpy())
    assert auroc(clean, attacked, resamples=10).rate == pytest.approx(wanted, abs=1e-12)


def test_measures_of_a_detector_that_is_always_right():
    clean, attacked = torch.arange(10.0), -1 - torch.arange(10.0)
    assert auroc(clean, attacked) == (1.0, 1.0, 1.0)
    unwatched = torch.full((10,), torch.inf)
    assert auroc(unwatched, unwatched).rate == 0.5
    assert np.isnan(auroc(clean, attacked[:0]).rate)


def test_what_is_stopped_is_counted_at_every_rate_with_wilsons_interval():
    found = flagged_at(torch.tensor([0.001, 0.015, 0.015, 0.9], dtype=torch.float64))
    assert {rate: each.rate for rate, each in found.items()} == {0.01: 0.25, 0.02: 0.75, 0.05: 0.75}
    assert found[0.01].low < 0.25 < found[0.01].high


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"neurons": 0}, "Setting neurons of a detector is 0. Give at least 1."),
        ({"least_images": 2}, "Give at least 3"),
        ({"training_images": -1}, "Setting training_images of a detector is -1. Give at least 0."),
        ({"false_discoveries": 0.0}, "false discoveries of 0 "),
        ({"effect": float("nan")}, "effects of nan"),
    ],
)
def test_settings_that_make_no_detector_are_refused(changes, sentence):
    with pytest.raises(StudyError, match=sentence):
        BankRecipe(**changes)


def test_training_images_are_as_many_for_each_class_as_asked_for_or_all():
    recipe = BankRecipe(training_images=200)
    assert recipe.training_share(1_281_167, 1000) == pytest.approx(200_000 / 1_281_167)
    assert recipe.training_share(1438, 10) == 1.0
    assert BankRecipe(training_images=0).training_share(1438, 10) == 0.0
