"""The report's figures: known counts give known curves and dots, and tables that LaTeX sets."""

import math
import re
from dataclasses import replace
from itertools import product

import pytest
from test_report import L2, LINF, make_row, make_study, make_summary

from orchestrator.report.attackers import attackers
from orchestrator.report.costs import cost_table
from orchestrator.report.figures.curves import climbs, curve_table, curves, draw_curves
from orchestrator.report.figures.dots import Rate, comparisons, draw_attacks, draw_rates
from orchestrator.report.figures.gallery import key_plate
from orchestrator.report.figures.sheet import COLUMN, PAGE, inline_svg, paper_files
from orchestrator.report.grid import lay_out
from orchestrator.report.key_verdict import judge_key
from orchestrator.report.latex import escape, tables_tex
from orchestrator.report.page import write_report
from orchestrator.report.section import make_sections
from orchestrator.report.tables import Table
from orchestrator.report.verdict import read_headline


def robust(radius: float, percents: dict[tuple[str, str], int], attack: str = "apgd"):
    """Rows of 100 images, all read right when clean, of which so many are read right afterwards."""
    return [
        make_row(("full", attack, "linf", radius), source, target, n=100, clean=100,
                 adversarial=percent, eligible=100, fooled=100 - percent)
        for (source, target), percent in percents.items()
    ]  # fmt: skip


