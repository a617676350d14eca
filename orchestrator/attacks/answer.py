"""Answer: the images an attack keeps of all it visited, and the rule for what a model misreads."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def misread(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Bool[Tensor, " batch"]:
    """Whether another class's logit exceeds the label's; a tie, or a NaN, counts as read right."""
    column = labels.long()[:, None]
    others = logits.scatter(1, column, float("-inf")).amax(dim=1)
    return others > logits.gather(1, column)[:, 0]


@dataclass(frozen=True)
class Found:
    """What an attack found, image by image; two answers, for two questions."""

    worst: Float[Tensor, "batch 3 height width"]
    """Did the source fall? One that it misreads where any image visited was misread; else the image
    itself, or whatever the attack came nearest with."""
    best: Float[Tensor, "batch 3 height width"]
    """What transfers? The one of highest loss of all visited, misread or not."""
    worst_moves: Float[Tensor, "batch ..."] | None = None
    """Under a threat whose images the house renders: what makes the worst of the images attacked."""
    best_moves: Float[Tensor, "batch ..."] | None = None

    @property
    def reached(self) -> Float[Tensor, "batch ..."]:
        """Where an attack under a larger threat begins: the best moves, or the best image if none are."""
        return self.best if self.best_moves is None else self.best_moves

    @property
    def tensors(self) -> list[Tensor]:
        """All there is, in the order of the fields."""
        every = (self.worst, self.best, self.worst_moves, self.best_moves)
        return [tensor for tensor in every if tensor is not None]

    @classmethod
    def same(cls, images: Float[Tensor, "batch 3 height width"]) -> "Found":
        """One image for both questions."""
        return cls(images, images)


@dataclass
class Answer:
    """The images kept of all those offered, row by row, by a loss that all offers share."""

    worst: Float[Tensor, "batch 3 height width"]
    """Of those misread the one of highest loss; of those read right likewise until one is misread."""
    worst_loss: Float[Tensor, " batch"]
    misread: Bool[Tensor, " batch"]
    best: Float[Tensor, "batch 3 height width"]
    """The one of highest loss."""
    best_loss: Float[Tensor, " batch"]

    @classmethod
    def unmoved(cls, images: Float[Tensor, "batch 3 height width"]) -> "Answer":
        """The images themselves, to be replaced by whatever has a loss at all."""
        rows, device = (len(images),), images.device
        lowest = torch.full(rows, float("-inf"), dtype=torch.float64, device=device)
        fallen = torch.zeros_like(lowest, dtype=torch.bool)
        return cls(images.clone(), lowest.clone(), fallen, images.clone(), lowest.clone())

    def offer(
        self,
        rows: Int[Tensor, " some"],
        images: Float[Tensor, "some 3 height width"],
        losses: Float[Tensor, " some"],
        misread: Bool[Tensor, " some"],
    ) -> None:
        """Keep, for each of these rows, what is better than the one kept so far."""
        fallen, losses = self.misread[rows], losses.double()
        better = (misread & ~fallen) | ((misread == fallen) & (losses > self.worst_loss[rows]))
        self.worst[rows[better]] = images[better]
        self.worst_loss[rows[better]] = losses[better]
        self.misread[rows] = fallen | misread
        higher = losses > self.best_loss[rows]
        self.best[rows[higher]] = images[higher]
        self.best_loss[rows[higher]] = losses[higher]

    def found(self) -> Found:
        """The two answers."""
        return Found(self.worst, self.best)


def per_image(values: Shaped[Tensor, " batch"]) -> Shaped[Tensor, "batch 1 1 1"]:
    """One value per image, shaped to meet a batch of images."""
    return values[:, None, None, None]
