"""Committees: a service that holds N keyed models, of which a fresh random S answer each query.

MaungMaung, Echizen and Kiya (2024, arXiv 2402.07183) deploy keyed ViTs so. The subset that answers is a
quorum; whatever is random in the defence is which quorum it is.
"""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from orchestrator.errors import StudyError
from orchestrator.models.ref import Method, ModelRef
from orchestrator.seeds import derive_seed
from orchestrator.store.record import recipe_digest

Rule = Literal["mean", "vote"]
Expected = Literal["loss", "answer"]
Quorum = tuple[int, ...]
"""Places of the members that answer, ascending."""
_MOST = 64


@dataclass(frozen=True, kw_only=True)
class Committee:
    """Keyed models of one method, of which ``seats`` answer each query. Holds no secret."""

    members: tuple[ModelRef, ...]
    seats: int
    rule: Rule = "mean"
    """How a quorum answers: by the mean of its logits, or by the class most of its models read."""

    @property
    def name(self) -> str:
        """How a study writes it, e.g. ``3of5`` or ``3of5@vote``."""
        return f"{self.seats}of{len(self.members)}" + ("" if self.rule == "mean" else f"@{self.rule}")

    @property
    def method(self) -> Method:
        """The members' method."""
        return self.members[0].method

    @property
    def label(self) -> str:
        """The name with the slot of its first key and the method: a study has several committees."""
        return f"{self.name}-{self.members[0].slot:05d}.{self.method}"

    @cached_property
    def digest(self) -> str:
        """The digest of what its members were made from, and of how they answer."""
        members = [member.digest for member in self.members]
        return recipe_digest({"members": members, "seats": self.seats, "rule": self.rule})

    @property
    def every(self) -> int:
        """How many quorums there are."""
        return math.comb(len(self.members), self.seats)

    @property
    def insiders(self) -> "tuple[Insider, ...]":
        """Those who hold members: half of them; all, as if they were one model; and all, by quorums."""
        everyone, half = self.members, len(self.members) // 2
        found = [Insider(members=everyone, seats=len(everyone))]
        if half > 1:
            some = Insider(members=everyone[:half], seats=min(half, self.seats), expected="answer")
            found.insert(0, some)
        if self.seats < len(everyone):
            ways: tuple[Expected, ...] = get_args(Expected)
            found += [Insider(members=everyone, seats=self.seats, expected=way) for way in ways]
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Insider:
    """Who holds models of a committee and attacks quorums of them: a source, never a target.

    With as many seats as models there is one quorum: the models are attacked as one, by the mean of
    their logits.
    """

    members: tuple[ModelRef, ...]
    seats: int
    expected: Expected = "loss"
    """What is climbed: the mean over quorums of their losses, or the loss of their mean probabilities."""

    @property
    def name(self) -> str:
        """Its first key's slot, how many of how many are attacked at a time, and the expected answer."""
        ending = "" if self.expected == "loss" else f"@{self.expected}"
        return f"insider-{self.members[0].slot:05d}-{self.seats}of{len(self.members)}{ending}"

    @property
    def method(self) -> Method:
        """The members' method."""
        return self.members[0].method

    @property
    def label(self) -> str:
        """The name with the method, as of a model."""
        return f"{self.name}.{self.method}"

    @cached_property
    def digest(self) -> str:
        """The digest of what its models were made from, and of how they are attacked."""
        made = {"insider": [member.digest for member in self.members], "seats": self.seats}
        return recipe_digest(made if self.expected == "loss" else {**made, "expected": self.expected})


@dataclass(frozen=True)
class CommitteeSpec:
    """Which committees a study judges: of every ``keys`` keys in slot order, as far as they go round.

    Raises:
        StudyError: fewer than two keys or too many, or more seats than keys.
    """

    seats: int
    keys: int
    rule: Rule = "mean"

    def __post_init__(self) -> None:
        if not 2 <= self.keys <= _MOST or not 1 <= self.seats <= self.keys:
            raise StudyError(
                f"A committee of {self.seats} of {self.keys} keys cannot be: give 2 to {_MOST} keys, and "
                "as many seats at most."
            )

    @classmethod
    def parse(cls, text: str) -> "CommitteeSpec":
        """The committees written as ``3of5`` or ``3of5@vote``."""
        found = re.fullmatch(r"(\d{1,3})of(\d{1,3})(?:@(\w+))?", text)
        written = (found and found[3]) or "mean"
        rule: Rule | None = next((each for each in get_args(Rule) if each == written), None)
        if not found or rule is None:
            raise StudyError(
                f"Committee {text!r} is not written as 3of5 or 3of5@vote: how many of how many keys' "
                "models answer a query, and how."
            )
        return cls(int(found[1]), int(found[2]), rule)

    def of(self, keyed: Sequence[ModelRef]) -> list[Committee]:
        """The committees among one method's models in slot order; keys that are added form new ones."""
        starts = range(0, len(keyed) - self.keys + 1, self.keys)
        groups = [tuple(keyed[start : start + self.keys]) for start in starts]
        return [Committee(members=group, seats=self.seats, rule=self.rule) for group in groups]


def quorums(members: int, seats: int, most: int, seed: int) -> list[Quorum]:
    """Every quorum once, in order; where they are more than ``most``, so many draws of one, by the seed."""
    if math.comb(members, seats) <= most:
        return list(itertools.combinations(range(members), seats))
    return [_drawn(members, seats, derive_seed(seed, "quorum", number)) for number in range(most)]


def _drawn(members: int, seats: int, seed: int) -> Quorum:
    shuffled = sorted(range(members), key=lambda member: derive_seed(seed, member))
    return tuple(sorted(shuffled[:seats]))
