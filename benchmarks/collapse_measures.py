"""What benchmarks/collapse.py measures besides gradients: what updates read, frequencies, who is fooled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from scipy import fft
from torch import Tensor, nn

from orchestrator.attacks import parse_attack
from orchestrator.attacks.answer import Found
from orchestrator.attacks.attack import Points
from orchestrator.attacks.source import Source
from orchestrator.attacks.threat import Threat, check_threat, project
from orchestrator.seeds import derive_seed
from orchestrator.transfer.alignment.gradients import input_gradients
from orchestrator.transfer.judge import read

Images = Float[Tensor, "images 3 size size"]
Labels = Int[Tensor, " images"]
Basis = Float[Tensor, "directions values"]
_BATCH = 100
ROUTES = ("own", "other", "to_plain", "from_plain")
BANDS = ("own_low", "other_low", "from_plain_low", "own_high", "other_high", "from_plain_high")


def patches(images: Images, side: int) -> Float[Tensor, "patches values"]:
    """All patches, flattened as a patch embedding's weights are: by channel, row, column."""
    cut = nn.functional.unfold(images, side, stride=side)
    return cut.transpose(1, 2).reshape(-1, cut.shape[1])


def covariance(rows: Float[Tensor, "rows values"]) -> Float[Tensor, "values values"]:
    """Of the rows' values, in float64."""
    centred = rows.double() - rows.double().mean(dim=0)
    return centred.T @ centred / len(rows)


def principal(of: Float[Tensor, "values values"], count: int) -> Basis:
    """The directions of the largest variance, by falling variance."""
    return torch.linalg.eigh(of).eigenvectors.T.flip(0)[:count]


def row_space(update: Float[Tensor, "outputs values"], count: int) -> Basis:
    """An orthonormal basis of the ``count`` directions of its inputs that a matrix is strongest in."""
    return torch.linalg.svd(update.double(), full_matrices=False).Vh[:count]


def share_inside(basis: Basis, space: Basis) -> float:
    """How much of one subspace lies in another: mean squared length of its directions, projected.

    Both are orthonormal. Of a subspace drawn at random it is the dimension of ``space`` over that of
    the whole, on average.
    """
    return float((basis @ space.T).square().sum() / len(basis))


def energy_inside(matrix: Float[Tensor, "outputs values"], space: Basis) -> float:
    """Share of a matrix's squared length that reads an orthonormal subspace of its inputs."""
    return float((matrix.double() @ space.T).square().sum() / matrix.double().square().sum())


def low_band(step: Images, cut: int) -> Images:
    """What of the images is in cosines of fewer than ``cut`` half-waves across and down (DCT-II)."""
    waves = fft.dctn(step.double().numpy(), axes=(2, 3), norm="ortho")
    waves[:, :, cut:, :] = 0
    waves[:, :, :, cut:] = 0
    return torch.from_numpy(fft.idctn(waves, axes=(2, 3), norm="ortho")).to(step.dtype)


def low_share(gradients: Images, cut: int) -> float:
    """Mean over images of the share of a gradient's squared length below ``cut``; of noise (cut/size)²."""
    low = low_band(gradients, cut).flatten(1).double().square().sum(dim=1)
    return float((low / gradients.flatten(1).double().square().sum(dim=1).clamp_min(1e-60)).mean())


def one_band(values: Images, cut: int, *, low: bool) -> Images:
    """What is below ``cut``, or all the rest."""
    below = low_band(values, cut)
    return below if low else values - below


def climb_in_band(
    model: nn.Module,
    images: Images,
    labels: Labels,
    cut: int,
    threat: Threat,
    *,
    low: bool,
    steps: int = 10,
) -> Images:
    """The images moved by one band of frequencies alone, uphill in cross-entropy, inside an ℓ∞ threat.

    A step is the band of the sign of the gradient's band, its peak half the radius; the sum is shrunk
    where its peak exceeds the radius. Both keep the band; only the clamp to [0, 1] adds a little of the
    other one.
    """
    moved = images
    step = torch.zeros_like(images)
    for _ in range(steps):
        uphill = one_band(input_gradients(model, moved, labels), cut, low=low)
        step = step + peaked(one_band(uphill.sign(), cut, low=low), threat.epsilon / 2)
        peak = step.abs().amax(dim=(1, 2, 3), keepdim=True)
        step = step * (threat.epsilon / peak.clamp_min(threat.epsilon))
        moved = project(images + step, images, threat)
    check_threat(moved, images, threat)
    return moved


