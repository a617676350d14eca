"""Scores of drawn fingerprints by four rules; low is suspicious."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Rule = Literal["ratio", "vote", "anomaly", "shrunk-ratio"]


@dataclass(frozen=True)
class Gaussians:
    """Normal distributions of the drawn fingerprints of each image."""

    mean: Float[Tensor, "images drawn"]
    std: Float[Tensor, "images drawn"]
    correlation: Float[Tensor, "images drawn drawn"] | None = None

    def apart(self, values: Float[Tensor, "images drawn"]) -> Float[Tensor, "images drawn"]:
        """Distances from the means, in standard deviations, with their signs."""
        return (values - self.mean) / self.std

    def log_density(self, values: Float[Tensor, "images drawn"]) -> Float[Tensor, "images drawn"]:
        """Of each fingerprint by itself, in nats."""
        return -0.5 * self.apart(values) ** 2 - self.std.log() - 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Drawn:
    """The fingerprints drawn for some images, in float64, and what is known of them."""

    values: Float[Tensor, "images drawn"]
    real: Bool[Tensor, "images drawn"]
    """False where a class has fewer fingerprints than are drawn: these count for nothing."""
    clean: Gaussians
    attacked: Gaussians


def likelihood_ratio(drawn: Drawn) -> Float[Tensor, " images"]:
    """How much likelier fingerprints are in clean images than in attacked, as if independent; in nats."""
    lead = drawn.clean.log_density(drawn.values) - drawn.attacked.log_density(drawn.values)
    return torch.where(drawn.real, lead, 0.0).sum(dim=1)


def vote(drawn: Drawn) -> Float[Tensor, " images"]:
    """The share of fingerprints that are no further from the clean mean than from the attacked one."""
    near = drawn.clean.apart(drawn.values).abs() <= drawn.attacked.apart(drawn.values).abs()
    return (near & drawn.real).sum(dim=1) / drawn.real.sum(dim=1).clamp_min(1).double()


def anomaly(drawn: Drawn) -> Float[Tensor, " images"]:
    """The log-likelihood of the fingerprints in clean images alone: nothing of any attack is used."""
    return torch.where(drawn.real, drawn.clean.log_density(drawn.values), 0.0).sum(dim=1)


def shrunk_ratio(drawn: Drawn) -> Float[Tensor, " images"]:
    """The likelihood ratio with shrunk correlations: fingerprints need not be independent.

    Raises:
        ValueError: the bank was fitted without correlations.
    """
    return _joint(drawn, drawn.clean) - _joint(drawn, drawn.attacked)


SCORES: Mapping[Rule, Callable[[Drawn], Float[Tensor, " images"]]] = {
    "ratio": likelihood_ratio,
    "vote": vote,
    "anomaly": anomaly,
    "shrunk-ratio": shrunk_ratio,
}


def _joint(drawn: Drawn, gaussians: Gaussians) -> Float[Tensor, " images"]:
    """Log-density of all drawn fingerprints together, up to a constant that both sides share."""
    if gaussians.correlation is None:
        raise ValueError("the bank was fitted without correlations")
    together = drawn.real[:, :, None] & drawn.real[:, None, :]
    alone = torch.eye(drawn.real.shape[1], dtype=torch.float64, device=drawn.real.device)
    lower = torch.linalg.cholesky(torch.where(together, gaussians.correlation.double(), alone))
    apart = torch.where(drawn.real, gaussians.apart(drawn.values), 0.0)
    whitened = torch.linalg.solve_triangular(lower, apart[:, :, None], upper=False)[:, :, 0]
    spread = torch.where(drawn.real, gaussians.std.log(), 0.0).sum(dim=1)
    volume = lower.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    density: Tensor = -0.5 * (whitened**2).sum(dim=1) - volume - spread
    return density
