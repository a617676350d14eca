"""Scenes for attacks: small trained models, images of which some fall and some do not, and witnesses."""

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from orchestrator.attacks.answer import Found, misread
from orchestrator.attacks.attack import Attack, Points
from orchestrator.attacks.source import Knowledge, Source
from orchestrator.attacks.threat import Threat
from orchestrator.models.backbone import Architecture
from orchestrator.models.keyed import KeyedModel, fold
from orchestrator.models.transform import BlockShuffle

# Radii at which some images of the scene fall and some do not, so that every stage has work.
THREATS = {
    "linf": Threat("linf", 4 / 255),
    "l2": Threat("l2", 0.35),
    "l1": Threat("l1", 5.0),
    "patch": Threat("patch", 3.0),
    "spatial": Threat("spatial", 0.002),
    "colour": Threat("colour", 32 / 255),
}
BALLS = {norm: THREATS[norm] for norm in ("linf", "l2", "l1")}
BLOCK = 4


def scaled(threat: Threat, times: float) -> Threat:
    """The same kind of threat with another radius, of whole pixels where it is a patch."""
    epsilon = threat.epsilon * times
    return Threat(threat.norm, max(1.0, epsilon // 1) if threat.norm == "patch" else epsilon)


class RowByRow(nn.Module):
    """A model whose answer for an image has the same bytes in every batch, by construction."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @property
    def backbone(self) -> nn.Module:
        """Where attacks on ViTs look for one."""
        return self.net.backbone

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.net(image[None]) for image in images])


class Recorder(nn.Module):
    """A model that remembers every image it was shown and every logit it answered."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.shown, self.answered = net, [], []

    @property
    def backbone(self) -> nn.Module:
        """Where attacks on ViTs look for one."""
        return self.net.backbone

    def forward(self, images: Tensor) -> Tensor:
        assert len(images) > 0, "a model was shown an empty batch"
        self.shown.append(images.detach().clone())
        logits = self.net(images)
        self.answered.append(logits.detach().clone())
        return logits


class TwoClasses(nn.Module):
    """A hyperplane: class 1 where weight x - offset is positive."""

    def __init__(self, weight: Tensor, offset: float) -> None:
        super().__init__()
        self.weight, self.offset = nn.Parameter(weight), offset

    def forward(self, images: Tensor) -> Tensor:
        lead = (images.flatten(1) * self.weight).sum(dim=1) - self.offset
        return torch.stack([-lead, lead], dim=1)


class Rounded(nn.Module):
    """A model whose logits are multiples of a step, so that exact ties are common."""

    def __init__(self, net: nn.Module, step: float) -> None:
        super().__init__()
        self.net, self.step = net, step

    @property
    def backbone(self) -> nn.Module:
        """Where attacks on ViTs look for one."""
        return self.net.backbone

    def forward(self, images: Tensor) -> Tensor:
        logits = self.net(images)
        return logits + ((logits / self.step).round() * self.step - logits).detach()


@dataclass(frozen=True)
class Scene:
    """A model, images it was trained on, and what an attacker knows."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    seeds: list[int]
    knowledge: Knowledge = field(default_factory=Knowledge)

    def of(self, rows: Sequence[int] | slice) -> "Scene":
        """Some of the images."""
        chosen = list(range(len(self.labels)))[rows] if isinstance(rows, slice) else list(rows)
        return replace(
            self,
            images=self.images[chosen],
            labels=self.labels[chosen],
            seeds=[self.seeds[row] for row in chosen],
        )

    def behind(self, wrap: Callable[[nn.Module], nn.Module]) -> "Scene":
        """The scene with its model wrapped."""
        return replace(self, model=wrap(self.model))

    def source(self, attack: Attack | None = None, **options: object) -> Source:
        """A source of this scene, as the house gives it to an attack."""
        access = {} if attack is None else {"access": attack.access}
        return Source([self.model], len(self.labels), **{"knowledge": self.knowledge, **access, **options})

    def points(self, **options: object) -> Points:
        """The images as an attack is given them."""
        return Points.of(self.images, self.labels, self.seeds, **options)

    def struck(self, attack: Attack, threat: Threat, **options: object) -> Found:
        """What an attack finds here."""
        return attack(self.source(attack, **options), self.points(), threat)

    def fallen(self, images: Tensor) -> Tensor:
        """Which images the model misreads."""
        with torch.no_grad():
            return misread(self.model(images), self.labels)


def scene(classes: int = 10, n: int = 12, dtype: torch.dtype = torch.float64) -> Scene:
    """A small trained network of its own, n images, their labels and one seed for each."""
    net, images, labels = _trained(classes)
    return _scene(copy.deepcopy(net).to(dtype), images, labels, n, dtype)


def vit_scene(
    classes: int = 10, n: int = 12, dtype: torch.dtype = torch.float64, digits: bool = False
) -> Scene:
    """A small keyed ViT, folded, and the plain one it was tuned from; the attacker has examples."""
    plain, keyed, images, labels = _trained_vits(classes, digits)
    public = copy.deepcopy(plain).to(dtype)
    # The last images of the set are the attacker's own.
    examples = (images[-2 * classes :].to(dtype), labels[-2 * classes :])
    knowledge = Knowledge(plain=public, block_size=BLOCK, examples=examples)
    return replace(_scene(copy.deepcopy(keyed).to(dtype), images, labels, n, dtype), knowledge=knowledge)


def scene_for(attack: Attack, classes: int = 10, n: int = 12, dtype: torch.dtype = torch.float64) -> Scene:
    """The simplest scene an attack can play in."""
    return (vit_scene if attack.needs else scene)(classes, n, dtype)


def random_states() -> tuple[object, ...]:
    """The state of every global generator."""
    numbers = np.random.get_state()
    return torch.get_rng_state().tolist(), numbers[1].tolist(), numbers[2:], random.getstate()


def _scene(model: nn.Module, images: Tensor, labels: Tensor, n: int, dtype: torch.dtype) -> Scene:
    seeds = [1000 + place for place in range(n)]
    return Scene(model, images[:n].to(dtype, copy=True), labels[:n].clone(), seeds)


def _images(classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    patterns = torch.randn(classes, 3, 16, 16, generator=generator, dtype=torch.float64)
    labels = torch.arange(24 * classes) % classes
    noise = torch.randn(len(labels), 3, 16, 16, generator=generator, dtype=torch.float64)
    return (0.5 + 0.03 * patterns[labels] + 0.1 * noise).clamp(0, 1), labels


def _digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    small = torch.tensor(images[:240] / 16).view(-1, 1, 8, 8)
    return nn.functional.interpolate(small, size=16).expand(-1, 3, -1, -1), torch.tensor(labels[:240])


def _fit(net: nn.Module, images: Tensor, labels: Tensor, rate: float, steps: int) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    net.eval()


@cache
def _trained(classes: int) -> tuple[nn.Module, Tensor, Tensor]:
    images, labels = _images(classes)
    with torch.random.fork_rng():
        torch.manual_seed(classes)
        net = nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.GELU(), nn.Linear(16, classes)).double()
    _fit(net, images, labels, 0.003, 100)
    return net, images, labels


@cache
def _trained_vits(classes: int, digits: bool) -> tuple[KeyedModel, KeyedModel, Tensor, Tensor]:
    images, labels = _digits() if digits else _images(classes)
    architecture = Architecture(
        name="vit_tiny_patch16_224",
        image_size=16,
        classes=classes,
        patch_size=8,
        width=16,
        depth=2,
        heads=2,
    )
    generator = torch.Generator().manual_seed(7)
    shuffle = BlockShuffle(BLOCK, torch.randperm(3 * BLOCK * BLOCK, generator=generator))
    with torch.random.fork_rng():
        torch.manual_seed(classes)
        plain = KeyedModel(architecture.build())
    _fit(plain, images.float(), labels, 0.01, 60)
    keyed = KeyedModel(copy.deepcopy(plain.backbone), shuffle)
    _fit(keyed, images.float(), labels, 0.01, 30)
    keyed = fold(keyed)
    return plain.double(), keyed.double(), images, labels
