"""Warnings: signs that an attack failed rather than a model held, from the records of all outcomes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from orchestrator.attacks.attack import Attack
from orchestrator.transfer.matrix import Panel, TransferMatrix
from orchestrator.transfer.work import Scored

_INDICATORS = {
    "unsteady": "answers differently when asked again (a random or changing model); average over several "
    "looks before believing its robustness",
    "zero_gradient": "has a gradient of exactly zero, so gradients lead nowhere; trust query and transfer "
    "attacks only",
    "saturated": "has a cross-entropy of exactly zero in float32; trust apgd-dlr, apgd-t or standard, not "
    "attacks on the cross-entropy",
    "unbounded_standing": "withstands an attack that may move pixels anywhere in [0, 1], which no model "
    "does; its gradients are masked",
}
# Square beats white-box attacks by more than this only where gradients mislead (AutoAttack's own check).
_CLEARLY = 0.002


def warn(scored: Sequence[Scored], matrix: TransferMatrix, attacks: Mapping[str, Attack]) -> list[str]:
    """What a reader must know before the matrix, one sentence each, the gravest first.

    Args:
        scored: recorded outcomes; each record tells the indicators of its source, and the images whose
            success was silent or not confirmed.
        matrix: what they come to.
        attacks: the study's attacks by canonical name.

    Raises:
        DamagedArtifact: a record does not tell.
    """
    return [*_masked(scored), *_better_blind(matrix, attacks), *_counts(scored)]


def _masked(scored: Sequence[Scored]) -> list[str]:
    found: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for part in scored:
        indicators = part.record.told("indicators", dict, part.address)
        source = part.address.rsplit("/", 3)[1]
        for name in _INDICATORS:
            hits, looked_at = found[source, name], int(indicators.get("looked_at", 0))
            hits[0] += int(indicators.get(name, 0))
            hits[1] += looked_at
    return [
        f"{source}: {hits} of {of} images looked at: it {_INDICATORS[name]}."
        for (source, name), (hits, of) in sorted(found.items(), key=lambda item: item[0])
        # One image that is saturated or flat says nothing of a model.
        if hits and (hits > 0.05 * of or name in ("unsteady", "unbounded_standing"))
    ]


def _better_blind(matrix: TransferMatrix, attacks: Mapping[str, Attack]) -> list[str]:
    """Sources on which an attack without gradients fools more than every attack with them."""
    sentences = []
    panels = matrix.panels()
    for method, norm, epsilon in dict.fromkeys((p.method, p.norm, p.epsilon) for p in panels):
        robust: dict[str, dict[bool, float]] = defaultdict(dict)
        for name, attack in attacks.items():
            for (source, target), cell in matrix.cells(Panel(method, name, norm, epsilon)).items():
                if source == target and cell.n:
                    sighted = attack.access == "gradients"
                    least = min(robust[source].get(sighted, 1.0), cell.robust.rate)
                    robust[source][sighted] = least
        for source, rates in robust.items():
            if len(rates) == 2 and rates[False] < rates[True] - _CLEARLY:
                sentences.append(
                    f"{source} ({method}, {norm} {epsilon:g}): an attack that sees no gradient leaves "
                    f"{100 * rates[False]:.1f} % read right, the best that sees them "
                    f"{100 * rates[True]:.1f} %. Its gradients mislead."
                )
    return sentences


def _counts(scored: Sequence[Scored]) -> list[str]:
    silent = sum(part.record.told("silent", int, part.address) for part in scored)
    unconfirmed = sum(part.record.told("unconfirmed", int, part.address) for part in scored)
    sentences = []
    if silent:
        sentences.append(
            f"{silent} images were misread on an attack's way, and answered with one read right."
        )
    if unconfirmed:
        sentences.append(
            f"{unconfirmed} misreadings were not repeated in another batch size; they count as read right."
        )
    return sentences
