"""The fleet's numbers and the controls' verdict: known chances are found, and doubt is said."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.report.attackers import attacker_table
from orchestrator.report.certainty import cost_of_sources
from orchestrator.report.compared import differing, method_table, study_table
from orchestrator.report.fleet import fleet_table, read_fleet
from orchestrator.report.grid import lay_out
from orchestrator.report.key_effect import read_key_effect
from orchestrator.report.key_verdict import judge_key
from orchestrator.report.page import write_report
from orchestrator.report.summary import ModelLine, StudySummary
from orchestrator.report.tables import key_table
from orchestrator.transfer.counting import build_matrix
from orchestrator.transfer.matrix import TransferMatrix
from orchestrator.transfer.outcomes import OUTCOME_SCHEMA

IMAGES, DRAWS = 120, 60
KEYS = [f"k-{number:012x}" for number in range(6)]
CHANCES = {"own": 0.97, "rekeyed": 0.97, "same-key": 0.6, "seed": 0.5, "other": 0.2, "plain": 0.3}


def twin_of(name):
    """The key whose key or weights a control has."""
    return KEYS[int(name.rsplit("-", 1)[1])] if name.startswith(("same-key", "rekeyed")) else ""


def relation(source, target):
    """What two models share: the word of its chance."""
    if source == target:
        return "own"
    if "plain" in (source, target):
        return "plain"
    kinds = {name.rsplit("-", 1)[0] for name in (source, target)}
    if kinds == {"seed"}:
        return "seed"
    if source in (twin_of(target), target) or target == twin_of(source):
        return "rekeyed" if "rekeyed" in kinds else "same-key"
    return "other"


def make_study(
    controls=(), *, attacks=("apgd",), methods=("full",), chances=CHANCES, seed=0, keys=KEYS, **more
):
    """Outcomes drawn with these chances; all pairs of an image share how hard the image is."""
    random = np.random.default_rng(seed)
    hard = random.random(IMAGES)
    tables = []
    for method, (step, attack), source in itertools.product(
        methods, enumerate(attacks), ["plain", *keys, *controls]
    ):
        for target in ["plain", *keys, *controls]:
            chance = min(1.0, chances[relation(source, target)] + 0.05 * step)
            # Half of what decides is the image's own, so that cells are alike in which images fall.
            fooled = 0.5 * hard + 0.5 * random.random(IMAGES) < chance
            tables.append(outcome_table(method, attack, source, target, fooled))
    models = [model_line("plain", "plain")]
    models += [model_line(name, method) for method in methods for name in [*keys, *controls]]
    matrix = build_matrix(tables, DRAWS)
    return StudySummary(study="pilot", settings=more, matrix=matrix, models=models, stages=[])


def model_line(name, method):
    return ModelLine(name=name, method=method, trainable_parameters=1, total_parameters=1, epochs=1,
                     seconds=1.0, twin=twin_of(name))  # fmt: skip


def outcome_table(method, attack, source, target, fooled):
    count = len(fooled)
    columns = {
        "image": [f"val/{number}.png" for number in range(count)],
        "source": [source] * count,
        "target": [target] * count,
        "method": ["plain" if source == target == "plain" else method] * count,
        "attack": [attack] * count,
        "norm": ["linf"] * count,
        "epsilon": [8 / 255] * count,
        "label": [0] * count,
        "clean_prediction": [0] * count,
        "adversarial_prediction": fooled.astype(int),
        "moved": [True] * count,
    }
    columns |= {f.name: pa.nulls(count, f.type) for f in OUTCOME_SCHEMA if f.name not in columns}
    return pa.table(columns).select(OUTCOME_SCHEMA.names).cast(OUTCOME_SCHEMA)


@pytest.fixture(scope="module")
def controlled():
    return make_study([f"{kind}-{n}" for kind in ("same-key", "seed") for n in range(4)] + ["rekeyed-0"])


def test_a_mean_over_keys_has_an_interval_over_keys_and_images():
    (grid,) = lay_out(make_study())
    fleet = read_fleet(grid)
    rates = [grid.cell(s, t).fooling.rate for s, t in itertools.permutations(KEYS, 2)]
    assert fleet.between.value == pytest.approx(np.mean(rates))
    low, high = fleet.between.interval()[1:]
    assert fleet.between.over_keys
    assert 0 < low < fleet.between.value < high < 0.4


def test_controls_are_in_no_mean_over_keys(controlled):
    (grid,) = lay_out(controlled)
    assert grid.keys == KEYS
    assert len(grid.controls) == 9
    fleet, alone = (
        read_fleet(grid),
        [grid.cell(s, t).fooling.rate for s, t in itertools.permutations(KEYS, 2)],
    )
    assert fleet.between.value == pytest.approx(np.mean(alone))
    assert set(fleet.worst[:2]) <= set(KEYS)
    assert controlled.matrix.union.table["target"].to_pylist() == KEYS
    assert "same-key-0" not in {row[6] for row in key_table(controlled).rows}


def test_an_attacker_with_every_other_keys_image_reaches_more():
    (grid,) = lay_out(make_study())
    fleet = read_fleet(grid)
    assert fleet.together.value < 1 - fleet.misread.value
    cells = [row for row in grid.matrix.union.table.to_pylist() if row["target"] == KEYS[0]]
    assert cells[0]["adv_correct"] <= min(grid.cell(key, KEYS[0]).adv_correct for key in KEYS[1:])


def test_a_key_falls_to_a_source_that_fools_half():
    (grid,) = lay_out(make_study(chances=CHANCES | {"other": 0.9}))
    assert read_fleet(grid).fallen == (6, 6)
    (grid,) = lay_out(make_study())
    assert read_fleet(grid).fallen == (0, 6)
    told = {row[0]: row[2] for row in fleet_table(grid).rows}
    assert told["Keys that fall to one source"] == "0.0 (0 of 6)"


def test_attacks_are_compared_on_the_same_keys_and_images():
    summary = make_study(attacks=("apgd", "bsr"))
    table = attacker_table(summary)
    place = list(table.header).index("More than the first attack")
    rows = {(row[0], row[3]): row for row in table.rows}
    assert rows["apgd", "1 key"][place] == "–"
    more, ends = rows["bsr", "1 key"][place].split(" ", 1)
    low, high = (float(end) for end in ends.strip("[]").split(", "))
    assert low < float(more) < high
    alone = rows["bsr", "1 key"][place - 1].split("[")[1].strip("]").split(", ")
    assert high - low < float(alone[1]) - float(alone[0])


def test_methods_and_studies_are_compared():
    table = method_table(make_study(methods=("full", "lora")))
    assert [row[2] for row in table.rows] == ["LoRA − Full"]
    assert method_table(make_study()).rows == []
    first, second = (
        make_study(block_size="16"),
        make_study(chances=CHANCES | {"other": 0.5}, seed=1, block_size="4"),
    )
    (row,) = study_table(first, second).rows
    assert float(row[-1].split(" ")[0]) < -20
    assert float(row[-1].strip("]").split(", ")[1]) < 0
    assert differing(first.settings, second.settings) == ["block_size: 16 and 4"]


def test_the_key_and_training_anew_are_told_apart(controlled):
    (grid,) = lay_out(controlled)
    effect = read_key_effect(grid)
    rates = {words: estimate.value for words, estimate in effect.bars}
    known = [CHANCES[name] for name in ("own", "rekeyed", "same-key", "seed", "other")]
    fell = [2 * c**2 if c < 0.5 else 1 - 2 * (1 - c) ** 2 for c in known]  # of a sum of two uniform halves
    assert list(rates.values()) == pytest.approx(fell, abs=0.1)
    assert effect.whole.value == pytest.approx(effect.by_key.value + effect.by_training.value)
    assert effect.share.value == pytest.approx(effect.by_key.value / effect.whole.value)
    assert effect.by_key.interval().low > 0
    assert effect.defects == []
    verdict = judge_key(grid)
    assert "the key does keep images from travelling" in " ".join(verdict.sentences)
    assert verdict.tables[0].title == "Does the key matter?"


def test_where_the_key_does_nothing_the_verdict_does_not_say_it_does():
    chances = CHANCES | {"same-key": 0.2, "seed": 0.2}
    (grid,) = lay_out(make_study([f"same-key-{n}" for n in range(4)], chances=chances))
    told = " ".join(judge_key(grid).sentences)
    assert "that the key does anything is not shown" in told
    low, high = read_key_effect(grid).by_key.interval()[1:]
    assert low < 0 < high


def test_two_controls_rest_on_two_models_and_the_verdict_says_so():
    (grid,) = lay_out(make_study(["same-key-0", "same-key-1", "seed-0", "seed-1"]))
    verdict = judge_key(grid)
    assert not verdict.effect.by_key.over_keys
    assert "With 2 same-key controls and 2 seed controls" in verdict.sentences[-1]
    assert "images; 2 models" in {row[2] for row in verdict.tables[0].rows}


def test_a_rekeyed_model_that_differs_is_broken_and_said_first():
    chances = CHANCES | {"rekeyed": 0.4}
    summary = make_study(["rekeyed-0", "same-key-1"], chances=chances)
    verdict = judge_key(lay_out(summary)[0])
    assert verdict.sentences[0].startswith("Something is broken: rekeyed-0 computes what")
    text = write_report(summary)["report.md"].decode()
    assert text.index("Something is broken") < text.index("the same key trained anew")


def test_a_study_without_controls_says_that_it_cannot_say():
    summary = make_study()
    assert "cannot say whether the key" in judge_key(lay_out(summary)[0]).sentences[0]
    page = write_report(summary)
    assert write_report(make_study()) == page
    assert b"cannot say whether the key" in page["index.html"]


def test_few_sources_of_many_keys_say_what_that_costs():
    random, keys = np.random.default_rng(0), [f"k-{number:012x}" for number in range(24)]
    brought = dict(zip(keys, random.normal(0, 0.06, len(keys)), strict=True))
    tables = []
    for source, target in itertools.permutations(keys, 2):
        fooled = random.random(400) < 0.3 + brought[source] + 0.3 * brought[target]
        tables.append(outcome_table("full", "apgd", source, target, fooled))
    models = [model_line(name, "full") for name in keys]

    def study(some):
        chosen = [table for table in tables if table["source"][0].as_py() in some]
        matrix = build_matrix(chosen, DRAWS)
        return StudySummary(study="s", settings={}, matrix=matrix, models=models, stages=[])

    (few,), (everything,) = (lay_out(study(some)) for some in (keys[:8], keys))
    cost = cost_of_sources(few)
    assert (cost.sources, cost.keys) == (8, 24)
    assert cost.half_width > 1.5 * cost.with_all
    low, high = read_fleet(everything).between.interval()[1:]
    assert cost.with_all == pytest.approx((high - low) / 2, rel=0.4)
    assert cost.sentence.startswith("Attacked from 8 of 24 keys, the mean from key to key is known to ± ")
    assert cost.sentence in fleet_table(few).note
    assert cost_of_sources(everything) is None


def test_without_draws_there_are_numbers_and_no_intervals():
    summary = make_study(["same-key-0"])
    bare = replace(summary, matrix=TransferMatrix(summary.matrix.table))
    (grid,) = lay_out(bare)
    table = fleet_table(grid)
    assert "[" not in table.rows[0][2]
    assert "not redrawn" in table.note
    assert math.isnan(read_fleet(grid).together.value)
    assert not any("nan" in cell for table in judge_key(grid).tables for row in table.rows for cell in row)
