"""Indicators of a failing attack: what makes a model look robust that is not, measured on its source.

After the checks of AutoAttack's code and the failure indicators of Pintor et al. (2022, arXiv
2106.09947). Facts only, counted on the first images of every shard; what they mean is said where a
study is written up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from orchestrator.attacks.attack import Points
from orchestrator.attacks.gradient.apgd_untargeted import ApgdUntargeted
from orchestrator.attacks.losses import cross_entropy
from orchestrator.attacks.source import Source
from orchestrator.attacks.threat import Threat

# So few that they cost little beside any attack, and the same ones whatever is attacked.
_LOOKED_AT = 16
_UNSTEADY = 1e-4
# With all of [0, 1] to move in, any image of any model can be made to be read as another.
_UNBOUNDED, _UNBOUNDED_STEPS = Threat("linf", 1.0), 30


@dataclass(frozen=True, kw_only=True)
class Indicators:
    """Counts over the images that were looked at."""

    looked_at: int
    unsteady: int
    """Logits differ when the model is asked again: it is randomised, or changes as it is used."""
    zero_gradient: int
    """The gradient of the cross-entropy is exactly zero at the image: nothing to climb."""
    saturated: int
    """The cross-entropy is exactly zero in float32: logits so far apart that it cannot tell steps apart."""
    unbounded_standing: int
    """Read right by the model, and still so after an attack that may move it anywhere in [0, 1]."""


def look(source: Source, points: Points) -> Indicators:
    """The indicators of a source on the first of some images; its own passes are counted nowhere."""
    rows = torch.arange(min(_LOOKED_AT, len(points)), device=points.images.device)
    apart = Source(
        source.models,
        len(rows),
        batch=source.batch,
        combine=source.combine,
        device=source.device,
    )
    few = points.part(rows)
    if len(rows) == 0:
        return Indicators(looked_at=0, unsteady=0, zero_gradient=0, saturated=0, unbounded_standing=0)
    looks = [
        apart.look(few.images, rows, few.labels, lambda logits: cross_entropy(logits, few.labels))
        for _ in range(3)
    ]
    strongest = ApgdUntargeted(loss="dlr", steps=_UNBOUNDED_STEPS, early=True)
    anywhere = strongest(apart, few, _UNBOUNDED).worst
    right = ~looks[0].misread
    standing = right & ~apart.decisions(anywhere, rows, few.labels)
    in_single = torch.nn.functional.cross_entropy(looks[0].logits.float(), few.labels, reduction="none")
    return Indicators(
        looked_at=len(rows),
        unsteady=int(_differ([each.logits for each in looks]).sum()),
        zero_gradient=int((looks[0].gradient.flatten(1) == 0).all(dim=1).sum()),
        saturated=int((right & (in_single == 0)).sum()),
        unbounded_standing=int(standing.sum()),
    )


def _differ(answers: Sequence[Float[Tensor, "rows classes"]]) -> Bool[Tensor, " rows"]:
    scale = answers[0].abs().amax(dim=1).clamp_min(1e-12)
    apart = torch.stack([(answer - answers[0]).abs().amax(dim=1) for answer in answers[1:]]).amax(dim=0)
    return apart > _UNSTEADY * scale
