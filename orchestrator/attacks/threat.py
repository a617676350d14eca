"""Threat: a kind and a radius no attack may leave; a ladder of threats; projection, and the check of it."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.attacks.l1 import project_l1
from orchestrator.attacks.patches import patch_sides, project_patch
from orchestrator.errors import ThreatError, ThreatViolated

Norm = Literal["linf", "l2", "l1", "patch", "spatial", "colour"]
NORMS: tuple[Norm, ...] = get_args(Norm)
"""What a threat limits. The first three are norms of the change; the others are named where norms are."""
BALLS: frozenset[Norm] = frozenset({"linf", "l2", "l1"})
# From here on every angle is allowed.
_WHOLE_TURN = 0.6


@dataclass(frozen=True)
class Threat:
    """How far an attacker may move an image: a kind and a radius, by default a norm on pixels in [0, 1].

    Beside the norms, ``patch`` is a square of ``epsilon`` whole pixels, anywhere, of any content;
    ``spatial`` a shift of up to ``epsilon`` of the side each way and a turn of up to ``epsilon`` × 300°
    either way; and ``colour`` a change of up to ``epsilon`` in each channel that depends smoothly on the
    pixel's colour, and on nothing else.

    Raises:
        ThreatError: epsilon is not positive and finite, above 1 for ℓ∞ and colour, above 0.6 for
            spatial, or not whole for a patch.
    """

    norm: Norm
    epsilon: float

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < float("inf"):
            raise ThreatError(
                f"Epsilon {self.epsilon:g} of {self.norm} is not a positive number. "
                "Give a radius on [0, 1] pixels, e.g. linf:8/255, l2:0.5 or l1:12; or patch:8, spatial:0.1."
            )
        if self.norm in ("linf", "colour") and self.epsilon > 1:
            raise ThreatError(
                f"Epsilon {self.epsilon:g} of {self.norm} exceeds the whole [0, 1] range. "
                f"Did you mean {self.norm}:{self.epsilon:g}/255?"
            )
        if self.norm == "patch" and self.epsilon != int(self.epsilon):
            raise ThreatError(
                f"A patch of {self.epsilon:g} px has no whole pixels. Give its side, e.g. patch:8."
            )
        if self.norm == "spatial" and self.epsilon > _WHOLE_TURN:
            raise ThreatError(
                f"Epsilon {self.epsilon:g} of spatial turns by more than 180°. Give at most {_WHOLE_TURN}; "
                "0.1 shifts by a tenth of the side and turns by 30°."
            )

    @classmethod
    def parse(cls, text: str) -> "Threat":
        """The threat written as ``linf:8/255``, ``l2:0.5``, ``patch:8`` or ``spatial:0.1``."""
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
        if self.norm in ("linf", "colour") and levels and self.epsilon == levels / 255:
            return f"{levels}/255"
        return repr(self.epsilon).removesuffix(".0")

    @property
    def slug(self) -> str:
        """The threat as part of an address, e.g. ``linf-8of255``."""
        return str(self).replace(":", "-").replace("/", "of")


@dataclass(frozen=True)
class Ladder:
    """Threats of one kind, ascending, attacked in one run: each is warm-started by the one before.

    What fell at a smaller radius has fallen at every larger one; what has not is attacked from
    where the last attack ended.

    Raises:
        ThreatError: no threat, two kinds, or radii that do not ascend.
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
        """The kind of all."""
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

    Under ℓ∞ and ℓ1 the nearest such image; under ℓ2 the step is shortened, then clamped; of a patch the
    square that holds most of the change is kept.

    Raises:
        ThreatViolated: the threat's images are rendered, so pixels cannot be brought into it.
    """
    if threat.norm == "patch":
        return project_patch(moved, images, int(threat.epsilon))
    _refuse_rendered(threat)
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
    """Raise ThreatViolated unless ``moved`` is inside the threat, up to float rounding (1e-6).

    A patch allows no rounding. Where images are rendered pixels cannot tell; ``settle`` asks for the moves.
    """
    if len(images) == 0:
        return
    _refuse_rendered(threat)
    sides = patch_sides(moved, images) if threat.norm == "patch" else None
    distance = distances(moved, images)[threat.norm] if sides is None else sides.double()
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


def _refuse_rendered(threat: Threat) -> None:
    if threat.norm in ("spatial", "colour"):
        raise ThreatViolated(
            f"Pixels do not tell whether they are inside {threat}: its images are rendered from moves. "
            "This is a defect of whoever asks."
        )
