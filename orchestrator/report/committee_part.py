"""The part of the report on committees: how often they read right, by what the attacker holds."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import get_args

from orchestrator.report.fleet import reach
from orchestrator.report.summary import StudySummary
from orchestrator.report.tables import Table
from orchestrator.report.wording import NONE, interval, method_words, percent, share, threat_words
from orchestrator.statistics.estimate import difference
from orchestrator.statistics.proportion import Interval
from orchestrator.transfer.committee.findings import (
    CommitteeFindings,
    CommitteeForm,
    CommitteeLine,
)
from orchestrator.transfer.committee.unit import Holding
from orchestrator.transfer.matrix import Panel

TERMS = (
    (
        "Committee",
        "N keyed models behind one service, of which S are drawn anew to answer each query: 3of5. The "
        "models that answer are a quorum; one query misreads an image with a chance: the share of quorums "
        "that misread it.",
    ),
    (
        "Insider",
        "an attacker who holds members of a committee: half of them, or all. As one: he climbs the loss of "
        "the mean of all logits. By expected loss: the mean loss over quorums (EOT). By expected answer: "
        "the loss of their mean probabilities, as he does who holds half.",
    ),
)
CAVEAT = (
    "Which number counts depends on the attacker. One query: he has one try. Ten, a hundred: he shows the "
    "same image so often and needs one misreading. Any number: he may ask for ever. Misread by most or all "
    "quorums: what he need not be lucky for. That a draw misses is no robustness by itself: judge the "
    "defence by the strongest insider. What insiders reach is the least that can be reached."
)
# What the page has room for, by the names of committees.csv.
_COLUMNS = {
    "alone": "One member",
    "right_in_1": "1 query",
    "right_in_10": "10 queries",
    "never": "Any number",
    "mostly": "Most quorums",
    "always": "All quorums",
}
_HOLDINGS: tuple[Holding, ...] = get_args(Holding)


@dataclass(frozen=True)
class CommitteePart:
    """What the report says of a study's committees."""

    paragraphs: Sequence[str]
    tables: Sequence[Table]
    files: Mapping[str, bytes] = field(repr=False)
    """Beside the page."""
    caveat: str = CAVEAT
    terms: Sequence[tuple[str, str]] = TERMS

    @property
    def papers(self) -> Sequence[Table]:
        """Tables for a paper."""
        return self.tables


def committee_part(summary: StudySummary) -> CommitteePart | None:
    """The part on committees; None of a study that has none."""
    found = summary.committees
    if found is None:
        return None
    return CommitteePart(
        paragraphs=[" ".join(_told(form, _of(found, form))) for form in found.forms],
        tables=[_table(form, _of(found, form)) for form in found.forms],
        files={"committees.csv": _csv(found)},
    )


def _of(found: CommitteeFindings, form: CommitteeForm) -> list[CommitteeLine]:
    """A form's lines: clean images first, then attack by attack, by what the attacker holds."""
    lines = [
        line for line in found.lines if (line.committee, line.panel.method) == (form.name, form.method)
    ]
    panels = list(dict.fromkeys(line.panel for line in lines))
    return sorted(lines, key=lambda line: (panels.index(line.panel), _HOLDINGS.index(line.holding)))


def _table(form: CommitteeForm, lines: Sequence[CommitteeLine]) -> Table:
    rows = []
    for line in lines:
        made = [line.panel.attack, threat_words(line.panel)]
        words = [_holds(line, form), *([NONE, NONE] if line.holding == "nothing" else made)]
        shares = _shares(line)
        rows.append([*words, str(line.sources), *(_written(shares[name]) for name in _COLUMNS)])
    told = [line.right[1] for line in lines]
    return Table(
        title=f"Committee {form.name}, {method_words(form.method)}",
        note="In % of all images, means over sources and committees. One member: the same models, of which "
        "one, drawn at random, answers alone. Read right in so many queries: every time, whoever answers; "
        f"in any number of queries: misread by no quorum. {reach(told)}",
        header=[
            *("The attacker holds", "Attack", "Threat", "Sources"),
            *_COLUMNS.values(),
        ],
        rows=rows,
        words=3,
        groups=[("", 4), ("Read right", len(_COLUMNS) - 2), ("Misread by", 2)],
    )


