"""Answer: the image an attack keeps of all it visited, and the rule for what a model misreads."""

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


@dataclass
class Answer:
    """The image kept of all those offered, row by row: misread before read, then by loss."""

    images: Float[Tensor, "batch 3 height width"]
    losses: Float[Tensor, " batch"]
    misread: Bool[Tensor, " batch"]

    @classmethod
    def unmoved(cls, images: Float[Tensor, "batch 3 height width"]) -> "Answer":
        """The images themselves, to be replaced by whatever has a loss at all."""
        rows, device = (len(images),), images.device
        lowest = torch.full(rows, float("-inf"), dtype=torch.float64, device=device)
        return cls(images.clone(), lowest, torch.zeros_like(lowest, dtype=torch.bool))

    def offer(
        self,
        images: Float[Tensor, "batch 3 height width"],
        losses: Float[Tensor, " batch"],
        misread: Bool[Tensor, " batch"],
    ) -> None:
        """Keep each row that is better than the one kept so far."""
        better = (misread & ~self.misread) | ((misread == self.misread) & (losses > self.losses))
        self.images = torch.where(per_image(better), images, self.images)
        self.losses = torch.where(better, losses, self.losses)
        self.misread = self.misread | misread


def per_image(values: Shaped[Tensor, " batch"]) -> Shaped[Tensor, "batch 1 1 1"]:
    """One value per image, shaped to meet a batch of images."""
    return values[:, None, None, None]
