"""Losses attacks climb: one value per image, higher where the model is nearer to misreading it."""

import torch.nn.functional as F  # noqa: N812 - the name everyone knows it by
from jaxtyping import Float, Int
from torch import Tensor


def cross_entropy(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Cross-entropy of the label, in float64.

    In float32 it is exactly 0 from a margin of 17 on, as confident models reach, and an ascent that
    sees no change halves its steps for nothing. Float64 lasts to 36.
    """
    return F.cross_entropy(logits.double(), labels, reduction="none")


def margin(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """The lead of the best other class over the label; above 0 exactly where it is misread."""
    others = logits.scatter(1, labels[:, None], float("-inf")).amax(dim=1)
    return others - logits.gather(1, labels[:, None])[:, 0]


def dlr(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Difference of logits ratio (Croce & Hein 2020, equation 6): unmoved by shift and scale of logits.

    The margin over the distance between the first and the third logit; of two classes, the margin.
    """
    if logits.shape[1] < 3:
        return margin(logits, labels)
    ordered = logits.sort(dim=1).values
    return margin(logits, labels) / (ordered[:, -1] - ordered[:, -3] + 1e-12)


def targeted_dlr(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    targets: Int[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """Targeted difference of logits ratio (Croce & Hein 2020, equation 7).

    The target's lead over the label, over the distance of the first logit from the mean of third and
    fourth; of fewer than four classes, the lead.
    """
    lead = logits.gather(1, targets[:, None])[:, 0] - logits.gather(1, labels[:, None])[:, 0]
    if logits.shape[1] < 4:
        return lead
    ordered = logits.sort(dim=1).values
    return lead / (ordered[:, -1] - 0.5 * (ordered[:, -3] + ordered[:, -4]) + 1e-12)
