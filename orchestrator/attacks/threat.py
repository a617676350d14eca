"""Threat: a norm and a radius no attack may leave; a ladder of threats; projection, and the check of it."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.attacks.l1 import project_l1
from orchestrator.errors import ThreatError, ThreatViolated

Norm = Literal["linf", "l2", "l1"]
NORMS: tuple[Norm, ...] = get_args(Norm)


@dataclass(frozen=True)
class Threat:
    """How far an attacker may move an image: a norm and a radius on pixels in [0, 1].

    Raises:
        ThreatError: epsilon is not in (0, 1] for ℓ∞, or not positive and finite for ℓ2 and ℓ1.
    """

    norm: Norm
    epsilon: float

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < float("inf"):
            raise ThreatError(
                f"Epsilon {self.epsilon:g} of {self.norm} is not a positive number. "
                "Give a radius on [0, 1] pixels, e.g. linf:8/255, l2:0.5 or l1:12."
            )
        if self.norm == "linf" and self.epsilon > 1:
            raise ThreatError(
                f"Epsilon {self.epsilon:g} of linf exceeds the whole [0, 1] range. "
                f"Did you mean linf:{self.epsilon:g}/255?"
            )

    @classmethod
    def parse(cls, text: str) -> "Threat":
        """The threat written as ``linf:8/255``, ``linf:0.03``, ``l2:0.5`` or ``l1:12``."""
        norm, _, radius = text.partition(":")
        try:
            numerator, slash, denominator = radius.partition("/")
            epsilon = float(numerator) / int(denominator if slash else 1)
        except (ValueError, ZeroDivisionError):
            raise ThreatError(
                f"Threat {text!r} is not written as NORM:EPSILON, e.g. linf:8/255 or l2:0.5."
            ) from None
        if norm not in NORMS:
            raise ThreatError(f"Norm {norm!r} is unknown. Use {', '.join(NORMS)}.")
        return cls(norm, epsilon)

    def __str__(self) -> str:
        return f"{self.norm}:{self.radius}"

    @property
    def radius(self) -> str:
        """Epsilon as it is written, e.g. ``8/255``."""
        levels = round(self.epsilon * 255)
        if self.norm == "linf" and levels and self.epsilon == levels / 255:
            return f"{levels}/255"
        return repr(self.epsilon).removesuffix(".0")

    @property
    def slug(self) -> str:
        """The threat as part of an address, e.g. ``linf-8of255``."""
        return str(self).replace(":", "-").replace("/", "of")


@dataclass(frozen=True)
class Ladder:
    """Threats of one norm, ascending, attacked in one run: each is warm-started by the one before.

    What fell at a smaller radius has fallen at every larger one; what has not is attacked from
    where the last attack ended.

    Raises:
        ThreatError: no threat, two norms, or radii that do not ascend.
    """

    threats: tuple[Threat, ...]

    def __post_init__(self) -> None:
        radii = [threat.epsilon for threat in self.threats]
        if len({threat.norm for threat in self.threats}) != 1 or radii != sorted(set(radii)):
            raise ThreatError(
                f"Threats {', '.join(map(str, self.threats))} are no ladder. Give one norm and radii that "
                "ascend, e.g. linf:1/255,2/255,4/255."
            )

    @classmethod
    def parse(cls, text: str) -> "Ladder":
        """The ladder written as ``linf:4/255``, or with several radii, ``linf:1/255,2/255,4/255``."""
        norm, _, radii = text.partition(":")
        return cls(tuple(Threat.parse(f"{norm}:{radius}") for radius in radii.split(",")))

    def __str__(self) -> str:
        return f"{self.norm}:{','.join(threat.radius for threat in self.threats)}"

    @property
    def norm(self) -> Norm:
        """The norm of all."""
        return self.threats[0].norm

    @property
    def slug(self) -> str:
        """The ladder as part of an address, e.g. ``linf-8of255`` or ``linf-1of255-2of255``."""
        return str(self).replace(":", "-").replace("/", "of").replace(",", "-")


def project(
    moved: Float[Tensor, "batch 3 height width"],
    images: Float[Tensor, "batch 3 height width"],
    threat: Threat,
) -> Float[Tensor, "batch 3 height width"]:
    """``moved``, brought inside the threat and inside [0, 1]; unchanged where it is there already.

    Under ℓ∞ and ℓ1 the nearest such image; under ℓ2 the step is shortened, then clamped.
    """
    if threat.norm == "linf":
        low, high = images - threat.epsilon, images + threat.epsilon
        return torch.maximum(torch.minimum(moved, high), low).clamp(0, 1)
    if threat.norm == "l1":
        return project_l1(moved, images, threat.epsilon)
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
    # A sum of magnitudes gathers the rounding of every pixel; a maximum only that of one.
    slack = 1e-5 * max(1.0, threat.epsilon) if threat.norm == "l1" else 1e-6
    if distance.max() > threat.epsilon * (1 + 1e-5) + slack:
        raise ThreatViolated(
            f"An attack under {threat} moved an image by {distance.max():.6g}. "
            "This is a defect of the attack."
        )


def distances(
    moved: Float[Tensor, "batch 3 height width"], images: Float[Tensor, "batch 3 height width"]
) -> dict[Norm, Float[Tensor, " batch"]]:
    """How far each image was moved, by norm, in float64 so that storage adds no rounding."""
    step = (moved.double() - images.double()).flatten(1)
    return {"linf": step.abs().amax(dim=1), "l2": step.norm(dim=1), "l1": step.abs().sum(dim=1)}
