"""Noise of an attack's size that attacks nothing: a detector that stops it knows noise, not attacks."""

from jaxtyping import Float
from torch import Tensor

from orchestrator.attacks.attack import Points
from orchestrator.attacks.noise import normal
from orchestrator.attacks.starts import steepest
from orchestrator.attacks.threat import Threat, project


def noisy(points: Points, threat: Threat) -> Float[Tensor, "images 3 height width"]:
    """Images moved as far as the threat allows in a random direction: by random signs under ℓ∞."""
    direction = normal(points.seeds, 0, *points.images.shape[1:]).to(points.images)
    return project(points.images + threat.epsilon * steepest(direction, threat), points.images, threat)