WEAK = {
    ("plain", "plain"): 50, ("plain", "k-a"): 90, ("plain", "k-b"): 80, ("plain", "k-c"): 70,
    ("k-a", "k-a"): 40, ("k-b", "k-b"): 20,
    ("k-a", "k-b"): 96, ("k-b", "k-a"): 98, ("k-c", "k-a"): 88, ("k-c", "k-b"): 90, ("k-c", "k-c"): 30,
    ("k-a", "k-c"): 70, ("k-b", "k-c"): 80,
    ("k-a+k-b", "k-c"): 60, ("k-a+k-b", "k-a"): 10, ("k-a+k-b", "k-b"): 10,
}  # fmt: skip
STRONG = {pair: percent // 2 for pair, percent in WEAK.items()}


def test_curves_are_means_over_keys_at_every_radius() -> None:
    rows = robust(4 / 255, WEAK) + robust(8 / 255, STRONG)
    (climb,) = climbs(lay_out(make_summary(rows)))
    lines = {line.words: line for line in curves(climb)}
    assert {line.radii for line in lines.values()} == {(0.0, 4 / 255, 8 / 255)}
    assert lines["plain, attacked itself"].rates == ([1.0], [0.5], [0.25])
    assert lines["non-adaptive, plain"].rates[1] == pytest.approx([0.9, 0.8, 0.7])
    # By target, over both other keys: k-a (98 + 88) / 2, k-b (96 + 90) / 2, k-c (70 + 80) / 2.
    assert lines["adaptive, other keys"].rates[1] == pytest.approx([0.93, 0.93, 0.75])
    assert lines["adaptive, ensembles"].rates[1] == pytest.approx([0.6])
    assert lines["own key"].rates[1] == pytest.approx([0.4, 0.2, 0.3])
    table = curve_table([climb])
    assert [row[1] for row in table.rows] == ["clean", "ℓ∞ ε = 4/255", "ℓ∞ ε = 8/255"]
    assert table.rows[1][2:] == ["50.0", "80.0", "87.0", "60.0", "30.0"]


def test_one_radius_has_no_curve_and_no_section() -> None:
    summary = make_study(2, threats=(LINF, L2))
    assert climbs(lay_out(summary)) == []
    assert b"as pixels may move farther" not in write_report(summary)["index.html"]


def test_the_band_of_a_curve_is_the_callers() -> None:
    (climb,) = climbs(lay_out(make_summary(robust(4 / 255, WEAK) + robust(8 / 255, STRONG))))
    narrow = draw_curves(climb, PAGE, band=lambda rates: (min(rates), min(rates)))
    assert inline_svg(narrow, "x") != inline_svg(draw_curves(climb, PAGE), "x")


def test_attackers_tell_own_keys_from_others() -> None:
    (grid,) = lay_out(make_summary(robust(8 / 255, WEAK)))
    found = {line.kind: line for line in attackers(grid)}
    assert list(found) == ["plain", "1 key", "2 keys"]
    assert math.isnan(found["plain"].own)
    assert found["1 key"].own == pytest.approx(0.7)
    assert found["2 keys"].others == found["2 keys"].most == pytest.approx(0.4)
    assert found["1 key"].most == pytest.approx(0.3)


def test_attacks_are_compared_at_the_largest_radius_of_each_norm() -> None:
    rows = robust(4 / 255, WEAK) + robust(8 / 255, STRONG) + robust(8 / 255, STRONG, "square")
    (found,) = comparisons(lay_out(make_summary(rows)))
    assert [grid.panel.attack for grid in found.grids] == ["apgd", "square"]
    assert found.title == "full · ℓ∞ ε = 8/255"
    svg = inline_svg(draw_attacks(found, PAGE), found.stem)
    assert all(words in svg for words in ("apgd, 2 keys", "square, plain", "other keys, most"))


def test_pairings_tell_a_key_from_a_seed() -> None:
    names = ["plain", "k-a", "k-b", "seed-0", "seed-1", "same-key-1", "rekeyed-0"]
    percents = dict.fromkeys(product(names, repeat=2), 50)
    percents |= {("k-a", "k-b"): 90, ("k-b", "k-a"): 80, ("seed-0", "seed-1"): 70, ("seed-1", "seed-0"): 60}
    percents |= {
        ("rekeyed-0", "k-a"): 0,
        ("k-a", "rekeyed-0"): 2,
        ("same-key-1", "k-b"): 77,
        ("k-b", "same-key-1"): 75,
    }
    (grid,) = lay_out(make_summary(robust(8 / 255, percents)))
    verdict = judge_key(replace(grid, twins={"rekeyed-0": "k-a", "same-key-1": "k-b"}))
    effect = verdict.effect
    found = [effect.other, effect.no_key, effect.rekeyed, effect.same_key]
    assert [each.value for each in found] == pytest.approx([0.15, 0.35, 0.99, 0.24])
    plate = key_plate(verdict)
    assert "another key 15.0 %" in plate.alt
    assert set(plate.files) == {f"key-full-apgd-linf-8of255.{kind}" for kind in ("svg", "png", "pdf")}


def test_a_study_without_controls_says_that_it_cannot_tell() -> None:
    files = write_report(make_study(2))
    for name in ("index.html", "report.md"):
        assert "This study has no controls" in files[name].decode()


def test_figures_for_a_paper_are_the_same_bytes_and_fit_a_column() -> None:
    def make():
        return draw_rates([Rate("another key", 0.1, 0.05, 0.2), Rate("no key", 0.5, 0.4, 0.6)], COLUMN)

    assert paper_files(make(), "x") == paper_files(make(), "x")
    assert make().get_figwidth() == pytest.approx(3.33)
    (climb,) = climbs(lay_out(make_summary(robust(4 / 255, WEAK) + robust(8 / 255, STRONG))))
    assert draw_curves(climb, COLUMN).get_figwidth() == pytest.approx(3.33)


def test_names_are_escaped_for_latex() -> None:
    assert escape("50 % of k_1 & #2 → $x$ {a}\\b ~^") == (
        r"50 \% of k\_1 \& \#2 → \$x\$ \{a\}\textbackslash{}b \textasciitilde{}\textasciicircum{}"
    )
    assert escape("ℓ∞ ε = 8/255 ± 1") == r"$\ell_\infty$ $\varepsilon$ = 8/255 $\pm$ 1"


def test_tables_for_a_paper_have_a_cell_for_every_column() -> None:
    text = write_report(make_study(3, methods=("full", "lora"), threats=(LINF, L2)))["tables.tex"].decode()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    for tabular in re.findall(r"\\begin\{tabular\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        columns = len(re.match(r"\{([lr]+)\}", tabular)[1])
        for row in re.findall(r"^(.*) \\\\$", tabular, re.MULTILINE):
            spans = [int(span) - 1 for span in re.findall(r"\\multicolumn\{(\d+)\}", row)]
            assert row.count(" & ") + 1 + sum(spans) == columns
    assert re.search(r"[^\x00-\x7f]", text) is None, "pdflatex sets it"


def test_a_narrow_table_stays_in_its_column() -> None:
    table = Table(title="T", note="", header=["A", "B"], rows=[["x", "1"]])
    assert rb"\begin{table}" in tables_tex([table])


def test_a_page_that_is_full_leaves_out_heatmaps_of_smaller_radii_first() -> None:
    grids = lay_out(make_summary(robust(4 / 255, WEAK) + robust(8 / 255, STRONG)))
    headlines = [read_headline(grid) for grid in grids]
    whole = make_sections(headlines, None)
    assert [section.smaller for section in whole] == [True, False]
    assert all(section.picture for section in whole)
    scarce = make_sections(headlines, None, room=whole[1].picture.weight)
    assert [section.picture is not None for section in scarce] == [False, True]


def test_costs_name_training_and_attack_of_every_model() -> None:
    summary = replace(
        make_study(1), attack_seconds={"plain": 61.0, "k-000000000000.full": 5.0, "plain+k-a.full": 2.0}
    )
    rows = {row[0]: row for row in cost_table(summary).rows}
    assert rows["plain"][4:] == ["1 min 0 s", "1 min 1 s"]
    assert rows["k-000000000000"][4:] == ["12 min 34 s", "5.0 s"]
    assert rows["plain+k-a"][1:] == ["Full", "–", "–", "–", "2.0 s"]
