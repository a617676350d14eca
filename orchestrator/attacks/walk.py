"""Walk: an attack as single steps, so that an image that is done leaves and the next takes its place.

An author writes what one step does to rows of state that do not know each other: where to look, and
what to make of what was seen. The house keeps the slots full, counts, and remembers the best images.
So nothing an image meets depends on which others were in its batch, and no pass is spent on an image
that has already fallen where only that is asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orchestrator.attacks.answer import Answer
from orchestrator.attacks.attack import Points
from orchestrator.attacks.losses import cross_entropy
from orchestrator.attacks.source import Seen, Source

State = TypeVar("State")


@runtime_checkable
class Walk(Protocol[State]):
    """One attack in steps. A state is a dataclass of tensors whose first axis is that of images."""

    climbs: ClassVar[bool]
    """Whether every look takes a gradient."""

    def begin(self, points: Points) -> State:
        """The state of images that have not been looked at yet."""
        ...

    def ask(self, state: State) -> Float[Tensor, "rows 3 height width"]:
        """The image to look at next, for every row."""
        ...

    def loss(self, state: State, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, " rows"]:
        """What is climbed; not asked of a walk that does not climb."""
        ...

    def tell(self, state: State, seen: Seen) -> Bool[Tensor, " rows"]:
        """Take one step in place; which rows are at their end."""
        ...


def walk(
    source: Source, points: Points, steps: Walk[State], answer: Answer, *, early: bool, rows: Any = None
) -> None:
    """Walk all points to their end, or to the first image that is misread; ``answer`` keeps the best.

    Args:
        source: who is asked.
        points: all points of the attack.
        steps: the attack.
        answer: of all points; images are compared by their cross-entropy, whatever the walk climbs.
        early: whether a point is done as soon as it is misread.
        rows: which points to walk; all where none are given.
    """

    def step(state: State, here: Int[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
        shown, labels = steps.ask(state), points.labels[here]
        loss = (lambda logits: steps.loss(state, logits)) if steps.climbs else None
        seen = source.look(shown, here, labels, loss)
        answer.offer(here, shown, cross_entropy(seen.logits, labels), seen.misread)
        source.saw_misread(here[seen.misread])
        over = steps.tell(state, seen)
        return over | seen.misread if early else over

    keep_full(source.batch, points, steps.begin, step, rows=rows)


def keep_full(
    batch: int,
    points: Points,
    begin: Callable[[Points], State],
    step: Callable[[State, Int[Tensor, " rows"]], Bool[Tensor, " rows"]],
    *,
    rows: Any = None,
) -> None:
    """Step all points to their end, ``batch`` at a time: who is at its end makes room for the next.

    Args:
        batch: slots.
        points: all points of the attack.
        begin: the state of points that enter.
        step: changes a state in place, told which points its rows are; which of them are at their end.
        rows: which points to step; all where none are given.
    """
    waiting = torch.arange(len(points), device=points.images.device) if rows is None else rows
    here, state = waiting[:0], None
    while len(here) or len(waiting):
        room = batch - len(here)
        if room and len(waiting):
            fresh, waiting = waiting[:room], waiting[room:]
            entering = begin(points.part(fresh))
            state = entering if state is None else _join(state, entering)
            here = torch.cat([here, fresh])
        assert state is not None  # noqa: S101 - rows are here
        over = step(state, here)
        if over.any():
            going_on = (~over).nonzero()[:, 0]
            state = take(state, going_on) if len(going_on) else None
            here = here[going_on]


def take(state: State, rows: Int[Tensor, " some"]) -> State:
    """Some rows of a state."""
    return _map([state], lambda tensors: tensors[0][rows])


def _join(state: State, entering: State) -> State:
    return _map([state, entering], torch.cat)


def _map(states: Sequence[State], change: Any) -> State:
    first: Any = states[0]
    names = [each.name for each in fields(first)]
    changed: State = type(first)(**{name: change([getattr(s, name) for s in states]) for name in names})
    return changed
