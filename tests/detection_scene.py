"""Scenes for detectors: a tiny keyed ViT, clean images of its classes, and images that fool it."""

import copy
from dataclasses import dataclass, replace
from functools import cache

import torch
from attack_scene import vit_scene
from torch import Tensor, nn

from orchestrator.attacks.threat import Threat
from orchestrator.attacks.transfer.mi_fgsm import MomentumFgsm
from orchestrator.detection.examples import Examples
from orchestrator.detection.fit import Feed, Fit
from orchestrator.detection.neurons import layout_of
from orchestrator.detection.recipe import BankRecipe

CLASSES = 3
RECIPE = BankRecipe(
    neurons=8,
    proposals=60,
    kept=20,
    draw=6,
    effect=0.3,
    least_images=8,
    least_held_out=40,
    batch=16,
    rule="ratio",
)


@dataclass(frozen=True)
class Watched:
    """A model, its clean images in three parts, and attacked ones in two."""

    model: nn.Module
    clean: dict[str, Examples]
    attacked: dict[str, Examples]

    @property
    def feed(self) -> Feed:
        """What a bank is made of; each kind of image in two parts."""
        return Feed(
            *(halves(part) for part in (self.clean["fit"], self.attacked["fit"], self.clean["held-out"]))
        )

    def fit(self, **changes) -> Fit:
        """How a bank is made."""
        recipe = replace(RECIPE, **changes)
        layout = layout_of(self.model, self.clean["fit"].images, recipe.layers)
        return Fit(layout=layout, classes=CLASSES, recipe=recipe, seed=5, model_digest="digest")


def halves(examples: Examples) -> list[Examples]:
    rows = torch.arange(len(examples.labels))
    return [examples.part(rows[::2]), examples.part(rows[1::2])]


def watched() -> Watched:
    """The scene, with a model that tests may do to what they like."""
    scene = _watched()
    return replace(scene, model=copy.deepcopy(scene.model))


@cache
def _watched() -> Watched:
    here = vit_scene(CLASSES, dtype=torch.float32)
    images, labels = more_images(here.images, here.labels)
    model = here.model.float().eval()
    attack, threat = MomentumFgsm(momentum=0.0, reach=2.0), Threat("linf", 16 / 255)
    all_of_them = replace(here, images=images, labels=labels, seeds=list(range(len(labels))))
    moved = all_of_them.struck(attack, threat).worst
    third = len(labels) // 3
    parts = {name: slice(i * third, (i + 1) * third) for i, name in enumerate(("fit", "held-out", "test"))}
    clean = {name: Examples(images[rows], labels[rows]) for name, rows in parts.items()}
    attacked = {name: Examples(moved[rows], labels[rows], images[rows]) for name, rows in parts.items()}
    return Watched(model, clean, attacked)


def more_images(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Other images of the same classes: the mean of each class under fresh noise."""
    generator = torch.Generator().manual_seed(1)
    means = torch.stack([images[labels == c].mean(dim=0) for c in range(CLASSES)])
    more = torch.arange(360) % CLASSES
    noise = torch.randn(360, *images.shape[1:], generator=generator)
    return (means[more] + 0.1 * noise).clamp(0, 1), more
