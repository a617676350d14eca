"""Judge: what a model reads an image as, decided here and nowhere else; in fp32, strictly, and twice."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchestrator.attacks.answer import misread
from orchestrator.errors import WeightsError


@dataclass(frozen=True)
class Reading:
    """What a model reads images as."""

    classes: Int[Tensor, " images"]
    """The class, or the label where a misreading was not confirmed."""
    unconfirmed: int
    """Misreadings that another batch size did not repeat."""


def read(
    models: Sequence[nn.Module],
    images: Float[Tensor, "images 3 size size"],
    labels: Int[Tensor, " images"],
    batch: int,
) -> Reading:
    """What a model reads, or several by the mean of their logits.

    Every misreading is looked at once more, in batches of another size, where a float may round
    otherwise; only what is misread in both counts.

    Raises:
        WeightsError: a logit is not a number; such a model would seem robust to everything.
    """
    classes = _in_batches(models, images, labels, batch)
    wrong = (classes != labels).nonzero()[:, 0]
    # Never the same size: one more than half of it, and of a batch of one, two.
    again = _in_batches(models, images[wrong], labels[wrong], batch // 2 + 1 if batch > 1 else 2)
    unconfirmed = again == labels[wrong]
    classes[wrong[unconfirmed]] = labels[wrong[unconfirmed]]
    return Reading(classes, int(unconfirmed.sum()))


def _in_batches(models: Sequence[nn.Module], images: Tensor, labels: Tensor, batch: int) -> Tensor:
    parts = [
        predict(models, images[start : start + batch], labels[start : start + batch])
        for start in range(0, len(labels), batch)
    ]
    return torch.cat(parts) if parts else labels.clone()


@torch.no_grad()
def predict(
    models: Sequence[nn.Module],
    images: Float[Tensor, "batch 3 height width"],
    labels: Int[Tensor, " batch"],
) -> Int[Tensor, " batch"]:
    """The class each image is read as; a tie with the label is read as the label.

    A model is misled only by a logit strictly above the label's: an exact tie proves nothing.

    Raises:
        WeightsError: a logit is not a number; such a model would seem robust to everything.
    """
    logits = torch.stack([model(images).float() for model in models]).mean(dim=0)
    return decided(logits, labels)


def decided(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """The class of each image by its logits; the label where it is tied.

    Raises:
        WeightsError: a logit is not a number.
    """
    if logits.isnan().any():
        raise WeightsError("A model gives logits that are not numbers. Train it again, with a lower rate.")
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return torch.where(misread(logits, labels), others.argmax(dim=1), labels)
