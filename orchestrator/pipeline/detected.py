"""Tables on detectors for a terminal: what they stop; and against insiders, and beside rivals."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.detection.guard.findings import DetectionFindings
from orchestrator.detection.rates import RATES
from orchestrator.pipeline.informed import Informed
from orchestrator.pipeline.informed_rows import (
    CONTESTED,
    RESAMPLED,
    STRUCK,
    told_contested,
    told_resampled,
    told_struck,
)
from orchestrator.report.fleet import estimated
from orchestrator.report.wording import NONE, interval, panel_words

_STOPPED = tuple(f"stopped at {100 * rate:g} %" for rate in RATES)


@dataclass(frozen=True)
class Printed:
    """A table of strings."""

    title: str
    header: Sequence[str]
    rows: Iterable[Sequence[str]]
    notes: Sequence[str] = ()


def stopped_tables(found: DetectionFindings) -> Iterator[Printed]:
    """What is stopped of every sort of images, and what that is worth to the fleet."""
    notes = [
        f"{model}, class {read_as}: {why}"
        for model, classes in found.notes.items()
        for read_as, why in classes.items()
    ]
    header = ("images", "fitted on", "count", "AUROC, %", *_STOPPED)
    yield Printed("What detectors stop, with 95 % intervals", header, list(_sorts(found)), notes)
    header = ("images", "without detectors", *_STOPPED)
    yield Printed("Other keys' images that are read right or stopped", header, list(_fleet(found)))


def attacker_tables(informed: Informed) -> Iterator[Printed]:
    """Those who have model, bank and code: they try draws of their own, or attack both at once."""
    resampled = informed.resampled()
    rows, notes = list(told_resampled(resampled.found)), _lines(resampled.notes)
    yield Printed("What a fresh draw stops of what passed others", RESAMPLED, rows, notes)
    struck = informed.struck()
    rows = list(told_struck(struck.found))
    yield Printed("Model and bank attacked at once", STRUCK, rows, _lines(struck.notes))


def rival_tables(informed: Informed) -> Iterator[Printed]:
    """Other detectors on the same images, with thresholds from the same held-out ones."""
    contested = informed.contested()
    rows = list(told_contested(contested.found))
    yield Printed("Beside other detectors", CONTESTED, rows, _lines(contested.notes))


def _sorts(found: DetectionFindings) -> Iterator[list[str]]:
    for each in found.sorts:
        stopped = [estimated(share) for share in each.stopped.values()]
        words = f"{panel_words(each.panel)}, {each.origin}"
        yield [words, "yes" if each.seen else "no", str(each.images), estimated(each.auroc), *stopped]
    for line in found.harmless:
        shares = [interval(share) for share in line.stopped.values()]
        yield [f"{line.method} · {line.kind}", NONE, str(line.images), NONE, *shares]


def _fleet(found: DetectionFindings) -> Iterator[list[str]]:
    for line in found.safe:
        guarded = [estimated(share) for share in line.guarded.values()]
        yield [panel_words(line.panel), estimated(line.bare), *guarded]


def _lines(notes: dict[str, str]) -> list[str]:
    return [f"{name}: {why}" for name, why in notes.items()]
