"""Pairing: which attacks of a study run under which of its threats, and what is refused as never run."""

from collections.abc import Mapping, Sequence

from orchestrator.attacks.attack import Attack
from orchestrator.attacks.threat import Ladder
from orchestrator.errors import StudyError

Pairing = tuple[str, Attack, Ladder]


def pair(attacks: Mapping[str, Attack], ladders: Sequence[Ladder]) -> tuple[Pairing, ...]:
    """Every attack, by its name, under all threats that it is made for."""
    return tuple(
        (name, attack, ladder)
        for name, attack in attacks.items()
        for ladder in ladders
        if ladder.norm in attack.norms
    )


def check_pairing(attacks: Mapping[str, Attack], ladders: Sequence[Ladder]) -> None:
    """Raise StudyError where an attack has no threat, a threat no attack, or one is given twice."""
    given = {ladder.norm for ladder in ladders}
    for name, attack in attacks.items():
        if not given & attack.norms:
            raise StudyError(
                f"Attack {name} is not defined for {' or '.join(sorted(given))}, only for "
                f"{', '.join(sorted(attack.norms))}. Give it such a one in --threats, or leave it out."
            )
    known = {norm for attack in attacks.values() for norm in attack.norms}
    alone = next((ladder for ladder in ladders if ladder.norm not in known), None)
    if alone:
        raise StudyError(
            f"No attack of {', '.join(attacks)} is defined for {alone} (--threats). Add one to --attacks "
            f"that is, or leave it out."
        )
    threats = [threat for ladder in ladders for threat in ladder.threats]
    twice = next((threat for threat in threats if threats.count(threat) > 1), None)
    if twice:
        raise StudyError(
            f"Threat {twice} is in two of --threats. Give it once: its counts would be added up."
        )


def check_patches(ladders: Sequence[Ladder], size: int) -> None:
    """Raise StudyError where a patch is the whole image."""
    for ladder in ladders:
        if ladder.norm == "patch" and ladder.threats[-1].epsilon >= size:
            raise StudyError(
                f"A patch of {ladder.threats[-1].radius} px covers images of {size} px. Give less."
            )
