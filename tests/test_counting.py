"""Counting: draws and unions are what counting by hand gives, in any order, and survive the store."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.pipeline.draws import draw_files, draws_for, table_bytes, with_draws
from orchestrator.statistics.replicates import poisson_weights
from orchestrator.transfer.counting import build_matrix
from orchestrator.transfer.matrix import CELL, COUNTS, MATRIX_SCHEMA, Panel
from orchestrator.transfer.outcomes import OUTCOME_SCHEMA
from orchestrator.transfer.union import ANY_OTHER

MODELS = ["plain", "k-a", "k-b", "k-c", "seed-0", "same-key-0"]
SOURCES = [*MODELS, "k-a+k-b", "plain+k-c@gradients"]
IMAGES = [f"val/{number}.png" for number in range(30)]
PANEL = Panel("full", "apgd", "linf", 8 / 255)


def make_outcomes(seed=0):
    """Every source on every target; what is read is drawn, what is moved too."""
    random = np.random.default_rng(seed)
    rows = []
    for source, target, image in itertools.product(SOURCES, MODELS, IMAGES):
        clean, after = random.integers(0, 2, 2)
        rows.append(
            {
                "image": image,
                "source": source,
                "target": target,
                "method": "plain" if source == target == "plain" else "full",
                "attack": "apgd",
                "norm": "linf",
                "epsilon": 8 / 255,
                "label": 0,
                "clean_prediction": int(clean),
                "adversarial_prediction": int(after),
                "moved": bool(random.random() < 0.8),
            }
        )
    return rows


def as_table(rows):
    return pa.Table.from_pylist(rows, schema=OUTCOME_SCHEMA)


def count_by_hand(rows, weights):
    """Every count of COUNTS, each image as often as it weighs."""
    counts = np.zeros(5, int)
    for row in rows:
        before, after = row["clean_prediction"] == 0, row["adversarial_prediction"] == 0
        eligible = before and row["moved"]
        counts += weights[row["image"]] * np.array([1, before, after, eligible, eligible and not after])
    return counts.tolist()


def test_draws_are_weighted_counts_by_hand():
    rows, draws = make_outcomes(), 7
    matrix = build_matrix([as_table(rows)], draws)
    drawn = poisson_weights(IMAGES, draws).astype(int)
    for number, row in enumerate(matrix.table.to_pylist()):
        cell = [r for r in rows if all(r[name] == row[name] for name in CELL)]
        for draw in range(draws):
            weights = dict(zip(IMAGES, drawn[:, draw], strict=True))
            assert matrix.draws[number, :, draw].tolist() == count_by_hand(cell, weights)
        assert [row[name] for name in COUNTS] == count_by_hand(cell, dict.fromkeys(IMAGES, 1))


def is_fooled(row):
    return row["clean_prediction"] == 0 and row["moved"] and row["adversarial_prediction"] != 0


def test_a_union_is_fooled_where_any_other_key_fools():
    rows, draws = make_outcomes(), 3
    union = build_matrix([as_table(rows)], draws).union
    drawn = poisson_weights(IMAGES, draws).astype(int)
    keys = ["k-a", "k-b", "k-c"]
    assert union.table["target"].to_pylist() == keys  # neither plain nor controls
    assert set(union.table["source"].to_pylist()) == {ANY_OTHER}
    for number, target in enumerate(keys):
        together = {image: [] for image in IMAGES}
        for row in rows:
            if row["target"] == target and row["source"] in keys and row["source"] != target:
                together[row["image"]].append(row)
        right = np.array([all(r["adversarial_prediction"] == 0 for r in together[i]) for i in IMAGES])
        fooled = np.array([any(map(is_fooled, together[image])) for image in IMAGES])
        (counted,) = [row for row in union.table.to_pylist() if row["target"] == target]
        assert (counted["n"], counted["adv_correct"], counted["fooled"]) == (30, right.sum(), fooled.sum())
        assert union.draws[number, 2].tolist() == (right @ drawn).tolist()
        assert union.draws[number, 4].tolist() == (fooled @ drawn).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_draws_are_the_same_in_any_order_and_any_parts(seed):
    rows = make_outcomes()
    once = build_matrix([as_table(rows)], 5)
    random = np.random.default_rng(seed)
    mixed = [rows[place] for place in random.permutation(len(rows))]
    cut = sorted(random.integers(0, len(rows), 3))
    parts = [as_table(mixed[a:b]) for a, b in itertools.pairwise([0, *cut, len(rows)])]
    again = build_matrix(parts, 5)
    assert again.table.equals(once.table)
    assert np.array_equal(again.draws, once.draws)
    assert draw_files(again) == draw_files(once)


def test_draws_come_back_from_their_files():
    matrix = build_matrix([as_table(make_outcomes())], 20)
    files = draw_files(matrix)
    back = with_draws(matrix.table, files.__getitem__, 20)
    assert np.array_equal(back.draws, matrix.draws)
    assert np.array_equal(back.union.draws, matrix.union.draws)
    assert back.union.table.equals(matrix.union.table)
    with pytest.raises(ValueError, match="other cells"):
        with_draws(matrix.table.slice(1), files.__getitem__, 20)
    with pytest.raises(ValueError, match="columns"):
        with_draws(matrix.table, files.__getitem__, 21)
    assert with_draws(matrix.table, files.__getitem__, 0).draws is None
    assert table_bytes(matrix.table) == table_bytes(back.table)


def test_draws_are_fewer_where_cells_are_many():
    assert draws_for(25) == 200
    assert 20 <= draws_for(330_000) < 200
    assert draws_for(330_000) * 330_000 * 20 <= 2**28
    assert draws_for(10**8) == 0


def test_pairs_of_a_panel_are_its_cells():
    matrix = build_matrix([as_table(make_outcomes())], 4)
    cells, pairs = matrix.cells(PANEL), matrix.pairs(PANEL)
    assert pairs.hits.shape == (len(cells), 5)
    for source, target, hits, trials in zip(
        pairs.source, pairs.target, pairs.hits, pairs.trials, strict=True
    ):
        cell = cells[pairs.names[source], pairs.names[target]]
        assert (hits[0], trials[0]) == (cell.fooled, cell.eligible)
    robust, misread = matrix.pairs(PANEL, "robust"), matrix.pairs(PANEL, "misread")
    assert (robust.hits + misread.hits == robust.trials).all()


def test_a_matrix_of_nothing_is_empty():
    matrix = build_matrix([], 20)
    assert matrix.table.equals(MATRIX_SCHEMA.empty_table())
    assert matrix.union is None


def test_images_that_no_key_was_attacked_on_are_left_out_of_what_keys_do_together():
    wanted = {("k-a", "k-b"): IMAGES[:3], ("plain", "k-b"): IMAGES}
    rows = [
        row for row in make_outcomes() if row["image"] in wanted.get((row["source"], row["target"]), ())
    ]
    union = build_matrix([as_table(rows)], draws=5).union
    by_key = [row for row in rows if row["source"] == "k-a"]
    assert len(by_key) == 3
    (found,) = union.table.to_pylist()
    assert [found[name] for name in COUNTS] == count_by_hand(by_key, dict.fromkeys(IMAGES, 1))
    assert union.draws.shape == (1, len(COUNTS), 5)
