"""Where attacks begin: a random point of each image's ball, from the image's own seed."""

import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.attacks.answer import per_image
from orchestrator.attacks.attack import Points
from orchestrator.attacks.noise import normal, uniform
from orchestrator.attacks.threat import Threat, project


def random_start(points: Points, threat: Threat) -> Float[Tensor, "rows 3 height width"]:
    """A random point on the border of each image's ball, projected.

    Noise is uniform (ℓ∞) or normal (ℓ2, ℓ1), stretched to length ε as in the code of Croce & Hein's
    APGD; under ℓ1 it is projected there from outside.
    """
    shape = points.images.shape[1:]
    noise = (
        2 * uniform(points.seeds, 0, *shape) - 1
        if threat.norm == "linf"
        else normal(points.seeds, 0, *shape)
    )
    if threat.norm != "l1":
        noise = threat.epsilon * unit_steps(noise, threat)
    return project(points.images + noise.to(points.images), points.images, threat)


def unit_steps(
    steps: Float[Tensor, "batch 3 height width"], threat: Threat
) -> Float[Tensor, "batch 3 height width"]:
    """Steps scaled to length 1 in the threat's norm; a step of length 0 stays 0."""
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[threat.norm]
    length = torch.linalg.vector_norm(steps.flatten(1), order, dim=1)
    return steps / (per_image(length) + 1e-12)


def steepest(
    gradient: Float[Tensor, "batch 3 height width"], threat: Threat
) -> Float[Tensor, "batch 3 height width"]:
    """The step of length 1 along which a loss rises fastest: by sign under ℓ∞, else the scaled gradient."""
    return gradient.sign() if threat.norm == "linf" else unit_steps(gradient, threat)
