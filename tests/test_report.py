"""The report: known counts give known numbers, and the page stands on its own."""

import csv
import io
import math
import re
from base64 import b64encode
from collections import Counter
from hashlib import sha256
from html.parser import HTMLParser
from itertools import product

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.attacks.threat import Threat
from orchestrator.report.figures.heatmap import draw_heatmap
from orchestrator.report.figures.sheet import COLUMN, PAGE, inline_svg, paper_files
from orchestrator.report.grid import lay_out
from orchestrator.report.order import clustered
from orchestrator.report.page import write_report
from orchestrator.report.paper import table_one, table_two
from orchestrator.report.summary import ModelLine, StageLine, StudySummary
from orchestrator.report.tables import key_table, matrix_table, settings_table, stage_table
from orchestrator.report.verdict import lead, read_headline, sentence
from orchestrator.report.wording import duration, picture_stem, threat_words
from orchestrator.statistics.proportion import wilson
from orchestrator.transfer.counting import build_matrix
from orchestrator.transfer.matrix import (
    CELL,
    COUNTS,
    MATRIX_SCHEMA,
    Panel,
    TransferMatrix,
)
from orchestrator.transfer.outcomes import OUTCOME_SCHEMA

LINF, L2 = ("linf", 8 / 255), ("l2", 0.5)
PNG = b"\x89PNG\r\n\x1a\n"
BESIDE = {"index.html", "report.md", "matrix.csv", "matrix.parquet", "tables.tex"}


def make_row(panel, source, target, n=200, clean=160, adversarial=80, eligible=150, fooled=75):
    names = dict(zip(CELL, (*panel, source, target), strict=True))
    return names | dict(zip(COUNTS, (n, clean, adversarial, eligible, fooled), strict=True))


def make_summary(rows, *, study="pilot", methods=("full",), notes=(), **settings):
    keys = dict.fromkeys(row["source"] for row in rows if row["source"] != "plain")
    models = [ModelLine(name="plain", method="plain", trainable_parameters=86_567_656,
                        total_parameters=86_567_656, epochs=5, seconds=60.0)]  # fmt: skip
    sizes = {"full": (86_567_656, 86_567_656), "lora": (1_383_400, 87_951_056)}
    for method, key in product(methods, keys):
        trainable, total = sizes[method]
        models.append(ModelLine(name=key, method=method, trainable_parameters=trainable,
                                total_parameters=total, epochs=3, seconds=754.0))  # fmt: skip
    ordered = sorted(rows, key=lambda row: [row[name] for name in CELL])
    return StudySummary(
        study=study,
        settings={"architecture": "ViT-B/16", "block_size": "4", "lora_rank": "16"} | settings,
        matrix=TransferMatrix(pa.Table.from_pylist(ordered, schema=MATRIX_SCHEMA)),
        models=models,
        stages=[StageLine(name="attack", artifacts=7, seconds=3905.0)],
        notes=notes,
    )


def make_study(count, *, methods=("full",), threats=(LINF,), **given_):
    """``count`` keys, each method under each threat: 99 % at home, 15 % away, 25 % from plain."""
    keys = [f"k-{number:012x}" for number in range(count)]
    rows = []
    for method, (norm, epsilon) in product(methods, threats):
        for source, target in product(["plain", *keys], repeat=2):
            percent = 99 if source == target else 25 if source == "plain" else 15
            rows.append(make_row((method, "apgd", norm, epsilon), source, target,
                                 n=120, clean=100, adversarial=100 - percent, eligible=100,
                                 fooled=percent))  # fmt: skip
    return make_summary(rows, methods=methods, **given_)


# Robust counts of 200 images, source by target, for hand-computed tables.
ROBUST = {
    ("plain", "plain"): 1, ("plain", "k-c"): 100, ("plain", "k-a"): 110, ("plain", "k-b"): 120,
    ("k-c", "k-c"): 2, ("k-a", "k-a"): 4, ("k-b", "k-b"): 6,
    ("k-a", "k-c"): 140, ("k-b", "k-c"): 100,
    ("k-c", "k-a"): 120, ("k-b", "k-a"): 160,
    ("k-c", "k-b"): 20, ("k-a", "k-b"): 60,
}  # fmt: skip
CLEAN = {"plain": 180, "k-c": 160, "k-a": 170, "k-b": 180}


