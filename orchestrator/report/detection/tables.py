"""Tables on detectors: by sort of images and by class, of harmless images, and of the fleet as a whole."""

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.detection.guard.findings import ClassLine, DetectionFindings, SortLine
from orchestrator.report.detection.scope import MADE_ON, at_largest, rate_words, rates_of, told_rate
from orchestrator.report.fleet import estimated, reach
from orchestrator.report.tables import Table
from orchestrator.report.wording import NONE, interval, method_words, threat_words
from orchestrator.statistics.estimate import Estimate
from orchestrator.statistics.proportion import Interval
from orchestrator.transfer.matrix import Panel

_PANEL = ("Attack", "Threat", "Fine-tune")
_WILSON = "95 % Wilson intervals over images."


def sort_table(findings: DetectionFindings, lines: Sequence[SortLine], title: str) -> Table:
    """One row a sort of images that fool: how well they are told from clean ones, and how many stopped."""
    rates, rows, told = rates_of(findings), [], list[Estimate]()
    for line in lines:
        stopped = [line.stopped[rate] for rate in rates]
        seen = "yes" if line.seen else "no"
        words = [*_panel(line.panel), MADE_ON[line.origin], seen]
        rows.append([*words, f"{line.images:,}", _area(line.auroc), *map(estimated, stopped)])
        told += stopped
    return Table(
        title=title,
        note="Of images that fool the model, how many % are stopped, by the share of clean images that may "
        f"be. AUROC is a mean over models. {reach(told)}",
        header=[*_PANEL, "Made on", "Seen", "Images", "AUROC", *map(rate_words, rates)],
        rows=rows,
        words=5,
        groups=_spanned(7, "Stopped at", rates),
    )


def safe_table(findings: DetectionFindings) -> Table:
    """One row a panel: images read right or stopped, made on another key and on the very model."""
    rates, rate, rows, told = rates_of(findings), told_rate(findings), [], list[Estimate]()
    for line in findings.safe:
        others = [line.bare, *(line.guarded[rate] for rate in rates)]
        own = line.own.get(rate)
        rows.append([*_panel(line.panel), *map(estimated, others), estimated(own) if own else NONE])
        told += [*others, *([own] if own else [])]
    return Table(
        title="The fleet with detectors",
        note="In % of all test images: read right or stopped, by the share of clean images that may be "
        "stopped; mean over pairs of different keys. Own images, whose attacker has the device: mean over "
        f"models. {reach(told)}",
        header=[*_PANEL, "No detectors", *map(rate_words, rates), rate_words(rate)],
        rows=rows,
        words=3,
        groups=[("", 3), ("Another key's images", 1 + len(rates)), ("Own images", 1)],
    )


def clean_table(findings: DetectionFindings) -> Table:
    """What detectors cost: clean images read right and not stopped."""
    rates, told, rows = [0.0, *rates_of(findings)], list[Estimate](), []
    for method, accuracy in findings.clean_accuracy.items():
        found = [accuracy.get(rate) for rate in rates]
        rows.append([method_words(method), *(NONE if each is None else estimated(each) for each in found)])
        told += [each for each in found if each is not None]
    return Table(
        title="Clean images read right and not stopped",
        note=f"In % of clean test images, mean over models. {reach(told)}",
        header=["Fine-tune", "No detectors", *map(rate_words, rates[1:])],
        rows=rows,
        groups=_spanned(2, "With detectors at", rates[1:]),
    )


def harmless_table(findings: DetectionFindings) -> Table:
    """Images that no attack moved, and how many of them detectors stop."""
    rates = rates_of(findings)
    return Table(
        title="Harmless images that are stopped",
        note=f"In % of images; one photograph counts once for each model. {_WILSON} That a misread clean "
        "image is stopped does no harm.",
        header=["Images", "Fine-tune", "Count", *map(rate_words, rates)],
        rows=[
            [
                line.kind.capitalize(),
                method_words(line.method),
                f"{line.images:,}",
                *_intervals(line.stopped, rates),
            ]
            for line in findings.harmless
        ],
        words=2,
        groups=_spanned(3, "Stopped at", rates),
    )


def class_table(findings: DetectionFindings) -> Table:
    """One row for every class that images of an attack are misread as, at its largest radius."""
    rates = rates_of(findings)
    lines: list[ClassLine] = at_largest(findings.classes)
    return Table(
        title="By the class that images are misread as",
        note=f"Of images that fool a model, over all sources and models, at the largest radius. {_WILSON}",
        header=[*_PANEL, "Read as class", "Images", *map(rate_words, rates)],
        rows=[
            [*_panel(line.panel), str(line.read_as), f"{line.images:,}", *_intervals(line.stopped, rates)]
            for line in lines
        ],
        words=4,
        groups=_spanned(5, "Stopped at", rates),
    )


def note_table(findings: DetectionFindings) -> Table:
    """Which classes of which models have no fingerprints of their own, and why."""
    return Table(
        title="Classes without fingerprints of their own",
        note="Images of such a class are judged by fingerprints of all classes, where there are any.",
        header=["Model", "Class", "Why"],
        rows=[[model, row, why] for model, notes in findings.notes.items() for row, why in notes.items()],
        words=3,
    )


def _panel(panel: Panel) -> list[str]:
    return [panel.attack, threat_words(panel), method_words(panel.method)]


def _intervals(stopped: Mapping[float, Interval], rates: Iterable[float]) -> list[str]:
    return [interval(stopped[rate]) for rate in rates]


def _area(estimate: Estimate) -> str:
    value, low, high = estimate.interval()
    if value != value:
        return NONE
    return f"{value:.3f}" if low != low else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _spanned(before: int, words: str, rates: Sequence[float]) -> list[tuple[str, int]]:
    return [("", before), (words, len(rates))]
