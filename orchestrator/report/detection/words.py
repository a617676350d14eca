"""Detectors in plain words: what they stop, what they cost, and what that does not show."""

import math
from collections.abc import Sequence

import numpy as np

from orchestrator.detection.guard.findings import CLEAN_IMAGES, DetectionFindings, SafeLine, SortLine
from orchestrator.report.detection.scope import (
    MADE_ON,
    at_largest,
    estimate_words,
    rate_words,
    told_rate,
)
from orchestrator.report.wording import method_words, percent, share, threat_words
from orchestrator.statistics.estimate import combine
from orchestrator.statistics.proportion import Interval

CAVEAT = (
    "None of these attacks knew of the detectors. An attacker who has the model and knows its bank can "
    "evade it, with images that fool the one and pass the other: what such attackers reach is measured "
    "apart, in docs/results/detection_attackers.md."
)
"""What the numbers of this part do not show."""

TERMS = (
    (
        "Detector",
        "a bank of neural fingerprints of one model, of which a fresh draw judges each image that the "
        "model is shown. It was fitted on some photographs, its thresholds come from clean images of "
        "others, and all that is said of it here is of a third part of them.",
    ),
    (
        "Stopped",
        "found suspicious by the model's own detector and not answered. The rate asked for is the share of "
        "clean images that it may stop.",
    ),
    ("Safe", "read right, or stopped; a share of all images, as robust accuracy is."),
    (
        "Seen",
        "images of an attack from a kind of source (the model itself, another key, plain) that the "
        "detector was fitted on, though made of other photographs.",
    ),
    (
        "AUROC",
        "the chance that an image that fools is more suspicious to the detector than a clean one: 0.5 is "
        "guessing, 1 never wrong.",
    ),
)
"""Words that only reports with detectors use, and their meaning."""


def detection_paragraphs(findings: DetectionFindings) -> list[str]:
    """What was fitted on what; then of every method what detectors cost, stop, and come to."""
    methods = dict.fromkeys([*findings.clean_accuracy, *(line.panel.method for line in findings.sorts)])
    told = [_begun(findings)]
    for method in methods:
        start = f"{method_words(method)} fine-tuning. " if len(methods) > 1 else ""
        parts = (_cost(findings, method), _stopped(findings, method), _fleet(findings, method))
        told += [start + " ".join(sentences) for sentences in parts if sentences]
    return told


def _begun(findings: DetectionFindings) -> str:
    fit, held_out, test = (findings.images.get(part, 0) for part in ("fit", "held-out", "test"))
    training = findings.images.get("training", 0)
    clean = f", on those and {training:,} training images as they are" if training else ""
    return (
        f"Every model's detector was fitted on images of {_listed(findings.fitted_on)}, made of {fit:,} "
        f"photographs{clean}; clean images of {held_out:,} others set its thresholds. Everything below is "
        f"of the remaining {test:,} photographs, on which nothing was fitted or set."
    )


def _cost(findings: DetectionFindings, method: str) -> list[str]:
    rate, told = told_rate(findings), []
    for line in findings.harmless:
        if line.method == method and line.kind == CLEAN_IMAGES and rate in line.stopped:
            stopped = line.stopped[rate]
            ends = f"[{percent(stopped.low)}, {percent(stopped.high)}]"
            told.append(
                f"Detectors that may stop {rate_words(rate)} of clean images stop {share(stopped.rate)} "
                f"{ends} of them: {_kept(stopped, rate)}."
            )
    accuracy = findings.clean_accuracy.get(method, {})
    if 0 in accuracy and rate in accuracy:
        told.append(
            f"So of all clean images {estimate_words(accuracy[rate])} are read right and not stopped, "
            f"against {estimate_words(accuracy[0])} that are read right without detectors."
        )
    return told


def _kept(stopped: Interval, rate: float) -> str:
    if stopped.low > rate:
        return "more than was asked for, so the rate is not kept"
    if stopped.high < rate:
        return "fewer than was asked for, so the rate is kept"
    return "as many as was asked for, as far as so many images can tell"


def _stopped(findings: DetectionFindings, method: str) -> list[str]:
    rate = told_rate(findings)
    lines = [
        line
        for line in at_largest(findings.sorts)
        if line.panel.method == method and math.isfinite(line.stopped[rate].value)
    ]
    threats = len({(line.panel.norm, line.panel.epsilon) for line in lines}) > 1
    parts = [
        f"{_over(some, rate, threats)} {words}"
        for seen, words in (
            (True, "where they were fitted on the attack and the kind of source"),
            (False, "where they were not"),
        )
        if (some := [line for line in lines if line.seen is seen])
    ]
    start = f"Of images that fool at the largest radius, detectors at {rate_words(rate)} stop"
    return [f"{start} {', and '.join(parts)}."] if parts else []


def _over(lines: Sequence[SortLine], rate: float, threats: bool) -> str:
    """The mean over sorts, and the sorts between which it lies."""
    stopped = [line.stopped[rate] for line in lines]
    mean = combine(lambda *values: np.mean(values, axis=0), *stopped, bounds=(0.0, 1.0))
    if len(lines) == 1:
        return f"{estimate_words(mean)} ({_sort(lines[0], threats)})"
    least, most = (pick(lines, key=lambda line: line.stopped[rate].value) for pick in (min, max))
    ends = [f"{share(line.stopped[rate].value)} of {_sort(line, threats)}" for line in (least, most)]
    return f"{estimate_words(mean)} (mean over {len(lines)} sorts: from {ends[0]} to {ends[1]})"


def _sort(line: SortLine, threats: bool) -> str:
    within = f" within {threat_words(line.panel)}" if threats else ""
    return f"{line.panel.attack}{within} on {MADE_ON[line.origin]}"


def _fleet(findings: DetectionFindings, method: str) -> list[str]:
    rate = told_rate(findings)
    lines = [
        line
        for line in at_largest(findings.safe)
        if line.panel.method == method and math.isfinite(line.guarded[rate].value)
    ]
    if not lines:
        return []
    worst = min(lines, key=lambda line: line.guarded[rate].value)
    where = "Where the fleet with detectors is worst off" if len(lines) > 1 else "In all"
    return [
        f"{where} ({worst.panel.attack} within {threat_words(worst.panel)}), "
        f"{estimate_words(worst.guarded[rate])} of images made on another key are read right or stopped; "
        f"without detectors {estimate_words(worst.bare)} are read right. {_own(worst, rate)}"
    ]


def _own(line: SafeLine, rate: float) -> str:
    own = line.own.get(rate)
    if own is None or not math.isfinite(own.value):
        return "No images made on the very model were tried."
    return (
        f"Of images made on the very model, by an attacker who has the device, {estimate_words(own)} are "
        "read right or stopped."
    )


def _listed(names: Sequence[str]) -> str:
    *first, last = names or ["no attack"]
    return f"{', '.join(first)} and {last}" if first else last
