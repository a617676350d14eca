"""Statistics: intervals cover as often as they say, and chance is the same wherever it is drawn."""

import math

import numpy as np
import pytest
from fleet_world import World, themselves
from scipy.stats import binomtest, poisson

from orchestrator.statistics.components import components, standard_error
from orchestrator.statistics.estimate import combine, difference
from orchestrator.statistics.pairs import Pairs, mean_rate
from orchestrator.statistics.proportion import wilson
from orchestrator.statistics.replicates import poisson_weights


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (0, 50), (7, 40), (50, 50), (812, 1000)])
def test_wilson_agrees_with_scipy(hits, trials):
    known = binomtest(hits, trials).proportion_ci(method="wilson")
    ours = wilson(hits, trials)
    assert ours.rate == hits / trials
    assert ours.low == pytest.approx(known.low, abs=1e-6)
    assert ours.high == pytest.approx(known.high, abs=1e-6)


def test_wilson_of_nothing_is_nan():
    assert all(math.isnan(end) for end in wilson(0, 0))


def test_weights_of_images_are_poisson_and_follow_from_the_name_alone():
    names = [f"val/{number:05d}.png" for number in range(2000)]
    weights = poisson_weights(names, 100)
    shares = np.bincount(weights.ravel(), minlength=6)[:6] / weights.size
    assert shares == pytest.approx(poisson(1).pmf(range(6)), abs=0.004)
    assert np.corrcoef(weights.T.astype(float))[0, 1:] == pytest.approx(np.zeros(99), abs=0.1)
    assert np.array_equal(weights[[7, 3]][:, :20], poisson_weights([names[7], names[3]], 20))
    # Known answers: another library, machine or version must not draw other weights.
    assert poisson_weights(["digits-00000", "a"], 8).tolist() == [
        [2, 3, 0, 1, 3, 2, 0, 0],
        [1, 1, 1, 1, 0, 1, 0, 0],
    ]


@pytest.mark.parametrize(
    ("keys", "world"), [(4, World()), (8, World(level=-3.5, source=0.6)), (16, World())]
)
def test_intervals_of_a_mean_over_keys_and_images_cover(keys, world):
    truth, draws = world.mean(), 250
    covered = percentile = 0
    for seed in range(draws):
        pairs = world.draw(seed, keys, images=60, replicates=60)
        low, high = mean_rate(pairs, themselves(pairs)).interval()[1:]
        covered += low <= truth <= high
        # What leaves the choice of keys out does not cover.
        ends = np.quantile(mean_rate(pairs, {}).replicates, [0.025, 0.975])
        percentile += ends[0] <= truth <= ends[1]
    assert covered / draws >= 0.91
    assert percentile < covered


def test_paired_differences_are_narrower_than_their_parts_and_cover():
    draws, covered, narrower = 150, 0, 0
    for seed in range(draws):
        weak = World(level=-1.7).draw(seed, 8, images=80, replicates=60)
        strong = World(level=-1.2).draw(seed, 8, images=80, replicates=60)  # the same keys and images
        apart = difference(*(mean_rate(each, themselves(each)) for each in (strong, weak)))
        low, high = apart.interval()[1:]
        covered += low <= World(level=-1.2).mean() - World(level=-1.7).mean() <= high
        alone = mean_rate(strong, themselves(strong)).interval()
        narrower += high - low < alone.high - alone.low
    assert covered / draws >= 0.9
    assert narrower == draws


def test_keys_of_two_fleets_are_drawn_apart():
    fleets = [World().draw(seed, 6, images=50) for seed in (1, 2)]
    names = [{f"{fleet}{name}": name for name in pairs.names} for fleet, pairs in enumerate(fleets)]
    first, second = (
        mean_rate(pairs, {name: new for new, name in named.items()})
        for pairs, named in zip(fleets, names, strict=True)
    )
    apart = difference(first, second)
    both = first.key_variance + second.key_variance
    assert len(apart.without) == 12
    assert apart.key_variance == pytest.approx(both)


