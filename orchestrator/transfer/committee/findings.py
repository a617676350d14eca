"""Findings on committees: from judged rows to shares of images, each with its interval.

Which quorum answers is chance, so an image has a probability p of being misread in one query: the share of
quorums that misread it. Every share below is of all images, misread clean ones among them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from orchestrator.statistics.estimate import Estimate
from orchestrator.statistics.pairs import Pairs, mean_rate
from orchestrator.statistics.replicates import poisson_weights
from orchestrator.transfer.committee.unit import CommitteeUnit, Holding
from orchestrator.transfer.matrix import Panel

QUERIES = (1, 10, 100)
"""How often an attacker who needs one misreading may show the same image."""
Values = Float[np.ndarray, " images"]


@dataclass(frozen=True, kw_only=True)
class CommitteeLine:
    """One sort of images shown to a study's committees of one form: an attack by what its maker holds."""

    committee: str
    """Its form, e.g. ``3of5``."""
    panel: Panel
    """Of clean images the norm is empty and epsilon 0."""
    holding: Holding
    sources: int
    images: int
    """Of one source."""
    alone: Estimate
    """Read right by a member drawn at random, in one query: the same models without a committee."""
    right: Mapping[int, Estimate]
    """Read right in so many queries, every time, each by a quorum drawn anew."""
    never: Estimate
    """Misread by no quorum, however often it is shown."""
    mostly: Estimate
    """Misread by more than half of the quorums."""
    always: Estimate
    """Misread by every quorum: in one query for sure."""


@dataclass(frozen=True, kw_only=True)
class CommitteeForm:
    """Committees of one form, of one method."""

    name: str
    method: str
    seats: int
    members: int
    vote: bool
    committees: int
    """How many the study's keys make."""
    quorums: int
    """How many were judged."""
    exact: bool
    """Whether these are all there are."""


@dataclass(frozen=True)
class CommitteeFindings:
    """Everything a report says of a study's committees."""

    forms: Sequence[CommitteeForm]
    lines: Sequence[CommitteeLine]


def _measured(p: Values, alone: Values) -> dict[str, Values]:
    """Shares of an image, by the chance that one query misreads it, and that one random member does."""
    return {
        "alone": 1 - alone,
        **{f"right in {queries}": (1 - p) ** queries for queries in QUERIES},
        "never": (p == 0).astype(float),
        "mostly": (p > 0.5).astype(float),
        "always": (p == 1).astype(float),
    }


@dataclass
class _Sums:
    """Sums over images of every measure, as counted and redrawn, of one source on one committee."""

    hits: Mapping[str, Float[np.ndarray, " draws"]]
    trials: Float[np.ndarray, " draws"]


@dataclass
class _Sort:
    """Images of one sort: what they came to, by source and committee, and which keys belong together."""

    sums: dict[tuple[str, str], _Sums] = field(default_factory=dict)
    clusters: dict[str, str] = field(default_factory=dict)

    def add(self, unit: CommitteeUnit, rows: pa.Table, weights: Float[np.ndarray, "images draws"]) -> None:
        p, alone = (
            pc.divide(rows[wrong].cast(pa.float64()), rows[ways]).to_numpy()
            for wrong, ways in (("misread", "quorums"), ("misread_alone", "members"))
        )
        label = unit.committee.label
        hits = {name: values @ weights for name, values in _measured(p, alone).items()}
        before = self.sums.get((unit.source, label))
        if before is not None:
            hits = {name: before.hits[name] + sums for name, sums in hits.items()}
        trials = weights.sum(axis=0) + (before.trials if before else 0.0)
        self.sums[unit.source, label] = _Sums(hits, trials)
        # Committees share no key, so whoever leaves out one of a committee's keys leaves out all of it.
        self.clusters |= {name: label for name in (label, *(each.name for each in unit.committee.members))}
        if unit.inside:
            self.clusters[unit.source] = label
        elif unit.holding == "outsider":
            self.clusters.setdefault(unit.source, unit.source)

    def estimates(self) -> dict[str, Estimate]:
        """Every measure, in the mean over sources and committees."""
        names = sorted({name for pair in self.sums for name in pair})
        places = {name: place for place, name in enumerate(names)}
        source, target = (np.array([places[pair[end]] for pair in self.sums]) for end in (0, 1))
        trials = np.stack([sums.trials for sums in self.sums.values()])
        found = {}
        for measure in next(iter(self.sums.values())).hits:
            hits = np.stack([sums.hits[measure] for sums in self.sums.values()])
            found[measure] = mean_rate(Pairs(names, source, target, hits, trials), self.clusters)
        return found


def read_committees(judged: Iterable[tuple[CommitteeUnit, pa.Table]], draws: int) -> CommitteeFindings:
    """Everything a report says of committees.

    Args:
        judged: units with their rows.
        draws: under how many redrawn sets of images everything is counted as well.
    """
    sorts: dict[tuple[str, Panel, Holding], _Sort] = {}
    forms: dict[tuple[str, str], list[tuple[CommitteeUnit, int]]] = {}
    weights: dict[str, Float[np.ndarray, "images draws"]] = {}
    for unit, rows in judged:
        committee = unit.committee
        forms.setdefault((committee.name, committee.method), []).append((unit, rows["quorums"][0].as_py()))
        for epsilon in sorted(rows["epsilon"].unique().to_pylist()):
            some = rows.filter(pc.equal(rows["epsilon"], epsilon))
            if unit.shard not in weights:
                names = some["image"].to_pylist()
                drawn = poisson_weights(names, draws).astype(float)
                weights[unit.shard] = np.concatenate([np.ones((len(names), 1)), drawn], axis=1)
            attack, norm = (some[name][0].as_py() for name in ("attack", "norm"))
            panel = Panel(committee.method, attack, norm, epsilon)
            sort = sorts.setdefault((committee.name, panel, unit.holding), _Sort())
            sort.add(unit, some, weights[unit.shard])
    lines = [_line(name, panel, holding, sort) for (name, panel, holding), sort in sorts.items()]
    return CommitteeFindings([_form(name, of) for (name, _), of in forms.items()], lines)


def _line(name: str, panel: Panel, holding: Holding, sort: _Sort) -> CommitteeLine:
    found = sort.estimates()
    return CommitteeLine(
        committee=name,
        panel=panel,
        holding=holding,
        sources=len({source for source, _ in sort.sums}),
        images=int(max(sums.trials[0] for sums in sort.sums.values())),
        alone=found["alone"],
        right={n: found[f"right in {n}"] for n in QUERIES},
        never=found["never"],
        mostly=found["mostly"],
        always=found["always"],
    )


def _form(name: str, units: Sequence[tuple[CommitteeUnit, int]]) -> CommitteeForm:
    committee, judged = units[0][0].committee, units[0][1]
    return CommitteeForm(
        name=name,
        method=committee.method,
        seats=committee.seats,
        members=len(committee.members),
        vote=committee.rule == "vote",
        committees=len({unit.committee.label for unit, _ in units}),
        quorums=judged,
        exact=judged == committee.every,
    )
