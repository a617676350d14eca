"""CommitteeUnit: one committee, shown the images of one attack on one shard, or clean ones."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from orchestrator.models.committee import Committee, Insider
from orchestrator.models.ref import PLAIN
from orchestrator.store.record import recipe_digest
from orchestrator.transfer.work import WorkUnit

CLEAN = "clean"
"""In the place of an attack: images as they are."""
Holding = Literal["nothing", "plain", "outsider", "member", "some", "as one", "loss", "answer"]
"""What an attacker holds: the plain model, a key of his own, one member, some or all of them; all as one
model, by the expected loss or by the expected answer."""


@dataclass(frozen=True, kw_only=True)
class CommitteeUnit:
    """What a committee makes of some images."""

    committee: Committee
    shard: str
    """Address of the images."""
    shard_digest: str
    seed: int
    """The study's."""
    work: WorkUnit | None = None
    """The attack that moves the images; None shows them as they are."""

    @property
    def holding(self) -> Holding:
        """What the attacker holds of this committee."""
        source = self.work.source if self.work else None
        if isinstance(source, Insider):
            if len(source.members) < len(self.committee.members):
                return "some"
            return "as one" if source.seats == len(source.members) else source.expected
        if source is None or source.label == PLAIN:
            return "plain" if source else "nothing"
        return "member" if source in self.committee.members else "outsider"

    @property
    def inside(self) -> bool:
        """Whether the attacker is an insider of this committee."""
        return self.work is not None and isinstance(self.work.source, Insider)

    @property
    def source(self) -> str:
        """The name of what was attacked; the word clean where nothing was."""
        return self.work.source.name if self.work else CLEAN

    @property
    def address(self) -> str:
        """Where the judged rows are."""
        made = self.work.prefix.removeprefix("outcomes/") if self.work else f"{CLEAN}/{self._place}"
        return f"committees/{self.committee.label}/{made}"

    @property
    def id(self) -> str:
        """The unit's name in ledgers and logs."""
        return self.address

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """Everything that decides the judged rows."""
        return {
            "committee": self.committee.digest,
            "shard": self.shard_digest,
            "seed": self.seed,
            "attack": recipe_digest(self.work.attack_recipe) if self.work else CLEAN,
        }

    @property
    def _place(self) -> str:
        return self.shard.rsplit("/", 1)[1]
