"""Pace: how fast artifacts came and how long the rest takes, from when their records were written."""

from collections.abc import Sequence
from dataclasses import dataclass

# As for a run's own progress: the last so many.
_RECENT = 33
# A silence longer than two of the longest artifacts and this much more is a pause, not slow work.
_GRACE_SECONDS = 600.0


@dataclass(frozen=True)
class Made:
    """One artifact that is there."""

    at: float
    """When its record was written, in seconds since the epoch."""
    seconds: float
    """How long its making took, by its own account; 0 where it does not say."""


@dataclass(frozen=True)
class Pace:
    """None is what cannot be known."""

    per_minute: float | None = None
    seconds_left: float | None = None
    idle: bool = False
    """Whether something is to do and none came for longer than it takes."""


def pause_seconds(longest: float) -> float:
    """How long a silence is no sign of a pause, where the longest artifact took so many seconds."""
    return 2 * longest + _GRACE_SECONDS


def pace(made: Sequence[Made], to_do: int, now: float) -> Pace:
    """The pace of the last spell of work without a pause.

    Args:
        made: what is there, in any order.
        to_do: how many artifacts are not there.
        now: seconds since the epoch.
    """
    recent = sorted(made, key=lambda each: each.at)[-_RECENT:]
    if not recent or not to_do:
        return Pace(seconds_left=None if to_do else 0.0)
    longest = max(each.seconds for each in recent)
    pause = pause_seconds(longest)
    spell = [recent[-1]]
    for each in reversed(recent[:-1]):
        if spell[-1].at - each.at > pause:
            break
        spell.append(each)
    idle = now - recent[-1].at > pause
    gone = spell[0].at - spell[-1].at
    # One alone tells how long one takes, where one is made at a time.
    alone = 60 / longest if longest else None
    rate = 60 * (len(spell) - 1) / gone if gone > 0 else alone
    return Pace(rate, None if idle or rate is None else 60 * to_do / rate, idle)
