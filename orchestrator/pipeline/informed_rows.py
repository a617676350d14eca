"""Rows of the tables on informed attackers and on rivals: plain words and numbers of what was measured."""

from collections.abc import Iterator, Sequence

from orchestrator.attacks.threat import Threat
from orchestrator.detection.insiders import Struck
from orchestrator.detection.rates import RATES
from orchestrator.detection.rejection import EARLIER, Resampled
from orchestrator.detection.rivals.contest import SECRETS, Contested
from orchestrator.report.wording import NONE, interval, percent

RESAMPLED = (
    *("kept", "neurons", "drawn", "fitted on", "images", "drawn once"),
    *(f"after {count}" for count in EARLIER),
)
"""Headings; after so many draws passed, what a fresh draw stops, and of which share of all images."""
STRUCK = ("threat", "attack", "images", "fooled", "of these stopped", "fooled and let through")
CONTESTED = (
    *("detector", "images", "fitted on", "count", "AUROC"),
    *(f"at {100 * rate:g} %" for rate in RATES),
    *("passes more", "keeps beside the model"),
)


def told_resampled(found: Sequence[Resampled]) -> Iterator[list[str]]:
    """A row for each size of a bank, for attacks it was fitted on and for others."""
    for each in found:
        kept, neurons, drawn = each.size
        few, many = min(each.kept), max(each.kept)
        real = str(kept) if few == many == kept else f"{kept} ({few}–{many})"
        shares = [f"{interval(after.stopped)} of {percent(after.passed)}" for after in each.after(EARLIER)]
        yield [
            *(real, str(neurons), str(drawn), "yes" if each.seen else "no", str(len(each.fresh))),
            *(interval(each.stopped_once), *shares),
        ]


def told_struck(found: Sequence[Struck]) -> Iterator[list[str]]:
    """A row for each attack under each threat."""
    for each in found:
        shares = (each.fooling, each.caught, each.through)
        yield [str(each.threat), each.attack, str(len(each.fooled)), *map(interval, shares)]


def told_contested(found: Sequence[Contested]) -> Iterator[list[str]]:
    """A row of clean images for each detector, then one for each detector on each sort of attacked ones."""
    for each in found:
        shares = [interval(share) for share in each.stopped().values()]
        yield [each.detector, "clean", NONE, str(len(each.clean)), NONE, *shares, *_cost(each)]
        yield from ([each.detector, note] for note in each.notes)
    for sort in sorted({sort for each in found for sort in each.attacked}):
        for each in found:
            if sort in each.attacked:
                shares = [interval(share) for share in each.stopped(sort).values()]
                words = f"{sort.attack} {Threat.parse(f'{sort.norm}:{sort.epsilon!r}')}"
                seen = "yes" if sort.attack in each.fitted else "no"
                count = str(len(each.attacked[sort]))
                row = [each.detector, words, seen, count, interval(each.auroc(sort)), *shares]
                yield [*row, *_cost(each)]


def _cost(contested: Contested) -> tuple[str, str]:
    return f"{contested.passes:g}", SECRETS[contested.detector]
