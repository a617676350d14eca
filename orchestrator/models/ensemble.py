"""Ensembles of a fleet: several models attacked as one, as an attacker does who guesses several keys."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from orchestrator.errors import StudyError
from orchestrator.models.committee import Insider
from orchestrator.models.ref import Method, ModelRef
from orchestrator.store.record import recipe_digest

Combine = Literal["logits", "gradients"]
_MOST = 8  # an ensemble's name lists its members, and names folders


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Several models attacked as one: a source, never a target. Holds no secret."""

    members: tuple[ModelRef, ...]
    """Two or more: keyed ones of one method, perhaps after the undefended one."""
    combine: Combine = "logits"
    """How they become one: the mean of their logits, or the mean of their losses' gradients."""

    @cached_property
    def name(self) -> str:
        """The members' names, e.g. ``plain+k-3f9a61c2d0e4``: the row in the matrix."""
        joined = "+".join(member.name for member in self.members)
        return joined if self.combine == "logits" else f"{joined}@{self.combine}"

    @cached_property
    def method(self) -> Method:
        """The method of the keyed members."""
        return next((m.method for m in self.members if m.method != "plain"), "plain")

    @cached_property
    def label(self) -> str:
        """The name with the method, as of a model."""
        return f"{self.name}.{self.method}"

    @property
    def keyed_slots(self) -> set[int]:
        """The slots of its members' keys."""
        return {member.slot for member in self.members if member.slot >= 0}

    @cached_property
    def digest(self) -> str:
        """The digest of what its members were made from, and of how they are combined."""
        return recipe_digest({"members": [m.digest for m in self.members], "combine": self.combine})


SourceRef = ModelRef | Ensemble | Insider


@dataclass(frozen=True)
class EnsembleSpec:
    """Which ensembles a study attacks: every ``keys`` keys in slot order, with or without plain.

    An attacker who guesses K keys trains K models of his own and attacks them together; keys of the
    fleet stand for his guesses, and the keys outside an ensemble for the devices he does not own.

    Raises:
        StudyError: fewer than two members, or more than eight keys.
    """

    keys: int
    plain: bool = False
    combine: Combine = "logits"

    def __post_init__(self) -> None:
        if self.keys + self.plain < 2 or self.keys < 1 or self.keys > _MOST:
            raise StudyError(
                f"An ensemble of {self.keys} keys{' and plain' if self.plain else ''} cannot be: give 2 to "
                f"{_MOST} keys, or plain+1 to plain+{_MOST}."
            )

    @classmethod
    def parse(cls, text: str) -> "EnsembleSpec":
        """The ensembles written as ``4``, ``plain+2`` or ``4@gradients``."""
        found = re.fullmatch(r"(plain\+)?(\d{1,3})(?:@(\w+))?", text)
        written = (found and found[3]) or "logits"
        combine: Combine | None = next((way for way in get_args(Combine) if way == written), None)
        if not found or combine is None:
            raise StudyError(
                f"Ensemble {text!r} is not written as 4, plain+2 or 4@gradients: how many keys, and how "
                "their models are combined."
            )
        return cls(int(found[2]), bool(found[1]), combine)

    def of(self, plain: ModelRef, keyed: Sequence[ModelRef]) -> list[Ensemble]:
        """The ensembles among one method's models in slot order; each leaves a key outside.

        Keys that are added later form new ensembles, and change none.
        """
        starts = range(0, len(keyed) - self.keys + 1, self.keys) if len(keyed) > self.keys else ()
        first = (plain,) if self.plain else ()
        groups = [keyed[start : start + self.keys] for start in starts]
        return [Ensemble(members=(*first, *group), combine=self.combine) for group in groups]


def member_names(source: str) -> list[str]:
    """The names of the models a source in the matrix consists of."""
    return source.partition("@")[0].split("+")
