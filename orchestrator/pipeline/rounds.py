"""Rounds: which images a study attacks; all, or more and more until its rates are precise enough."""

import math
from collections.abc import Sequence

from orchestrator.pipeline.plan import Plan
from orchestrator.pipeline.tally import count
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.transfer.precision import Front, Round, fewest_images, next_round
from orchestrator.transfer.work import Scored, UnitPlan, WorkUnit, plan_units


class Rounds:
    """The units that are wanted by now; ``look`` at what they came to, and there may be more.

    What is wanted follows from recorded outcomes alone, so whoever goes on with a study, or writes it up
    again, comes to the same units.
    """

    def __init__(self, plan: Plan, store: ArtifactStore) -> None:
        self.plan, self.store, self.precision = plan, store, plan.study.precision
        self._place = {shard.address: number for number, shard in enumerate(plan.eval_shards)}
        first = len(self._place)
        if self.precision:
            # With fewer images no rate could be known so precisely, whatever they show.
            first = min(first, math.ceil(fewest_images(self.precision) / plan.study.shard_rows))
        self._shards = dict.fromkeys((Front.of(unit) for unit in plan.units), first)
        self._round: Round | None = None

    def wanted(self, units: Sequence[WorkUnit]) -> list[WorkUnit]:
        """Those of some units of the plan that are wanted in this round."""
        return [unit for unit in units if self._place[unit.shard] < self._shards[Front.of(unit)]]

    def look(self, scored: Sequence[Scored]) -> bool:
        """Look at what all wanted units came to; whether another round is to follow."""
        if not self.precision or not scored:
            return False
        matrix = count(self.store, scored)
        self._round = next_round(matrix, self.precision, self._shards, len(self._place))
        self._shards |= self._round.shards
        return not self._round.over

    def reach(self, units: Sequence[WorkUnit]) -> UnitPlan:
        """Go on to the round that some units of the plan have come to; what of it is recorded and left."""
        found = plan_units(self.wanted(units), self.store)
        while not found.pending and self.look(found.scored):
            found = plan_units(self.wanted(units), self.store)
        return found

    @property
    def told(self) -> list[str]:
        """What a reader must know of how many images were attacked."""
        if self._round is None:
            return []
        used = [str(number) for number in sorted(set(self._shards.values()))]
        spent = used[0] if len(used) == 1 else f"{used[0]} to {used[-1]}"
        return [f"{self._round.sentence} Sources were attacked on {spent} of {len(self._place)} shards."]
