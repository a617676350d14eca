"""The shares of a committee's line with their intervals, and committees.csv."""

import csv
from io import StringIO

from orchestrator.statistics.proportion import Interval
from orchestrator.transfer.committee.findings import CommitteeFindings, CommitteeLine


def shares(line: CommitteeLine) -> dict[str, Interval]:
    """Every share of a line with its interval, by the name of its column in committees.csv."""
    never = line.never.interval()
    right = {f"right_in_{n}": estimate.interval() for n, estimate in line.right.items()}
    # What no quorum misreads is read right in any number of queries: no fewer can be.
    right = {n: each._replace(high=max(each.high, never.high)) for n, each in right.items()}
    misread = {"mostly": line.mostly.interval(), "always": line.always.interval()}
    return {"alone": line.alone.interval(), **right, "never": never, **misread}


def committees_csv(found: CommitteeFindings) -> bytes:
    """Every line with its shares in [0, 1] and the ends of their intervals; blank where there is none."""
    text = StringIO()
    lines = csv.writer(text, lineterminator="\n")
    named = list(shares(found.lines[0]))
    ends = [f"{name}{end}" for name in named for end in ("", "_low", "_high")]
    lines.writerow(
        ["committee", "method", "holding", "attack", "norm", "epsilon", "sources", "images", *ends]
    )
    for line in found.lines:
        panel = line.panel
        of = [line.committee, panel.method, line.holding, panel.attack, panel.norm, panel.epsilon]
        numbers = [number for each in shares(line).values() for number in each]
        written = ["" if number != number else f"{number:.6f}" for number in numbers]
        lines.writerow([*of, line.sources, line.images, *written])
    return text.getvalue().encode()