def test_two_models_give_an_interval_over_images_alone():
    pairs = World().draw(0, 2, images=80)
    estimate = mean_rate(pairs, themselves(pairs))
    assert not estimate.over_keys
    low, high = estimate.interval()[1:]
    assert 0 < low < estimate.value < high < 1


def test_a_rate_of_nothing_at_all_still_has_room():
    nothing = Pairs(
        ["a", "b", "c"], np.array([0, 1, 2]), np.array([1, 2, 0]), np.zeros((3, 11)), np.full((3, 11), 90)
    )
    interval = mean_rate(nothing, themselves(nothing)).interval()
    assert interval.low == 0.0
    assert interval.high == pytest.approx(wilson(0, 90).high)


def test_without_replicates_there_is_a_number_and_no_interval():
    pairs = World().draw(0, 5, images=40, replicates=0)
    estimate = mean_rate(pairs, themselves(pairs))
    assert estimate.value == pytest.approx(np.mean(pairs.rates))
    assert all(math.isnan(end) for end in estimate.interval()[1:])


def test_leaving_a_key_out_leaves_its_twins_out():
    names = ["a", "b", "c", "a2"]
    source, target = np.nonzero(~np.eye(4, dtype=bool))
    rates = np.arange(12.0) / 12
    pairs = Pairs(names, source, target, rates[:, None], np.ones((12, 1)))
    estimate = mean_rate(pairs, {"a": "a", "a2": "a", "b": "b", "c": "c"})
    kept = [rate for s, t, rate in zip(source, target, rates, strict=True) if not {s, t} & {0, 3}]
    assert estimate.without["a"] == pytest.approx(np.mean(kept))
    assert combine(lambda x: 2 * x, estimate).without["a"] == pytest.approx(2 * np.mean(kept))


def rates_of(random, keys, covariance, pair):
    """Rates without any noise of images, from known components."""
    brought = random.multivariate_normal([0, 0], covariance, keys)
    rates = 0.3 + brought[:, :1] + brought[:, 1] + pair * random.standard_normal((keys, keys))
    source, target = np.nonzero(~np.eye(keys, dtype=bool))
    return Pairs([f"k-{n}" for n in range(keys)], source, target, rates[source, target][:, None],
                 np.ones((len(source), 1)))  # fmt: skip


def test_components_are_unbiased_where_a_key_is_as_good_a_source_as_it_is_a_target():
    random, found, covered, draws = np.random.default_rng(0), [], np.zeros(3), 120
    truth = [0.04, 0.09, 0.01]
    for _ in range(draws):
        made = components(rates_of(random, 8, [[0.04, 0.02], [0.02, 0.09]], 0.1))
        parts = [made.source, made.target, made.pair]
        found.append([part.value for part in parts])
        ends = np.array([part.deviation[1:] for part in parts]) ** 2
        covered += (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    assert np.mean(found, axis=0) == pytest.approx(truth, rel=0.15)
    assert (covered / draws >= 0.9).all()


def test_components_leave_the_noise_of_images_out():
    few = np.mean([parts_of(World().draw(seed, 6, 60, 40)) for seed in range(25)], axis=0)
    many = np.mean([parts_of(World().draw(seed, 6, 2000, 2)) for seed in range(25)], axis=0)
    assert few == pytest.approx(many, rel=0.35)


def parts_of(pairs):
    found = components(pairs)
    return [found.source.value, found.target.value, found.pair.value]


def test_components_of_few_sources_on_many_targets_tell_what_more_sources_are_worth():
    random, errors = np.random.default_rng(1), []
    everything = rates_of(random, 60, [[0.0004, 0.0], [0.0, 0.0009]], 0.01)
    few = everything.where(everything.source < 12)
    found = components(few)
    assert (found.sources, found.targets) == (12, 60)
    errors = [standard_error(found, 0.0, sources, 60) for sources in (12, 60)]
    assert errors[0] > errors[1]
    assert errors[0] == pytest.approx(math.sqrt(0.0004 / 12 + 0.0009 / 60 + 0.0001 / 720), rel=0.5)


def test_three_models_have_no_components():
    assert math.isnan(components(rates_of(np.random.default_rng(0), 3, [[1, 0], [0, 1]], 1)).source.value)
