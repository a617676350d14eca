"""What the report says of committees in words."""

from collections.abc import Iterator, Mapping, Sequence

from orchestrator.report.committee.shares import shares
from orchestrator.report.wording import method_words, percent, share, threat_words
from orchestrator.statistics.estimate import difference
from orchestrator.transfer.committee.findings import CommitteeForm, CommitteeLine
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


def committee_sentences(form: CommitteeForm, lines: Sequence[CommitteeLine]) -> Iterator[str]:
    """What a form of committees is, and what it withstands."""
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
    parts = [f"{_right(line)} from who holds {holds(line, form)}" for line in there]
    yield f"Under {panel.attack}, {threat_words(panel)}, a query reads right {'; '.join(parts)}."
    strongest = min(reversed(there), key=lambda line: line.right[1].value)
    yield (
        f"The strongest is who holds {holds(strongest, form)}{_gain(strongest)}: of his images "
        f"{share(strongest.right[10].value)} are read right in ten queries, {share(strongest.never.value)} "
        f"by every quorum, and {share(strongest.always.value)} are misread by every quorum."
    )


def holds(line: CommitteeLine, form: CommitteeForm) -> str:
    """What the attacker holds."""
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


def _hardest(lines: Sequence[CommitteeLine]) -> Panel | None:
    """The attack and threat under which some attacker leaves least."""
    attacked = [line for line in lines if line.holding != "nothing"]
    return min(attacked, key=lambda line: line.right[1].value).panel if attacked else None


def _right(line: CommitteeLine) -> str:
    """What one query reads right, for use in a sentence."""
    found = shares(line)["right_in_1"]
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
