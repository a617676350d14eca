"""Judge: what a model reads an image as, decided here and nowhere else; in fp32, strictly, and twice."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchestrator.attacks.answer import misread
from orchestrator.errors import WeightsError
from orchestrator.models.lora_batch import LoraBatch

Predict = Callable[[Tensor, Tensor], Tensor]


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
    ask = functools.partial(predict, models)
    return _confirmed(_in_batches(ask, images, labels, batch), ask, images, labels, batch)


def read_together(
    together: LoraBatch,
    images: Float[Tensor, "images 3 size size"],
    labels: Int[Tensor, " images"],
    batch: int,
) -> list[Reading]:
    """What each of several LoRA models reads, all in one batch on the weights they share.

    ``batch`` rows are read at a time: as many images, divided by the number of models. Every misreading
    is looked at once more by its model alone, in a batch of another size.

    Raises:
        WeightsError: a logit is not a number.
    """
    if not len(labels):
        return [Reading(labels.clone(), 0)] * together.models
    at_a_time = max(1, batch // together.models)
    classes = _in_batches(functools.partial(_predict_each, together), images, labels, at_a_time)
    return [
        _confirmed(own, functools.partial(_predict_alone, together, place), images, labels, batch)
        for place, own in enumerate(classes.T.contiguous())
    ]


def _confirmed(
    classes: Int[Tensor, " images"], ask: Predict, images: Tensor, labels: Tensor, batch: int
) -> Reading:
    """Classes, of which a misreading that another batch size does not repeat is taken back."""
    wrong = (classes != labels).nonzero()[:, 0]
    # Never the same size: one more than half of it; of a batch of two, one, and of one, two.
    again = _in_batches(ask, images[wrong], labels[wrong], batch // 2 + 1 if batch > 2 else 3 - batch)
    unconfirmed = again == labels[wrong]
    classes[wrong[unconfirmed]] = labels[wrong[unconfirmed]]
    return Reading(classes, int(unconfirmed.sum()))


def _in_batches(ask: Predict, images: Tensor, labels: Tensor, batch: int) -> Tensor:
    parts = [
        ask(images[start : start + batch], labels[start : start + batch])
        for start in range(0, len(labels), batch)
    ]
    return torch.cat(parts) if parts else labels.clone()


@torch.no_grad()
def _predict_each(
    together: LoraBatch, images: Float[Tensor, "batch 3 height width"], labels: Int[Tensor, " batch"]
) -> Int[Tensor, "batch models"]:
    logits = together(images).float()
    return torch.stack([decided(of_one, labels) for of_one in logits], dim=1)


def _predict_alone(
    together: LoraBatch,
    place: int,
    images: Float[Tensor, "batch 3 height width"],
    labels: Int[Tensor, " batch"],
) -> Int[Tensor, " batch"]:
    return _predict_each(together.of([place]), images, labels)[:, 0]


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
