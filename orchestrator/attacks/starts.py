"""Random starts: one per image, from the image's own seed."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.attacks.answer import per_image
from orchestrator.attacks.attack import Threat, project


def random_start(
    images: Float[Tensor, "batch 3 height width"], threat: Threat, seeds: Sequence[int]
) -> Float[Tensor, "batch 3 height width"]:
    """A random point on the border of each image's ball, projected; one seed per image.

    Noise is uniform (ℓ∞) or normal (ℓ2), stretched to length ε as in the authors' code. It is drawn
    on the CPU in float64, so that the start is the same on every device and in every float type.
    """
    noise = torch.empty(images.shape, dtype=torch.float64)
    for row, seed in zip(noise, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        if threat.norm == "linf":
            row.uniform_(-1, 1, generator=generator)
        else:
            row.normal_(generator=generator)
    noise = threat.epsilon * unit_steps(noise, threat)
    return project(images + noise.to(images), images, threat)


def unit_steps(
    steps: Float[Tensor, "batch 3 height width"], threat: Threat
) -> Float[Tensor, "batch 3 height width"]:
    """Steps scaled to length 1 in the threat's norm; a step of length 0 stays 0."""
    flat = steps.flatten(1)
    length = flat.abs().amax(dim=1) if threat.norm == "linf" else flat.norm(dim=1)
    return steps / (per_image(length) + 1e-12)
