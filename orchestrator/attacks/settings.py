"""Settings of attacks, checked: each refusal is a sentence that names the attack's setting."""

from typing import Any

from orchestrator.errors import StudyError


def at_least(least: int | float, attack: Any, *names: str) -> None:
    """Raise StudyError unless each named setting of an attack is ``least`` or more."""
    for name in names:
        value = getattr(attack, name)
        if not value >= least:
            raise StudyError(f"Setting {name} of {_called(attack)} is {value:g}. Give at least {least:g}.")


def share(attack: Any, *names: str) -> None:
    """Raise StudyError unless each named setting of an attack is in (0, 1]."""
    for name in names:
        value = getattr(attack, name)
        if not 0 < value <= 1:
            raise StudyError(f"Setting {name} of {_called(attack)} is {value:g}. Give one in (0, 1].")


def chance(attack: Any, *names: str) -> None:
    """Raise StudyError unless each named setting of an attack is in [0, 1]."""
    for name in names:
        value = getattr(attack, name)
        if not 0 <= value <= 1:
            raise StudyError(f"Setting {name} of {_called(attack)} is {value:g}. Give one in [0, 1].")


def _called(attack: Any) -> str:
    return type(attack).__name__