def _shares(line: CommitteeLine) -> dict[str, Interval]:
    """Every share of a line with its interval, by the name of its column in committees.csv."""
    never = line.never.interval()
    right = {f"right_in_{n}": estimate.interval() for n, estimate in line.right.items()}
    # What no quorum misreads is read right in any number of queries: no fewer can be.
    right = {n: each._replace(high=max(each.high, never.high)) for n, each in right.items()}
    misread = {"mostly": line.mostly.interval(), "always": line.always.interval()}
    return {"alone": line.alone.interval(), **right, "never": never, **misread}


def _written(found: Interval) -> str:
    return percent(found.rate) if found.low != found.low else interval(found)


def _holds(line: CommitteeLine, form: CommitteeForm) -> str:
    words: Mapping[Holding, str] = {
        "nothing": "clean images",
        "plain": "the plain model",
        "outsider": "a key outside",
        "member": "one member",
        "some": f"{form.members // 2} members",
        "as one": f"all {form.members}, as one",
        "loss": f"all {form.members}, by expected loss",
        "answer": f"all {form.members}, by expected answer",
    }
    return words[line.holding]


def _told(form: CommitteeForm, lines: Sequence[CommitteeLine]) -> Iterator[str]:
    how = "by their votes" if form.vote else "by the mean of their logits"
    judged = "all quorums" if form.exact else f"{form.quorums:,} quorums, drawn once for all images,"
    several = f"{form.committees} such committees" if form.committees > 1 else "one such committee"
    yield (
        f"{form.name}, {method_words(form.method)}: {form.seats} of {form.members} keyed models answer "
        f"each query, {how}; {judged} are judged, and the study's keys make {several}."
    )
    for line in lines:
        if line.holding == "nothing":
            yield f"Of clean images a query reads {_right(line)} right{_gain(line)}."
    panel = _hardest(lines)
    if panel is None:
        return
    there = [line for line in lines if line.panel == panel]
    parts = [f"{_right(line)} from who holds {_holds(line, form)}" for line in there]
    yield f"Under {panel.attack}, {threat_words(panel)}, a query reads right {'; '.join(parts)}."
    strongest = min(reversed(there), key=lambda line: line.right[1].value)
    yield (
        f"The strongest is who holds {_holds(strongest, form)}{_gain(strongest)}: of his images "
        f"{share(strongest.right[10].value)} are read right in ten queries, {share(strongest.never.value)} "
        f"by every quorum, and {share(strongest.always.value)} are misread by every quorum."
    )


def _hardest(lines: Sequence[CommitteeLine]) -> Panel | None:
    """The attack and threat under which some attacker leaves least."""
    attacked = [line for line in lines if line.holding != "nothing"]
    return min(attacked, key=lambda line: line.right[1].value).panel if attacked else None


def _right(line: CommitteeLine) -> str:
    """What one query reads right, for use in a sentence."""
    found = _shares(line)["right_in_1"]
    ends = f" [{percent(found.low)}, {percent(found.high)}]" if found.low == found.low else ""
    return f"{share(found.rate)}{ends}"


def _gain(line: CommitteeLine) -> str:
    """What the committee is worth beside the same models without one."""
    if line.committee.startswith("1of"):  # then it is such a member
        return ""
    gain = difference(line.right[1], line.alone).interval()
    ends = f" [{_signed(gain.low)}, {_signed(gain.high)}]" if gain.low == gain.low else ""
    return f" ({_signed(gain.rate)} points{ends} beside one member alone)"


def _signed(points: float) -> str:
    return f"{'−' if points < 0 else '+'}{percent(abs(points))}"


def _csv(found: CommitteeFindings) -> bytes:
    """Every line with its shares in [0, 1] and the ends of their intervals; blank where there is none."""
    text = StringIO()
    lines = csv.writer(text, lineterminator="\n")
    named = list(_shares(found.lines[0]))
    ends = [f"{name}{end}" for name in named for end in ("", "_low", "_high")]
    lines.writerow(
        ["committee", "method", "holding", "attack", "norm", "epsilon", "sources", "images", *ends]
    )
    for line in found.lines:
        panel = line.panel
        of = [line.committee, panel.method, line.holding, panel.attack, panel.norm, panel.epsilon]
        numbers = [number for each in _shares(line).values() for number in each]
        written = ["" if number != number else f"{number:.6f}" for number in numbers]
        lines.writerow([*of, line.sources, line.images, *written])
    return text.getvalue().encode()