def make_three_keys(panel=("full", "apgd", *LINF)):
    return [
        make_row(panel, source, target, clean=CLEAN[target], adversarial=robust)
        for (source, target), robust in ROBUST.items()
    ]


class Page(HTMLParser):
    """Reads a page strictly: every tag closed in order, every outside reference kept."""

    void = frozenset({"meta", "link", "img", "source", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.references, self.seen, self.pictures = [], [], Counter(), []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen[tag] += 1
        given_ = dict(attrs)
        self.references += [given_[name] for name in ("src", "href", "srcset") if name in given_]
        if given_.get("role") == "img":
            self.pictures.append(given_["aria-label"])
        if tag not in self.void:
            self.open.append(tag)

    def handle_data(self, data):
        self.text += data

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


OUTCOMES = st.lists(
    st.fixed_dictionaries(
        {
            "image": st.sampled_from(["0", "1", "2"]),
            "source": st.sampled_from(["plain", "k-a", "k-b"]),
            "target": st.sampled_from(["plain", "k-a"]),
            "method": st.sampled_from(["full", "lora"]),
            "attack": st.just("apgd"),
            "norm": st.just("linf"),
            "epsilon": st.sampled_from([4 / 255, 8 / 255]),
            "label": st.integers(0, 2),
            "clean_prediction": st.integers(0, 2),
            "adversarial_prediction": st.integers(0, 2),
            "source_fooled": st.booleans(),
            "moved": st.booleans(),
            "distance_linf": st.just(0.01),
            "distance_l2": st.just(0.1),
        }
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(rows=OUTCOMES, cut=st.integers(0, 40), data=st.data())
def test_matrix_equals_a_count_by_hand_in_any_order(rows, cut, data):
    expected = {}
    for row in rows:
        counts = expected.setdefault(tuple(row[name] for name in CELL), [0] * 5)
        clean = row["clean_prediction"] == row["label"]
        after = row["adversarial_prediction"] == row["label"]
        eligible = clean and row["moved"]
        for place, hit in enumerate([True, clean, after, eligible, eligible and not after]):
            counts[place] += hit
    tables = [pa.Table.from_pylist(part, schema=OUTCOME_SCHEMA) for part in (rows[:cut], rows[cut:])]
    shuffled = pa.Table.from_pylist(data.draw(st.permutations(rows)), schema=OUTCOME_SCHEMA)
    built = build_matrix(tables).table
    assert built.equals(build_matrix(reversed(tables)).table)
    assert built.equals(build_matrix([shuffled]).table)
    assert built.schema.equals(MATRIX_SCHEMA)
    found = {tuple(r[c] for c in CELL): [r[c] for c in COUNTS] for r in built.to_pylist()}
    assert found == expected
    assert list(found) == sorted(found)


def test_table_one_gives_the_numbers_computed_by_hand():
    table = table_one(make_summary(make_three_keys()))
    # Adaptive, per target: k-c (70 + 50) / 2, k-a (60 + 80) / 2, k-b (10 + 30) / 2 = 60, 70, 20.
    assert table.rows == [
        ["ViT-B/16", "Plain", "–", "No", "90.00", "0.50", "–", "–"],
        ["ViT-B/16", "Key", "4", "Full", "85.00 ± 5.00", "55.00 ± 5.00", "50.00 ± 26.46",
         "2.00 ± 1.00"],
    ]  # fmt: skip
    assert table.groups == [("", 5), ("Robust (ℓ∞ ε = 8/255), apgd", 3)]


def test_table_one_sets_methods_and_threats_side_by_side():
    rows = make_three_keys() + make_three_keys(("lora", "apgd", *L2))
    table = table_one(make_summary(rows, methods=("full", "lora")))
    numbers = ["55.00 ± 5.00", "50.00 ± 26.46", "2.00 ± 1.00"]
    assert table.rows[1][5:] == [*numbers, "–", "–", "–"]
    assert table.rows[2][3:] == ["LoRA (r = 16)", "85.00 ± 5.00", "–", "–", "–", *numbers]
    assert table.rows[0][5:] == ["0.50", "–", "–"] * 2
    assert table.flat_header[8] == "Robust (ℓ2 ε = 0.5), apgd: Non-adaptive"


def test_one_key_has_no_adaptive_number_and_no_deviation():
    summary = make_study(1)
    assert table_one(summary).rows[1][4:] == ["83.33", "62.50", "–", "0.83"]
    assert key_table(summary).rows[1][5:7] == ["–", "–"]
    headline = read_headline(lay_out(summary)[0])
    assert math.isnan(headline.between)
    assert "No pair of different keys" in lead([headline])
    assert write_report(summary)["index.html"]


def test_table_two_is_the_papers():
    table = table_two(make_study(2, methods=("full", "lora")))
    assert list(table.header) == ["Model", "Full", "LoRA"]
    assert table.rows == [["ViT-B/16", "86.57 (100.00 %)", "1.38 (1.57 %)"]]


def test_small_models_keep_three_digits_in_table_two():
    summary = make_summary(make_three_keys())
    small = ModelLine(name="k-a", method="lora", trainable_parameters=4_567,
                      total_parameters=100_000, epochs=1, seconds=1.0)  # fmt: skip
    summary = StudySummary(study="s", settings={}, matrix=summary.matrix, models=[small], stages=[])
    assert table_two(summary).rows == [["–", "0.00457 (4.57 %)"]]


def test_key_table_names_the_worst_other_key():
    panel = ("full", "apgd", *LINF)
    rows = [make_row(panel, s, t, eligible=100, fooled=10) for s, t in ROBUST if s != "k-b"]
    rows += [make_row(panel, "k-b", target, eligible=100, fooled=40) for target in ("k-c", "k-a")]
    table = key_table(make_summary(rows))
    low, high = (f"{100 * end:.1f}" for end in wilson(40, 100)[1:])
    assert [row[0] for row in table.rows] == ["plain", "k-c", "k-a", "k-b"]
    assert table.rows[1][5:7] == [f"40.0 [{low}, {high}]", "k-b"]
    assert table.rows[0][6:] == ["–", "–", "1 min 0 s"]
    assert table.rows[3][8] == "12 min 34 s"


def test_no_eligible_image_reads_as_a_dash():
    panel = ("full", "apgd", *LINF)
    pairs = product(["plain", "k-a", "k-b"], repeat=2)
    rows = [make_row(panel, *pair, eligible=0, fooled=0) for pair in pairs]
    summary = make_summary(rows)
    grid = lay_out(summary)[0]
    assert {row[2] for row in matrix_table(grid).rows} == {"–"}
    assert "no eligible image was tried" in sentence(read_headline(grid))
    files = write_report(summary)
    shown = Page(files["index.html"].decode()).text
    for text in (shown, files["matrix.csv"].decode(), files["report.md"].decode()):
        assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_pairs_that_were_never_tried_are_left_out_and_not_drawn_as_zero():
    rows = [row for row in make_three_keys() if row["source"] != "k-b"]
    grid = lay_out(make_summary(rows))[0]
    assert len(matrix_table(grid).rows) == len(rows)
    assert math.isnan(grid.fooling()[grid.names.index("k-b"), 0])
    assert paper_files(draw_heatmap(grid, COLUMN).figure, "matrix")["matrix.png"].startswith(PNG)


def test_plain_comes_first_and_keys_in_the_order_of_the_models():
    rows = make_three_keys()
    first = make_summary(rows)
    models = [*reversed(first.models)]
    turned = StudySummary(study="s", settings={}, matrix=first.matrix, models=models, stages=[])
    assert lay_out(first)[0].names == ["plain", "k-c", "k-a", "k-b"]
    assert lay_out(turned)[0].names == ["plain", "k-b", "k-a", "k-c"]


def test_verdict_says_what_the_counts_say():
    headline = read_headline(lay_out(make_study(4))[0])
    assert (headline.between, headline.own, headline.from_plain) == (0.15, 0.99, 0.25)
    assert "another key's model 15.0 % of the time" in lead([headline])
    assert "weakness" not in sentence(headline)


def test_verdict_doubts_an_attack_that_fails_at_home():
    grid = lay_out(make_summary(make_three_keys()))[0]
    assert "weakness rather than the keys' strength" in sentence(read_headline(grid))


def test_report_holds_a_page_its_twin_a_csv_and_a_picture_per_panel():
    files = write_report(make_study(3, methods=("full", "lora"), threats=(LINF, L2)))
    stems = {f"matrix-{m}-apgd-{t}" for m in ("full", "lora") for t in ("linf-8of255", "l2-0.5")}
    dots = {
        f"attacks-{method}-{threat}" for method in ("full", "lora") for threat in ("linf-8of255", "l2-0.5")
    }
    pictures = {f"{stem}.{kind}" for stem in stems | dots for kind in ("svg", "png", "pdf")}
    assert set(files) == BESIDE | pictures
    assert all(files[f"{stem}.png"].startswith(PNG) for stem in stems)
    assert all(f"]({stem}.png)" in files["report.md"].decode() for stem in stems)
    assert pq.read_table(pa.BufferReader(files["matrix.parquet"])).num_rows == 4 * 16
    lines = list(csv.DictReader(io.StringIO(files["matrix.csv"].decode())))
    assert len(lines) == 4 * 16
    assert {line["fooling_rate"] for line in lines} == {"0.990000", "0.150000", "0.250000"}


def test_page_needs_nothing_from_outside():
    files = write_report(make_study(4, notes=("2 images were left out.",)))
    text = files["index.html"].decode()
    page = Page(text)
    for reference in page.references:
        assert reference.startswith(("data:", "#")) or reference in files
    assert "http:" not in text
    assert "https:" not in text
    assert page.seen["script"] == 2
    assert page.seen["h1"] == 1
    assert all(place.startswith("#") for place in re.findall(r"url\((.)", text))
    assert {label[:7] for label in page.pictures} == {"Heatmap", "Fooling"}
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    assert b64encode(sha256(script.encode()).digest()).decode() in text
    assert "2 images were left out." in text
    assert "Fooled / eligible" in page.text  # the picture's numbers, pair by pair


def test_hostile_names_stay_text():
    hostile = "<script>alert(1)</script> | [x](y) *b*"
    files = write_report(make_study(2, study=hostile, notes=(hostile,), evil=hostile))
    page = Page(files["index.html"].decode())
    assert page.seen["script"] == 2
    assert "&lt;script&gt;" in files["index.html"].decode()
    written = files["report.md"].decode()
    assert "<script" not in written
    assert r"\| \[x\](y) \*b\*" in written


def test_hostile_model_names_are_drawn_and_escaped():
    rows = [
        make_row(("full", "apgd", *LINF), s, t)
        for s, t in product(["plain", "<b>$\\frac$", "a|b"], repeat=2)
    ]
    files = write_report(make_summary(rows))
    page = Page(files["index.html"].decode())
    assert page.seen["b"] == 0
    assert r"a\|b" in files["report.md"].decode()


def test_the_same_summary_gives_the_same_bytes():
    make = lambda: write_report(make_study(3, methods=("full", "lora")))  # noqa: E731
    assert make() == make()


def test_pictures_carry_no_time_and_no_maker():
    grid = lay_out(make_study(2))[0]
    make = lambda: paper_files(draw_heatmap(grid, COLUMN).figure, "matrix")  # noqa: E731
    files = make()
    assert files == make()
    for content in files.values():
        for mark in (b"tEXt", b"tIME", b"iTXt", b"CreationDate", b"Matplotlib", b"<dc:date>"):
            assert mark not in content
    assert b"/FontFile2" in files["matrix.pdf"], "whole TrueType fonts (Type 42)"
    assert b"/Type3" not in files["matrix.pdf"]


def test_a_figure_for_a_paper_fits_its_column():
    for count in (4, 32, 128):
        width, height = draw_heatmap(lay_out(make_study(count))[0], COLUMN).figure.get_size_inches()
        assert 0 < width <= 3.33 + 1e-6
        assert height < 4


def test_a_figure_in_the_page_takes_its_colours_from_the_page():
    svg = inline_svg(draw_heatmap(lay_out(make_study(2))[0], PAGE).figure, "m")
    assert "var(--ink)" in svg
    assert "#0100" not in svg
    assert "http" not in svg
    Page(svg)


def test_clustered_order_puts_keys_that_fall_to_each_other_side_by_side():
    names = ["k-a", "k-b", "k-c", "k-d"]
    near = {frozenset(("k-a", "k-c")), frozenset(("k-b", "k-d"))}
    rows = [
        make_row(("full", "apgd", *LINF), s, t, eligible=100, fooled=60 if {s, t} in near else 10)
        for s, t in product(["plain", *names, "seed-0"], repeat=2)
    ]
    grid = lay_out(make_summary(rows))[0]
    assert grid.names == ["plain", *names, "seed-0"]
    order = clustered(grid).names
    assert order[0] == "plain"
    assert order[-1] == "seed-0"
    assert {frozenset(order[1:3]), frozenset(order[3:5])} == near


def test_controls_stand_after_the_keys_and_are_none():
    rows = [
        make_row(("full", "apgd", *LINF), s, t)
        for s, t in product(["plain", "same-key-0", "k-a", "seed-0", "k-b", "k-a+k-b"], repeat=2)
        if "+" not in t
    ]
    grid = lay_out(make_summary(rows))[0]
    assert grid.keys == ["k-a", "k-b"]
    assert grid.rows == ["plain", "k-a", "k-b", "same-key-0", "seed-0", "k-a+k-b"]
    assert grid.seams == [1, 3, 5]
    assert grid.fooling().shape == (6, 5)


def test_a_fleet_of_128_keys_fits_in_one_light_page():
    files = write_report(make_study(128))
    assert len(files["index.html"]) < 5_000_000
    assert len(files["report.md"]) < 500_000
    assert files["matrix.csv"].count(b"\n") == 129 * 129 + 1
    page = Page(files["index.html"].decode())
    assert page.seen["tr"] < 1000, "not every pair is listed"
    assert page.seen["details"] == 3, "models, their costs, and the rows of the matrix are folded"


def test_a_study_without_outcomes_still_has_a_page():
    files = write_report(make_summary([]))
    text = files["index.html"].decode()
    assert Page(text).pictures == []
    assert "No outcomes have been recorded yet" in text
    assert set(files) == BESIDE


def test_stages_and_settings_are_listed_as_given():
    summary = make_study(1, seed="7")
    assert stage_table(summary).rows == [["attack", "7", "1 h 5 min"]]
    assert settings_table(summary).rows[-1] == ["seed", "7"]


@pytest.mark.parametrize(
    "text",
    [
        *("linf:8/255", "linf:0.5/255", "linf:0.03", "l2:0.5", "l2:3"),
        *("patch:8", "spatial:0.1", "colour:16/255", "colour:0.05"),
    ],
)
def test_a_threat_is_written_as_the_attacks_write_it(text):
    threat = Threat.parse(text)
    panel = Panel("full", "apgd", threat.norm, threat.epsilon)
    assert threat_words(panel).endswith(" = " + str(threat).split(":")[1])
    assert picture_stem(panel) == f"matrix-full-apgd-{threat.slug}"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0 s"), (4.26, "4.3 s"), (59.99, "1 min 0 s"), (3599.7, "1 h 0 min"), (math.nan, "–")],
)
def test_durations_read_in_two_units(seconds, words):
    assert duration(float(seconds)) == words
