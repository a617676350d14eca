"""The table of every attack by name, and how a study writes an attack down."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from orchestrator.attacks.apgd import ApgdCe
from orchestrator.attacks.attack import Attack
from orchestrator.attacks.auto_attack import AutoAttackStandard
from orchestrator.errors import StudyError

ATTACKS: dict[str, Attack] = {"apgd-ce": ApgdCe(), "autoattack": AutoAttackStandard()}


def parse_attack(text: str) -> tuple[str, Attack]:
    """An attack written as ``apgd-ce`` or ``autoattack:steps=20,queries=200``, after its slug.

    The slug is part of an address: the name, then every setting that differs from its default in
    the order of the attack's own fields, e.g. ``autoattack-steps20-queries200``. Two texts that
    mean the same have the same slug.

    Raises:
        StudyError: no such attack or setting, or a value the attack cannot take.
    """
    name, colon, rest = text.partition(":")
    if name not in ATTACKS:
        raise StudyError(f"Attack {name!r} is unknown. Known are {', '.join(ATTACKS)}.")
    default: Any = ATTACKS[name]
    attack = replace(default, **_settings(name, default, rest)) if colon else default
    values = {field.name: getattr(attack, field.name) for field in fields(attack)}
    changed = {key: value for key, value in values.items() if value != getattr(default, key)}
    return "-".join([name, *(f"{key}{value}" for key, value in changed.items())]), attack


def attack_settings(attack: Attack) -> dict[str, Any]:
    """An attack as plain values: its ``kind`` (name in the table) and every setting."""
    kind = next(name for name, row in ATTACKS.items() if type(row) is type(attack))
    values: Any = attack
    return {"kind": kind, **{field.name: getattr(attack, field.name) for field in fields(values)}}


def attack_from(settings: Mapping[str, Any]) -> Attack:
    """The attack that ``attack_settings`` wrote down."""
    values = {name: value for name, value in settings.items() if name != "kind"}
    row: Any = ATTACKS[settings["kind"]]
    built: Attack = replace(row, **values)
    return built


def _settings(name: str, attack: Any, text: str) -> dict[str, int | float]:
    types: dict[str, Any] = {field.name: field.type for field in fields(attack)}
    settings: dict[str, int | float] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or key not in types or key in settings:
            raise StudyError(
                f"Attack {name} cannot be set by {part!r}. Write SETTING=NUMBER, each once, "
                f"separated by commas; it has {', '.join(types)}."
            )
        try:
            settings[key] = types[key](value)
        except ValueError as error:
            kind = "a whole number" if types[key] is int else "a number"
            raise StudyError(f"Setting {key} of {name} is {value!r}, not {kind}.") from error
    return settings
