"""Input gradients of models on clean images, and their cosines, image by image."""

import functools

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchestrator.attacks.source import Source

PASS = 32
"""Images of a pass, the last one filled up: as many rows round alike, whatever else is measured."""


def input_gradients(
    model: nn.Module,
    images: Float[Tensor, "images 3 size size"],
    labels: Int[Tensor, " images"],
    *,
    at_a_time: int = PASS,
) -> Float[Tensor, "images 3 size size"]:
    """Of each image's cross-entropy, by the plain image in [0, 1], divided by 1 − p(label).

    That is the gradient of the log-odds against the label: it has the same direction, and no model is so
    confident that nothing is left of it. A key whose transform has no gradient (``ffx``) is passed straight
    through.
    """
    source = Source([model], len(labels), batch=at_a_time, device=images.device)
    found = []
    for first in range(0, len(labels), at_a_time):
        rows = torch.arange(first, first + at_a_time, device=images.device) % len(labels)
        shown, own = images[rows], labels[rows]
        gradient = source.gradient(shown, rows, functools.partial(_odds, labels=own))
        found.append(gradient[: len(labels) - first])
    return torch.cat(found) if found else torch.zeros_like(images)


def cosines(
    gradients: Float[Tensor, "models images 3 size size"],
) -> Float[Tensor, "images models models"]:
    """Of every two models' gradients by the same image, in float64; nan where one of them is zero.

    Directions drawn at random have a mean of 0, and models that are one function have 1, whatever
    scales their losses.
    """
    found = []
    for of_image in gradients.flatten(2).unbind(1):
        exact = of_image.double()
        directions = exact / torch.linalg.vector_norm(exact, dim=1, keepdim=True)
        found.append((directions @ directions.T).clamp(-1, 1))
    models = len(gradients)
    return torch.stack(found) if found else gradients.new_zeros(0, models, models, dtype=torch.float64)


def _odds(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """The log-odds against the label; cross-entropy is log(1 + exp(odds)), and rises with them."""
    others = logits.scatter(1, labels[:, None], float("-inf")).logsumexp(dim=1)
    return others - logits.gather(1, labels[:, None])[:, 0]
