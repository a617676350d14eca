"""Feature squeezing: an attacked image is read otherwise once its colours are fewer, or it is smoothed."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows it by
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchestrator.detection.rivals.rival import score_in_passes


@dataclass(frozen=True, kw_only=True)
class FeatureSqueezing:
    """Xu, Evans and Qi (2018, arXiv 1704.01155), with the two squeezers that need no library.

    The score is minus the largest ℓ1 distance between the probabilities of the image and of a squeezed
    one. Their third squeezer, non-local means, is left out.

    Args:
        model: in eval mode, taking images in [0, 1].
        bits: of a colour channel that are left.
        window: side of the median filter, in pixels.
        batch: images of a pass.
    """

    model: nn.Module
    bits: int = 5
    window: int = 2
    batch: int = 64

    def scores(
        self, images: Float[Tensor, "images 3 height width"]
    ) -> tuple[Int[Tensor, " images"], Float[Tensor, " images"]]:
        """The class read, and the score: from -2, read quite otherwise, to 0."""
        return score_in_passes(images, self.batch, self._score)

    def _score(
        self, some: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
        plain = self.model(some).double().softmax(dim=1)
        squeezed = (fewer_colours(some, self.bits), median_filtered(some, self.window))
        apart = [(self.model(each).double().softmax(dim=1) - plain).abs().sum(dim=1) for each in squeezed]
        return plain.argmax(dim=1), -torch.stack(apart).amax(dim=0)


def fewer_colours(
    images: Float[Tensor, "images 3 height width"], bits: int
) -> Float[Tensor, "images 3 height width"]:
    """Images with so many bits a channel."""
    most = (1 << bits) - 1
    return (images * most).round() / most


def median_filtered(
    images: Float[Tensor, "images 3 height width"], window: int
) -> Float[Tensor, "images 3 height width"]:
    """The median of a window around every pixel; of an even number the upper of the two in the middle."""
    before, after = window // 2, (window - 1) // 2
    padded = F.pad(images, (before, after, before, after), mode="reflect")
    windows = padded.unfold(2, window, 1).unfold(3, window, 1).flatten(4)
    medians: Tensor = windows.sort(dim=4).values[..., window * window // 2]
    return medians
