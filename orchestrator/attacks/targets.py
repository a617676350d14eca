"""Target classes of targeted attacks: the wrong classes of each image, likeliest first."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orchestrator.attacks.attack import Points
from orchestrator.attacks.source import Source


def wrong_classes(source: Source, points: Points) -> Int[Tensor, "rows others"]:
    """The classes other than the label by the clean image's logit; one forward pass an image.

    A class that is tied with the label is one of the others, never the label's place.
    """
    ranked = [
        likeliest(source.logits(points.images[rows], rows), points.labels[rows])
        for rows in points.slices(source.batch)
    ]
    return torch.cat(ranked) if ranked else points.labels.new_zeros(0, 1)


def likeliest(
    logits: Float[Tensor, "some classes"], labels: Int[Tensor, " some"]
) -> Int[Tensor, "some others"]:
    """The classes other than the label, by these logits; of tied ones the first comes first."""
    label_first = logits.scatter(1, labels[:, None], float("inf"))
    return label_first.argsort(dim=1, descending=True, stable=True)[:, 1:]
