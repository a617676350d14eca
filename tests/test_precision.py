"""Precision: looking after every shard is paid for, and shards are added where they are needed."""

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.statistics.sequence import confidence_sequence
from orchestrator.transfer.matrix import MATRIX_SCHEMA, TransferMatrix
from orchestrator.transfer.precision import Front, half_widths, next_round

SHARD, LOOKS, PATHS = 50, 80, 1000


def looks(rate, seed=0):
    """Hits and trials of many studies after every shard."""
    hits = np.random.default_rng(seed).binomial(SHARD, rate, (PATHS, LOOKS)).cumsum(axis=1)
    return hits, np.broadcast_to(SHARD * np.arange(1, LOOKS + 1), hits.shape)


def wilsons(hits, trials, z=1.959964):
    """Wilson's intervals of many counts."""
    rates, spread = hits / trials, z * z / trials
    centre = (rates + spread / 2) / (1 + spread)
    half = z / (1 + spread) * np.sqrt(rates * (1 - rates) / trials + spread / (4 * trials))
    return centre - half, centre + half


@pytest.mark.parametrize("rate", [0.03, 0.2, 0.5, 0.95])
def test_a_sequence_holds_at_every_look_and_wilson_does_not(rate):
    hits, trials = looks(rate)
    low, high = (
        end.reshape(hits.shape) for end in confidence_sequence(hits.ravel(), trials.ravel(), best_at=2000.0)
    )
    ever_wrong = ((rate < low) | (rate > high)).any(axis=1).mean()
    low, high = wilsons(hits, trials)
    ever_wrong_with_wilson = ((rate < low) | (rate > high)).any(axis=1).mean()
    assert ever_wrong <= 0.05
    assert ever_wrong_with_wilson > 0.15


def test_stopping_when_narrow_is_honest_with_a_sequence_only():
    hits, trials = looks(0.3, seed=1)
    held = {}
    for name, (low, high) in {
        "sequence": confidence_sequence(hits.ravel(), trials.ravel(), best_at=700.0),
        "wilson": wilsons(hits.ravel(), trials.ravel()),
    }.items():
        low, high = low.reshape(hits.shape), high.reshape(hits.shape)
        # Whoever wants to show a low rate stops as soon as the interval is below it.
        stop = np.where((high < 0.3).any(axis=1), (high < 0.3).argmax(axis=1), LOOKS - 1)
        at = np.arange(PATHS), stop
        held[name] = ((low[at] <= 0.3) & (high[at] >= 0.3)).mean()
    assert held["sequence"] >= 0.95
    assert held["wilson"] < 0.9


def test_a_sequence_of_nothing_knows_nothing_and_ends_stay_in_order():
    low, high = confidence_sequence(np.array([0, 0, 7, 40]), np.array([0, 9, 9, 40]), best_at=500.0)
    assert (low[0], high[0]) == (0.0, 1.0)
    assert (low[1], high[3]) == (0.0, 1.0)
    assert low[2] < 7 / 9 < high[2]
    assert low[3] > 0.5


def matrix_of(cells):
    """A matrix from (source, target): images, fooled half of the rate given."""
    rows = [
        {"method": "plain" if source == target == "plain" else "full", "attack": "apgd", "norm": "linf",
         "epsilon": 0.1, "source": source, "target": target, "n": n, "clean_correct": n,
         "adv_correct": n - fooled, "eligible": n, "fooled": fooled}
        for (source, target), (fooled, n) in cells.items()
    ]  # fmt: skip
    return TransferMatrix(pa.Table.from_pylist(rows, schema=MATRIX_SCHEMA))


A, B, PLAIN = (Front("apgd", "linf", label) for label in ("k-a.full", "k-b.full", "plain"))


def test_only_fronts_with_a_wide_interval_go_on():
    matrix = matrix_of(
        {("k-a", "k-b"): (30, 20_000), ("k-b", "k-a"): (300, 600), ("k-a", "plain"): (5, 10)}
    )
    found = next_round(matrix, 0.02, {A: 4, B: 4}, 100)
    assert found.shards == {B: 8}  # twice as many, though it needs more; plain as a target asks for nothing
    assert not found.over
    assert (found.wide, found.asked) == (2, 4)


def test_rounds_begin_with_one_shard_double_and_end_with_the_last():
    empty = TransferMatrix(MATRIX_SCHEMA.empty_table())
    assert next_round(empty, 0.02, {A: 0, PLAIN: 0}, 9).shards == {A: 1, PLAIN: 1}
    wide = matrix_of({("k-a", "k-b"): (10, 20)})
    have, rounds = 1, []
    while not (found := next_round(wide, 0.02, {A: have}, 9)).over:
        have = found.shards[A]
        rounds.append(have)
    assert rounds == [2, 4, 8, 9]
    assert found.sentence.startswith("0 of 2 rates")


def test_a_round_adds_no_more_than_is_needed():
    matrix = matrix_of({("k-a", "k-b"): (200, 2000)})
    half = float(half_widths(matrix.table, 0.02).max())
    found = next_round(matrix, half / 1.05, {A: 40}, 100)
    assert 41 <= found.shards[A] <= 46
    assert next_round(matrix, half * 1.05, {A: 40}, 100).over
    assert "All 2 rates" in next_round(matrix, half * 1.05, {A: 40}, 100).sentence


def test_robust_accuracy_is_asked_for_too():
    table = matrix_of({("k-a", "k-b"): (0, 20_000)}).table
    table = table.set_column(table.schema.get_field_index("adv_correct"), "adv_correct", pa.array([200]))
    table = table.set_column(table.schema.get_field_index("n"), "n", pa.array([400]))
    assert next_round(TransferMatrix(table), 0.02, {A: 2}, 10).shards == {A: 4}
