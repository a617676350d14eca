"""What detectors stop, as lines for a terminal: by sort of images, of harmless ones, and of the fleet."""

from collections.abc import Iterator

from orchestrator.detection.guard.findings import DetectionFindings
from orchestrator.detection.rates import RATES
from orchestrator.report.fleet import estimated
from orchestrator.report.wording import NONE, interval, panel_words

HEADER = ("images", "fitted on", "count", "AUROC, %", *(f"at {100 * rate:g} %" for rate in RATES))


def rows(found: DetectionFindings) -> Iterator[list[str]]:
    """What is stopped of every sort of images that fool, then of those that no attack moved."""
    for each in found.sorts:
        stopped = [estimated(share) for share in each.stopped.values()]
        words = f"{panel_words(each.panel)}, {each.origin}"
        yield [words, "yes" if each.seen else "no", str(each.images), estimated(each.auroc), *stopped]
    for line in found.harmless:
        stopped = [interval(share) for share in line.stopped.values()]
        yield [f"{line.method} · {line.kind}", NONE, str(line.images), NONE, *stopped]


def fleet_rows(found: DetectionFindings) -> Iterator[list[str]]:
    """Images of other keys that do no harm: read right without detectors; or stopped, with them."""
    for line in found.safe:
        guarded = [estimated(share) for share in line.guarded.values()]
        yield [panel_words(line.panel), estimated(line.bare), *guarded]


def notes(found: DetectionFindings) -> Iterator[str]:
    """Why a class of a model has no fingerprints of its own."""
    for model, classes in found.notes.items():
        for read_as, why in classes.items():
            yield f"{model}, class {read_as}: {why}"
