"""A scene of findings on detectors: judged rows drawn at random, counted as those of a study would be."""

from dataclasses import replace
from itertools import product

import numpy as np
import pyarrow as pa
from test_report import make_row, make_summary

from orchestrator.detection.guard.findings import (
    CLEAN_IMAGES,
    ClassLine,
    DetectionFindings,
    HarmlessLine,
    Roc,
    SafeLine,
    SortLine,
)
from orchestrator.detection.guard.judged import JUDGED_SCHEMA
from orchestrator.detection.guard.matrix import GuardMatrix, build_guard_matrix
from orchestrator.report.grid import Grid, lay_out
from orchestrator.report.summary import StudySummary
from orchestrator.statistics.estimate import Estimate
from orchestrator.statistics.pairs import Pairs, mean_rate
from orchestrator.statistics.proportion import wilson
from orchestrator.transfer.matrix import Panel

RATES = (0.01, 0.02, 0.05)
SEEN, UNSEEN = "targeted-fgsm", "mi-fgsm"
RADII = (4 / 255, 8 / 255)


def keys_of(count: int) -> list[str]:
    return [f"k-{number:012x}" for number in range(count)]


def judged_row(image, source, target, *, panel, read_as, p_value, label=0, clean=0):
    names = {"method": panel.method, "attack": panel.attack, "norm": panel.norm, "epsilon": panel.epsilon}
    return names | {
        "image": image, "source": source, "target": target, "label": label, "clean_prediction": clean,
        "adversarial_prediction": read_as, "moved": True, "score": p_value, "p_value": p_value,
    }  # fmt: skip


def draw_judged(
    count, attacks=(SEEN, UNSEEN), radii=RADII, images=60, methods=("full",), extra=("seed-0",)
):
    """Judged rows of keyed models as targets, images of seen attacks with smaller p-values."""
    draw, keys = np.random.default_rng(count), keys_of(count)
    rows = []
    for method, attack, radius, source, target in product(
        methods, attacks, radii, ["plain", *keys, *extra], keys
    ):
        panel = Panel(method, attack, "linf", radius)
        fools = draw.random(images) < (0.97 if source == target else 0.1 + 10 * radius)
        p_values = draw.beta(0.15 if attack == SEEN else 0.5, 6 * radius * 255 / 8, images)
        rows += [
            judged_row(f"i{n}", source, target, panel=panel, label=n % 3, clean=n % 3,
                       read_as=(n + int(fools[n])) % 3, p_value=float(p_values[n]))
            for n in range(images)
        ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=JUDGED_SCHEMA)


def rated(pairs: Pairs, keys) -> Estimate:
    return mean_rate(pairs, {key: key for key in keys})


def origin_pairs(pairs: Pairs, origin: str, keys) -> Pairs:
    return {
        "own key": pairs.own(keys),
        "another key": pairs.among([*keys, "seed-0"], keys),
        "plain": pairs.among(["plain"], keys),
    }[origin]


def make_findings(judged: pa.Table, count: int, draws: int = 40, notes=None) -> DetectionFindings:
    matrix, keys = build_guard_matrix([judged], RATES, draws), keys_of(count)
    panels = matrix.bare.panels()
    clean = {rate: wilson(round(1000 * rate * 1.04), 1000) for rate in RATES}
    methods = dict.fromkeys(panel.method for panel in panels)
    kinds = [
        (CLEAN_IMAGES, 1000),
        ("clean images that are misread", 40),
        ("noise under ℓ∞ ε = 8/255", 1000),
    ]
    own = {
        rate: Estimate(0.97 - rate, 0.97 - rate + np.linspace(-0.01, 0.01, draws)) for rate in (0.0, *RATES)
    }
    return DetectionFindings(
        matrix=matrix,
        fitted_on=[SEEN],
        images={"fit": 200, "held-out": 100, "test": 60},
        clean_accuracy=dict.fromkeys(methods, own),
        sorts=[sort_line(matrix, panel, origin, keys) for panel in panels
               for origin in ("own key", "another key", "plain")],
        classes=[ClassLine(panel=panel, read_as=read_as, images=90, stopped=clean)
                 for panel in panels for read_as in range(3)],
        harmless=[HarmlessLine(method=method, kind=kind, images=images, stopped=clean)
                  for method in methods for kind, images in kinds],
        safe=[safe_line(matrix, panel, keys) for panel in panels],
        notes=notes or {},
    )  # fmt: skip


def sort_line(matrix: GuardMatrix, panel: Panel, origin, keys) -> SortLine:
    stopped = {rate: origin_pairs(matrix.stopped(panel, rate), origin, keys) for rate in RATES}
    height = 0.6 if panel.attack == SEEN else 0.25
    points = np.linspace(0, 1, 50)
    return SortLine(
        panel=panel,
        origin=origin,
        seen=panel.attack == SEEN and origin != "plain",
        images=int(stopped[0.05].trials[:, 0].sum()),
        auroc=rated(matrix.bare.pairs(panel, "robust").own(keys), keys),
        stopped={rate: rated(pairs, keys) for rate, pairs in stopped.items()},
        roc=Roc(points, points ** (1 - height)),
    )


def safe_line(matrix: GuardMatrix, panel: Panel, keys) -> SafeLine:
    robust = {rate: each.pairs(panel, "robust") for rate, each in matrix.guarded.items()}
    return SafeLine(
        panel=panel,
        bare=rated(matrix.bare.pairs(panel, "robust").among(keys, keys), keys),
        guarded={rate: rated(pairs.among(keys, keys), keys) for rate, pairs in robust.items()},
        own={rate: rated(pairs.own(keys), keys) for rate, pairs in robust.items()},
    )


def guarded_summary(count: int, notes=None, **drawn) -> StudySummary:
    """A study of so many keys with detectors on its keyed models, and a control without one."""
    findings = make_findings(draw_judged(count, **drawn), count, notes=notes)
    names = ["plain", *keys_of(count), "seed-0"]
    rows = [
        make_row((panel.method, panel.attack, panel.norm, panel.epsilon), source, target)
        for panel in findings.matrix.bare.panels()
        for source, target in product(names, names)
    ]
    methods = drawn.get("methods", ("full",))
    return replace(make_summary(rows, methods=methods), detection=findings)


def bare_grids(summary: StudySummary) -> list[Grid]:
    assert summary.detection is not None
    return lay_out(replace(summary, matrix=summary.detection.matrix.bare))
