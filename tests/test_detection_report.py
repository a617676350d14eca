"""The report on detectors: known counts give known cells, and its part of the page stands on its own."""

import csv
import io
import re
from dataclasses import replace
from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from findings_scene import (
    RATES,
    SEEN,
    UNSEEN,
    bare_grids,
    draw_judged,
    guarded_summary,
    judged_row,
    keys_of,
    make_findings,
)
from test_page import Visit, browser, context, grave
from test_report import BESIDE, Page, make_row, make_study, make_summary

from orchestrator.detection.guard.findings import Roc
from orchestrator.detection.guard.judged import JUDGED_SCHEMA
from orchestrator.report.detection.curves import roc_charts, stopped_at
from orchestrator.report.detection.matrix import stopped_grid, stopped_sections, stopped_table
from orchestrator.report.detection.scope import at_largest
from orchestrator.report.detection.words import CAVEAT, detection_paragraphs
from orchestrator.report.export import detection_csv
from orchestrator.report.page import write_report
from orchestrator.report.summary import ModelLine
from orchestrator.statistics.proportion import Interval, wilson
from orchestrator.transfer.matrix import Panel

__all__ = ["browser", "context"]  # fixtures
PANEL = Panel("full", SEEN, "linf", 8 / 255)
FIRST, SECOND = keys_of(2)


def judged_by_hand() -> pa.Table:
    """Of ten images of the first key, six fool the second: p-values of 1, 2, 3, 5, 6 and 50 %."""
    p_values = [0.01, 0.02, 0.03, 0.05, 0.06, 0.5, 0.01, 0.5, 0.5, 0.5]
    rows = [
        judged_row(f"i{n}", FIRST, SECOND, panel=PANEL, read_as=int(n < 6), p_value=p_value)
        for n, p_value in enumerate(p_values)
    ]
    rows += [judged_row(f"i{n}", SECOND, FIRST, panel=PANEL, read_as=0, p_value=0.001) for n in range(10)]
    return pa.Table.from_pylist(rows, schema=JUDGED_SCHEMA)


def summary_by_hand():
    rows = [make_row(("full", SEEN, "linf", 8 / 255), s, t) for s, t in product([FIRST, SECOND], repeat=2)]
    return replace(make_summary(rows), detection=make_findings(judged_by_hand(), 2, draws=0))


@pytest.fixture(scope="module")
def four():
    return guarded_summary(4, notes={FIRST: {"3": "7 attacked images, 10 are asked for"}})


@pytest.fixture(scope="module")
def files(four):
    return write_report(four)


def test_cells_hold_what_is_stopped_of_what_fools() -> None:
    summary = summary_by_hand()
    (grid,) = bare_grids(summary)
    for rate, stopped in ((0.01, 1), (0.02, 2), (0.05, 4)):
        cell = stopped_grid(grid, summary.detection, rate).cell(FIRST, SECOND)
        assert (cell.fooled, cell.eligible) == (stopped, 6)
    # What was stopped but fools nobody counts for nothing: the cell is missing.
    assert np.isnan(stopped_grid(grid, summary.detection, 0.05).cell(SECOND, FIRST).fooling.rate)
    rows = {tuple(row[:2]): row[2:] for row in stopped_table(grid, summary.detection).rows}
    assert rows[FIRST, SECOND][:4] == ["6", "1", "2", "4"]
    assert rows[SECOND, FIRST] == ["0", "0", "0", "0", "–"]


def test_the_csv_has_every_cell_with_what_is_stopped_and_safe() -> None:
    text = detection_csv(summary_by_hand().detection.matrix).decode()
    lines = {(line["source"], line["target"]): line for line in csv.DictReader(io.StringIO(text))}
    line = lines[FIRST, SECOND]
    assert (line["n"], line["fooled"], line["stopped_at_0.05"], line["safe_at_0.05"]) == (
        "10",
        "6",
        "4",
        "8",
    )
    rate, low, high = wilson(4, 6)
    ends = [f"{end:.6f}" for end in (rate, low, high)]
    assert [line[f"stopped_{name}_at_0.05"] for name in ("rate", "low", "high")] == ends
    assert line["safe_rate_at_0.01"] == "0.500000"
    assert lines[SECOND, FIRST]["stopped_rate_at_0.05"] == ""


def test_models_without_detectors_are_rows_and_no_columns(four) -> None:
    sections = stopped_sections(four, four.detection)
    assert [section.title for section in sections] == [
        f"full · {attack} · ℓ∞ ε = 8/255" for attack in (UNSEEN, SEEN)
    ], "the largest radius alone"
    svg = sections[0].halves[1].svg
    assert svg.count(">plain<") == svg.count(">seed-0<") == 1
    assert svg.count(f">{FIRST}<") == 2


def test_pictures_stop_where_the_page_is_full_and_files_do_not(four) -> None:
    sections = stopped_sections(four, four.detection, room=0)
    assert all(not section.halves and section.drawn and section.files for section in sections)


def test_words_tell_whether_the_rate_is_kept() -> None:
    findings = guarded_summary(4).detection
    for stopped, words in (
        (Interval(0.052, 0.04, 0.068), "as many as was asked for"),
        (Interval(0.09, 0.08, 0.1), "more than was asked for, so the rate is not kept"),
        (Interval(0.02, 0.01, 0.03), "fewer than was asked for, so the rate is kept"),
    ):
        line = replace(findings.harmless[0], stopped={**findings.harmless[0].stopped, 0.05: stopped})
        told = " ".join(detection_paragraphs(replace(findings, harmless=[line])))
        assert words in told
        assert "200 photographs; clean images of 100 others" in told


