"""The table of every attack by name, and how a study writes an attack down."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Literal, get_args, get_origin

from orchestrator.attacks.adaptive.eot_keys import EotKeys
from orchestrator.attacks.adaptive.invariant import KeyInvariant
from orchestrator.attacks.adaptive.key_search import KeySearch
from orchestrator.attacks.adaptive.leaked_patch import LeakedPatch
from orchestrator.attacks.attack import Attack
from orchestrator.attacks.gradient.apgd_targeted import ApgdTargeted
from orchestrator.attacks.gradient.apgd_untargeted import ApgdUntargeted
from orchestrator.attacks.gradient.fab import FabTargeted
from orchestrator.attacks.gradient.standard import Standard
from orchestrator.attacks.gradient.targeted_fgsm import TargetedFgsm
from orchestrator.attacks.oracle.auto_attack import AutoAttackStandard
from orchestrator.attacks.query.hop_skip_jump import HopSkipJump
from orchestrator.attacks.query.square import Square
from orchestrator.attacks.transfer.bsr import BlockShuffleRotate
from orchestrator.attacks.transfer.di_fgsm import DiverseInputsFgsm
from orchestrator.attacks.transfer.mi_fgsm import MomentumFgsm
from orchestrator.attacks.transfer.ni_fgsm import NesterovFgsm
from orchestrator.attacks.transfer.pna_patchout import PnaPatchOut
from orchestrator.attacks.transfer.si_fgsm import ScaleInvariantFgsm
from orchestrator.attacks.transfer.sia import StructureInvariant
from orchestrator.attacks.transfer.tgr import TokenGradient
from orchestrator.attacks.transfer.ti_fgsm import TranslationInvariantFgsm
from orchestrator.attacks.transfer.vmi_fgsm import VarianceTunedFgsm
from orchestrator.attacks.unrestricted.colour import Colour
from orchestrator.attacks.unrestricted.patch import Patch
from orchestrator.attacks.unrestricted.spatial import Spatial
from orchestrator.errors import StudyError

ATTACKS: dict[str, Attack] = {
    "apgd-ce": ApgdUntargeted(loss="ce"),
    "apgd-dlr": ApgdUntargeted(loss="dlr"),
    "apgd-t": ApgdTargeted(),
    "fab-t": FabTargeted(),
    "standard": Standard(),
    "targeted-fgsm": TargetedFgsm(),
    "i-fgsm": MomentumFgsm(momentum=0.0),
    "mi-fgsm": MomentumFgsm(),
    "ni-fgsm": NesterovFgsm(),
    "vmi-fgsm": VarianceTunedFgsm(),
    "di-fgsm": DiverseInputsFgsm(),
    "ti-fgsm": TranslationInvariantFgsm(),
    "si-fgsm": ScaleInvariantFgsm(),
    "bsr": BlockShuffleRotate(),
    "sia": StructureInvariant(),
    "pna-patchout": PnaPatchOut(),
    "tgr": TokenGradient(),
    "eot-keys": EotKeys(),
    "key-search": KeySearch(),
    "leaked-patch": LeakedPatch(),
    "invariant": KeyInvariant(),
    "square": Square(),
    "hop-skip-jump": HopSkipJump(),
    "autoattack": AutoAttackStandard(),
    "patch": Patch(),
    "spatial": Spatial(),
    "colour": Colour(),
}


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
    """An attack as plain values: its ``kind`` (a name in the table of the same sort) and every setting."""
    kind = next(name for name, row in ATTACKS.items() if type(row) is type(attack))
    values: Any = attack
    return {"kind": kind, **{field.name: getattr(attack, field.name) for field in fields(values)}}


def attack_from(settings: Mapping[str, Any]) -> Attack:
    """The attack that ``attack_settings`` wrote down."""
    values = {name: value for name, value in settings.items() if name != "kind"}
    row: Any = ATTACKS[settings["kind"]]
    built: Attack = replace(row, **values)
    return built


def _settings(name: str, attack: Any, text: str) -> dict[str, Any]:
    types: dict[str, Any] = {field.name: field.type for field in fields(attack)}
    settings: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or key not in types or key in settings:
            raise StudyError(
                f"Attack {name} cannot be set by {part!r}. Write SETTING=VALUE, each once, "
                f"separated by commas; it has {', '.join(types)}."
            )
        try:
            settings[key] = _READ.get(types[key], _choice(types[key]))(value)
        except (ValueError, KeyError):
            raise StudyError(f"Setting {key} of {name} is {value!r}, not {_wanted(types[key])}.") from None
    return settings


_READ: dict[Any, Any] = {int: int, float: float, bool: {"True": True, "False": False}.__getitem__}


def _choice(kind: Any) -> Any:
    return {choice: choice for choice in get_args(kind)}.__getitem__


def _wanted(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    return {int: "a whole number", float: "a number", bool: "True or False"}[kind]
