"""Settling: what the house does with what an attack found: checks, then projects or draws itself."""

import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.attacks.answer import Found
from orchestrator.attacks.rendering import RENDERED, render
from orchestrator.attacks.threat import Threat, check_threat, project
from orchestrator.errors import ThreatViolated

# What rounding may come to between an attack's drawing of an image and the house's.
_SAME = 1e-5


def settle(found: Found, images: Float[Tensor, "batch 3 height width"], threat: Threat) -> Found:
    """The images that count: an attack's own, projected; under a rendered threat the house's drawing.

    Raises:
        ThreatViolated: an image or a move is outside the threat, or an image is not what its moves make.
    """
    if threat.norm not in RENDERED:
        for moved in (found.worst, found.best):
            check_threat(moved, images, threat)
        return Found(project(found.worst, images, threat), project(found.best, images, threat))
    if found.worst_moves is None or found.best_moves is None:
        raise ThreatViolated(
            f"An attack under {threat} does not tell its moves. It is a defect of the attack."
        )
    worst_moves = _checked_moves(found.worst_moves, images, threat)
    best_moves = _checked_moves(found.best_moves, images, threat)
    return Found(
        _drawn(found.worst, worst_moves, images, threat),
        _drawn(found.best, best_moves, images, threat),
        worst_moves,
        best_moves,
    )


def _checked_moves(moves: Tensor, images: Tensor, threat: Threat) -> Tensor:
    shape = (len(images), *RENDERED[threat.norm].shape)
    if moves.shape != shape or not torch.isfinite(moves).all():
        raise ThreatViolated(
            f"An attack under {threat} answered with moves of shape {tuple(moves.shape)}, not with finite "
            f"ones of shape {shape}. This is a defect of the attack."
        )
    largest = float(moves.abs().max()) if len(moves) else 0.0
    if largest > threat.epsilon * (1 + 1e-5) + 1e-6:
        raise ThreatViolated(
            f"An attack under {threat} moved an image by {largest:.6g}. This is a defect of the attack."
        )
    return moves.clamp(-threat.epsilon, threat.epsilon)


def _drawn(claimed: Tensor, moves: Tensor, images: Tensor, threat: Threat) -> Tensor:
    """The house's own image of these moves, where the attack's is the same."""
    own = render(images, moves, threat.norm)
    apart = (own - claimed).abs().flatten(1).amax(dim=1)
    if not bool((apart <= _SAME).all()):
        raise ThreatViolated(
            f"An attack under {threat} answered with an image that its moves do not make. "
            "This is a defect of the attack."
        )
    return own