def test_words_keep_seen_and_unseen_apart_and_name_the_worst_panel() -> None:
    findings = guarded_summary(4).detection
    told = " ".join(detection_paragraphs(findings))
    assert f"mean over 2 sorts: from {100 * least(findings, True):.1f} % of {SEEN} on" in told
    assert f"mean over 4 sorts: from {100 * least(findings, False):.1f} % of" in told
    worst = min(at_largest(findings.safe), key=lambda line: line.guarded[0.05].value)
    assert f"worst off ({worst.panel.attack} within ℓ∞ ε = 8/255), " in told
    assert f"without detectors {100 * worst.bare.value:.1f} %" in told
    assert "who has the device" in told
    alone = [line for line in findings.sorts if line.seen]
    assert "where they were not" not in " ".join(detection_paragraphs(replace(findings, sorts=alone)))


def least(findings, seen: bool) -> float:
    return min(line.stopped[0.05].value for line in at_largest(findings.sorts) if line.seen is seen)


def test_a_curve_is_read_at_its_upper_end_and_between_its_points() -> None:
    curve = Roc(np.array([0.0, 0.0, 0.5, 1.0]), np.array([0.0, 0.4, 0.4, 1.0]))
    assert stopped_at(curve, np.array([0.0, 0.25, 0.75, 1.0])).tolist() == pytest.approx(
        [0.4, 0.4, 0.7, 1.0]
    )


def test_charts_are_of_the_largest_radius_and_one_kind_of_source(four) -> None:
    charts = roc_charts(four.detection)
    assert [chart.stem for chart in charts] == [
        f"roc-full-linf-8of255-{origin}" for origin in ("own_key", "another_key", "plain")
    ]
    assert all({line.panel.epsilon for line in chart.lines} == {8 / 255} for chart in charts)


def test_the_page_has_words_matrices_curves_and_tables(files, four) -> None:
    text = files["index.html"].decode()
    page = Page(text)
    for words in (
        "What detectors stop",
        CAVEAT,
        "The fleet with detectors",
        "Harmless images",
        "10 are asked",
    ):
        assert words in page.text, words
    assert page.text.index("Does the key matter?") < page.text.index("What detectors stop")
    assert all(each.startswith(("data:", "#")) or each in files for each in page.references)
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)
    pictures = {name for name in files if name.startswith(("stopped-", "roc-"))}
    assert len(pictures) == 3 * (2 + 3)
    assert set(files) >= BESIDE
    assert files["detection.csv"] == detection_csv(four.detection.matrix)
    assert r"\caption{The fleet with detectors" in files["tables.tex"].decode()


def test_its_markdown_twin_says_the_same(files, four) -> None:
    text = files["report.md"].decode()
    assert (
        text.index("## Does the key matter?")
        < text.index("## What detectors stop\n")
        < text.index("## The paper")
    )
    assert "](stopped-full-mi-fgsm-linf-8of255.png)" in text
    assert "](roc-full-linf-8of255-plain.png)" in text
    assert "**The fleet with detectors**\n\n| Attack |" in text
    plain = text.replace("\\", "")
    assert all(paragraph in plain for paragraph in detection_paragraphs(four.detection))


def test_the_same_findings_give_the_same_bytes(files) -> None:
    again = guarded_summary(4, notes={FIRST: {"3": "7 attacked images, 10 are asked for"}})
    assert write_report(again) == files


def test_a_study_without_detectors_says_no_word_of_them() -> None:
    files = write_report(make_study(2))
    assert "detection.csv" not in files
    for name in ("index.html", "report.md", "tables.tex"):
        assert b"etector" not in files[name]


def test_methods_are_told_apart() -> None:
    judged = draw_judged(3, attacks=(SEEN,), radii=(8 / 255,), images=20, methods=("full", "lora"))
    told = detection_paragraphs(make_findings(judged, 3))
    assert [words.split()[0] for words in told[1:]] == ["Full"] * 3 + ["LoRA"] * 3


def test_very_many_models_are_listed_by_target() -> None:
    summary = guarded_summary(41, attacks=(SEEN,), radii=(8 / 255,), images=3)
    (grid,) = bare_grids(summary)
    table = stopped_table(grid, summary.detection)
    assert [row[0] for row in table.rows] == grid.names
    fooled = sum(grid.cell(source, grid.names[0]).fooled for source in grid.rows)
    assert table.rows[0][1] == str(fooled)
    assert len(table.header) == 3 + len(RATES)


def test_the_page_points_to_the_controls_where_there_are_some() -> None:
    panel = ("full", "apgd", "linf", 8 / 255)
    rows = [make_row(panel, s, t) for s, t in product(["plain", "k-a", "k-b", "same-key-0"], repeat=2)]
    summary = make_summary(rows)
    twins = [replace(line, twin="k-a") if line.name == "same-key-0" else line for line in summary.models]
    assert all(isinstance(line, ModelLine) for line in twins)
    for models, answered in ((twins, True), (summary.models, False)):
        files = write_report(replace(summary, models=models))
        for name in ("index.html", "report.md"):
            text = files[name].decode()
            assert ("answers that, as far as this study" in text) is answered
            assert ("They do not show that the key is what protects: see" in text) is not answered


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_grave_bars_a_reader_of_detectors(context, files, tmp_path, scheme) -> None:
    (tmp_path / "index.html").write_bytes(files["index.html"])
    visit = Visit(context, tmp_path / "index.html")
    visit.page.emulate_media(color_scheme=scheme)
    assert grave(visit.page) == []
    assert visit.said == []
    visit.page.set_viewport_size({"width": 390, "height": 800})
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
