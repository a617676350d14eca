"""Agenda: attack units as they become possible, while some models are still being trained."""

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from orchestrator.cluster.runner import Failed, Finished
from orchestrator.models.ref import ModelRef
from orchestrator.transfer.work import AttackUnit, WorkUnit

AttackWork = WorkUnit | AttackUnit
AttackAccount = Finished[AttackWork] | Failed[AttackWork]
# Moved images that wait for their targets at most: at 1,000 images of 224 px a unit, 77 GB in the store.
_EARLY_MOST = 128


@dataclass
class _Group:
    """Units of one source for the same targets."""

    sources: set[str]
    """Models the source consists of."""
    unmade: set[str]
    """Of those, the ones that are not trained yet."""
    awaited: set[str]
    """Targets that are not trained yet."""
    todo: deque[WorkUnit] = field(default_factory=deque)
    attacked: deque[WorkUnit] = field(default_factory=deque)


class Agenda:
    """A feed of attack units; a unit is whole when its source and all its targets are there.

    Where a device is free and only the source is there, the attack alone is handed out: its images
    are kept, and scored when the last target is trained. So no attack is made twice, and no device
    waits for the slowest training.

    Args:
        pending: units without outcomes.
        training: models that are being made.
        kept: addresses of moved images that an earlier run kept.
    """

    def __init__(
        self, pending: Iterable[WorkUnit], training: Iterable[ModelRef], kept: Iterable[str] = ()
    ) -> None:
        self._lock = threading.Lock()
        self._training = {model.label for model in training}
        self._lost: set[str] = set()
        self._early: dict[str, _Group] = {}
        self._groups: dict[tuple[str, tuple[ModelRef, ...]], _Group] = {}
        attacked = frozenset(kept)
        for unit in pending:
            group = self._group(unit)
            if unit.attack_unit.address in attacked:
                group.attacked.append(replace(unit, kept=True))
            else:
                group.todo.append(unit)

    def model_ended(self, model: ModelRef, made: bool) -> None:
        """A training is over; without the model, what needs it is left out."""
        with self._lock:
            self._training.discard(model.label)
            if not made:
                self._lost.add(model.label)
            for group in self._groups.values():
                group.awaited.discard(model.label)
                group.unmade.discard(model.label)
                if not made and model.label in group.sources:
                    group.todo.clear()
                    group.attacked.clear()

    def settle(self, account: AttackAccount) -> None:
        """An early attack is over; its unit can be scored when its targets are there."""
        unit = account.unit
        if isinstance(unit, AttackUnit):
            with self._lock:
                group = self._early.pop(unit.id)
                if isinstance(account, Finished):
                    group.attacked.append(replace(unit.unit, kept=True))

    def take(self) -> AttackWork | None:
        """A whole unit, else an attack that can be made early."""
        with self._lock:
            for group in self._groups.values():
                while self._whole(group) and (group.attacked or group.todo):
                    unit = (group.attacked or group.todo).popleft()
                    targets = tuple(t for t in unit.targets if t.label not in self._lost)
                    if targets:
                        return unit if targets == unit.targets else replace(unit, targets=targets)
            startable = next((g for g in self._groups.values() if self._can_start(g)), None)
            if startable is None:
                return None
            early = startable.todo.popleft().attack_unit
            self._early[early.id] = startable
            return early

    def waiting(self) -> int:
        """How many units can be done now."""
        with self._lock:
            groups = list(self._groups.values())
            whole = sum(len(g.todo) + len(g.attacked) for g in groups if self._whole(g))
            early = sum(len(g.todo) for g in groups if self._can_start(g))
            return whole + min(early, self._early_room())

    def ended(self) -> bool:
        """Whether every unit was handed out or left out."""
        with self._lock:
            return not self._early and not any(g.todo or g.attacked for g in self._groups.values())

    def _group(self, unit: WorkUnit) -> _Group:
        place = (unit.source.label, unit.targets)
        if place not in self._groups:
            awaited = {target.label for target in unit.targets} & self._training
            sources = {member.label for member in unit.source.members}
            self._groups[place] = _Group(sources, sources & self._training, awaited)
        return self._groups[place]

    def _whole(self, group: _Group) -> bool:
        return not group.unmade and not group.awaited

    def _can_start(self, group: _Group) -> bool:
        return not group.unmade and bool(group.awaited and group.todo) and self._early_room() > 0

    def _early_room(self) -> int:
        waiting = sum(len(group.attacked) for group in self._groups.values())
        return _EARLY_MOST - waiting - len(self._early)
