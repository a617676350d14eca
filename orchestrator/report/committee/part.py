"""The part of the report on committees: how often they read right, by what the attacker holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from orchestrator.report.committee.shares import committees_csv, shares
from orchestrator.report.committee.words import CAVEAT, TERMS, committee_sentences, holds
from orchestrator.report.fleet import reach
from orchestrator.report.summary import StudySummary
from orchestrator.report.tables import Table
from orchestrator.report.wording import NONE, interval, method_words, percent, threat_words
from orchestrator.statistics.proportion import Interval
from orchestrator.transfer.committee.findings import CommitteeFindings, CommitteeForm, CommitteeLine
from orchestrator.transfer.committee.unit import Holding

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
        paragraphs=[" ".join(committee_sentences(form, _of(found, form))) for form in found.forms],
        tables=[_table(form, _of(found, form)) for form in found.forms],
        files={"committees.csv": committees_csv(found)},
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
        words = [holds(line, form), *([NONE, NONE] if line.holding == "nothing" else made)]
        found = shares(line)
        rows.append([*words, str(line.sources), *(_written(found[name]) for name in _COLUMNS)])
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


def _written(found: Interval) -> str:
    return percent(found.rate) if found.low != found.low else interval(found)