def peaked(values: Images, peak: float) -> Images:
    """Each image scaled to this largest magnitude; one of zeros stays so."""
    return values * (peak / values.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12))


def attacked(model: nn.Module, images: Images, labels: Labels, attack: str, threat: Threat) -> Found:
    """What the product's attack makes of the images on one model."""
    _, run = parse_attack(attack)
    seeds = [derive_seed(0, "attack", row) for row in range(len(labels))]
    source = Source([model], len(labels), batch=_BATCH)
    found = run(source, Points.of(images, labels, seeds), threat)
    for moved in (found.worst, found.best):
        check_threat(moved, images, threat)
    return found


def read_right(model: nn.Module, images: Images, labels: Labels) -> Bool[Tensor, " images"]:
    """Which images the product's judge reads right."""
    return read([model], images, labels, _BATCH).classes == labels


class Count:
    """Images read right when clean, those of them that fooled, and how many were read right after all."""

    def __init__(self) -> None:
        self.fooled = self.eligible = self.right = self.images = 0

    def add(self, model: nn.Module, moved: Images, labels: Labels, clean: Bool[Tensor, " images"]) -> None:
        """Count what a model reads in moved images, of which it read ``clean`` right before."""
        right = read_right(model, moved, labels)
        self.fooled += int((clean & ~right).sum())
        self.eligible += int(clean.sum())
        self.right += int(right.sum())
        self.images += len(labels)

    def told(self) -> dict[str, float]:
        """As it is written down: counts, fooling rate and robust accuracy."""
        rates = {"rate": self.fooled / max(1, self.eligible), "robust": self.right / max(1, self.images)}
        return {"fooled": self.fooled, "eligible": self.eligible, **rates}


def mean(values: Sequence[float]) -> float:
    """Of a few values."""
    return sum(values) / len(values)


@dataclass(frozen=True)
class Aim:
    """What is attacked, and how."""

    images: Images
    labels: Labels
    attack: str
    threat: Threat
    cut: int

    def whole(self, model: nn.Module) -> Found:
        """What the attack makes of the images on one model."""
        return attacked(model, self.images, self.labels, self.attack, self.threat)

    def band(self, model: nn.Module, name: str) -> Images:
        """What is made of them within the band ``low`` or ``high``."""
        low = name == "low"
        return climb_in_band(model, self.images, self.labels, self.cut, self.threat, low=low)

    def right(self, model: nn.Module) -> Bool[Tensor, " images"]:
        """Which of them a model reads right as they are."""
        return read_right(model, self.images, self.labels)


def transfer(aim: Aim, models: list[nn.Module], plain: nn.Module, made: Found) -> dict[str, Any]:
    """Counts of every route: a key's own images, another key's, those made on plain."""
    counts, labels = {name: Count() for name in ROUTES}, aim.labels
    clean = [aim.right(model) for model in models]
    plain_clean = aim.right(plain)
    for place, source in enumerate(models):
        found = aim.whole(source)
        counts["own"].add(source, found.worst, labels, clean[place])
        counts["to_plain"].add(plain, found.best, labels, plain_clean)
        counts["from_plain"].add(source, made.best, labels, clean[place])
        for target in set(range(len(models))) - {place}:
            counts["other"].add(models[target], found.best, labels, clean[target])
    accuracy = {"clean": mean([float(right.double().mean()) for right in clean])}
    return accuracy | {name: count.told() for name, count in counts.items()}


def bands(aim: Aim, models: list[nn.Module], made: dict[str, Images]) -> dict[str, Any]:
    """The same routes for images moved within one band; ``made`` are those of plain."""
    counts = {name: Count() for name in BANDS}
    clean = [aim.right(model) for model in models]
    for place, source in enumerate(models):
        for band in ("low", "high"):
            moved = aim.band(source, band)
            counts[f"own_{band}"].add(source, moved, aim.labels, clean[place])
            counts[f"from_plain_{band}"].add(source, made[band], aim.labels, clean[place])
            for target in set(range(len(models))) - {place}:
                counts[f"other_{band}"].add(models[target], moved, aim.labels, clean[target])
    return {name: count.told() for name, count in counts.items()}
