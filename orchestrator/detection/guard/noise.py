"""Noise of an attack's size that attacks nothing: a detector that stops it knows noise, not attacks.

Its like under threats that are no norms: a patch of random pixels at a random place, an image turned and
shifted at random, random colours.
"""

from jaxtyping import Float
from torch import Tensor

from orchestrator.attacks.attack import Points
from orchestrator.attacks.noise import integers, normal, uniform
from orchestrator.attacks.patches import paste, window_at
from orchestrator.attacks.rendering import RENDERED, render, unmoved
from orchestrator.attacks.starts import steepest
from orchestrator.attacks.threat import Threat, project


def noisy(points: Points, threat: Threat) -> Float[Tensor, "images 3 height width"]:
    """Images moved as far as the threat allows in a random direction: by random signs under ℓ∞.

    So are the moves of rendered images: every turn and shift is as far as it may be, to a random side.
    """
    if threat.norm == "patch":
        return _random_patch(points, int(threat.epsilon))
    if threat.norm in RENDERED:
        still = unmoved(points.images, threat.norm)
        moves = threat.epsilon * normal(points.seeds, 0, *still.shape[1:]).sign().to(still)
        return render(points.images, moves, threat.norm)
    direction = normal(points.seeds, 0, *points.images.shape[1:]).to(points.images)
    return project(points.images + threat.epsilon * steepest(direction, threat), points.images, threat)


def _random_patch(points: Points, side: int) -> Float[Tensor, "images 3 height width"]:
    height, width = points.images.shape[2:]
    top, left = (integers(points.seeds, 1 + at, span - side + 1) for at, span in enumerate((height, width)))
    patches = uniform(points.seeds, 0, 3, side, side).to(points.images)
    return paste(points.images, patches, window_at(top * width + left, side, width))
