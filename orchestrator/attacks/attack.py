"""What an attack is: moves images inside a threat. It never decides whether it succeeded.

The division of labour is foolbox's: the author of an attack moves pixels, the house projects, checks
and measures. A wrong attack can be weak, but it cannot lie.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchestrator.errors import ThreatError, ThreatViolated

Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class Threat:
    """How far an attacker may move an image: a norm and a radius on pixels in [0, 1].

    Raises:
        ThreatError: epsilon is not in (0, 1] for ℓ∞, or not positive and finite for ℓ2.
    """

    norm: Norm
    epsilon: float

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < float("inf"):
            raise ThreatError(
                f"Epsilon {self.epsilon:g} of {self.norm} is not a positive number. "
                "Give a radius on [0, 1] pixels, e.g. linf:8/255 or l2:0.5."
            )
        if self.norm == "linf" and self.epsilon > 1:
            raise ThreatError(
                f"Epsilon {self.epsilon:g} of linf exceeds the whole [0, 1] range. "
                f"Did you mean linf:{self.epsilon:g}/255?"
            )

    @classmethod
    def parse(cls, text: str) -> "Threat":
        """The threat written as ``linf:8/255``, ``linf:0.03`` or ``l2:0.5``."""
        norm, _, radius = text.partition(":")
        try:
            numerator, slash, denominator = radius.partition("/")
            epsilon = float(numerator) / int(denominator if slash else 1)
        except (ValueError, ZeroDivisionError):
            raise ThreatError(
                f"Threat {text!r} is not written as NORM:EPSILON, e.g. linf:8/255 or l2:0.5."
            ) from None
        if norm not in ("linf", "l2"):
            raise ThreatError(f"Norm {norm!r} is unknown. Use linf or l2.")
        return cls(norm, epsilon)  # type: ignore[arg-type]  # mypy does not narrow to the literals

    def __str__(self) -> str:
        levels = round(self.epsilon * 255)
        if self.norm == "linf" and levels and self.epsilon == levels / 255:
            return f"{self.norm}:{levels}/255"
        return f"{self.norm}:{repr(self.epsilon).removesuffix('.0')}"

    @property
    def slug(self) -> str:
        """The threat as part of an address, e.g. ``linf-8of255``."""
        return str(self).replace(":", "-").replace("/", "of")


class Calls(NamedTuple):
    """Passes through the source that one image costs, at most."""

    forwards: int
    backwards: int


@runtime_checkable
class Attack(Protocol):
    """Moves images inside a threat so that a model misreads them; frozen settings, no state.

    Every random choice about an image comes from that image's own seed, so the answer for an image
    does not depend on its batch, its neighbours or the worker.
    """

    def __call__(
        self,
        model: nn.Module,
        images: Float[Tensor, "batch 3 height width"],
        labels: Int[Tensor, " batch"],
        threat: Threat,
        seeds: Sequence[int],
    ) -> Float[Tensor, "batch 3 height width"]:
        """Images moved inside ``threat``; the model, its gradients and global RNG stay untouched."""
        ...

    def calls(self, classes: int) -> Calls:
        """What one image costs at most, on a model of ``classes`` classes that never falls."""
        ...


def project(
    moved: Float[Tensor, "batch 3 height width"],
    images: Float[Tensor, "batch 3 height width"],
    threat: Threat,
) -> Float[Tensor, "batch 3 height width"]:
    """``moved``, brought inside the threat and inside [0, 1]; unchanged where it is there already.

    Under ℓ∞ the nearest such image; under ℓ2 the step is shortened, then clamped.
    """
    if threat.norm == "linf":
        low, high = images - threat.epsilon, images + threat.epsilon
        return torch.maximum(torch.minimum(moved, high), low).clamp(0, 1)
    step: Tensor = moved - images
    length = step.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
    # Clamping to [0, 1] moves towards images that are themselves in [0, 1]: it only shortens.
    scaled: Tensor = (images + step * (threat.epsilon / length).clamp_max(1)).clamp(0, 1)
    return scaled


def check_threat(
    moved: Float[Tensor, "batch 3 height width"],
    images: Float[Tensor, "batch 3 height width"],
    threat: Threat,
) -> None:
    """Raise ThreatViolated unless ``moved`` is inside the threat, up to float rounding (1e-6)."""
    if len(images) == 0:
        return
    distance = distances(moved, images)[threat.norm]
    if not torch.isfinite(moved).all() or moved.min() < 0 or moved.max() > 1:
        raise ThreatViolated(f"An attack under {threat} left [0, 1]. This is a defect of the attack.")
    if distance.max() > threat.epsilon * (1 + 1e-5) + 1e-6:
        raise ThreatViolated(
            f"An attack under {threat} moved an image by {distance.max():.6g}. "
            "This is a defect of the attack."
        )


def distances(
    moved: Float[Tensor, "batch 3 height width"], images: Float[Tensor, "batch 3 height width"]
) -> dict[str, Float[Tensor, " batch"]]:
    """How far each image was moved, by norm, in float64 so that storage adds no rounding."""
    step = (moved.double() - images.double()).flatten(1)
    return {"linf": step.abs().amax(dim=1), "l2": step.norm(dim=1)}
