"""What benchmarks/collapse.py measures: input gradients, what updates read, frequencies, who is fooled."""

from collections.abc import Sequence

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
from orchestrator.transfer.judge import read

Images = Float[Tensor, "images 3 size size"]
Labels = Int[Tensor, " images"]
Basis = Float[Tensor, "directions values"]
_BATCH = 100


def input_gradients(model: nn.Module, images: Images, labels: Labels) -> Images:
    """Of each image's cross-entropy, by the image."""
    found = []
    for part, own in zip(images.split(_BATCH), labels.split(_BATCH), strict=True):
        shown = part.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(shown), own, reduction="sum")
        found.append(torch.autograd.grad(loss, shown)[0])
    return torch.cat(found)


def cosines(one: Images, other: Images) -> Float[Tensor, " images"]:
    """Image by image, of two gradients; of directions drawn at random they have a mean of 0."""
    return nn.functional.cosine_similarity(one.flatten(1), other.flatten(1), eps=1e-30)


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


def within_band(images: Images, moved: Images, cut: int, threat: Threat, *, low: bool) -> Images:
    """The images moved by one band of a perturbation alone, stretched to the whole of an ℓ∞ threat."""
    step = moved - images
    kept = low_band(step, cut) if low else step - low_band(step, cut)
    largest = kept.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
    inside = project(images + kept * (threat.epsilon / largest), images, threat)
    check_threat(inside, images, threat)
    return inside


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
