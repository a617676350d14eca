"""Album: a few images of the study, what they were moved to, and what every target read in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from orchestrator.transfer.matrix import Panel


@dataclass(frozen=True, kw_only=True)
class MovedImages:
    """The album's images as one attack moved them on one source, under one threat."""

    source: str
    attack: str
    norm: str
    epsilon: float
    others: Float[np.ndarray, "images 3 side side"]
    """What was tried on other models, in [0, 1]."""
    own: Float[np.ndarray, "images 3 side side"]
    """What the models of the source itself were asked; often the same."""
    readings: Mapping[tuple[str, str], Sequence[tuple[int, int]]]
    """By method and target: the class each image was read as before and after."""

    def of(self, panel: Panel) -> dict[str, list[list[int]]]:
        """The readings that stand in a panel, by target; none where it is another attack's."""
        if (self.attack, self.norm, self.epsilon) != (panel.attack, panel.norm, panel.epsilon):
            return {}
        return {
            target: [list(pair) for pair in pairs]
            for (method, target), pairs in self.readings.items()
            if method in (panel.method, "plain")
        }


@dataclass(frozen=True, kw_only=True)
class Album:
    """The first images of a study's first shard: the same for all sources, chosen by nothing else."""

    labels: Sequence[int]
    clean: Float[np.ndarray, "images 3 side side"]
    """In [0, 1]."""
    whole: bool
    """Whether all pixels of the images are here; of large ones only every k-th is."""
    moved: Sequence[MovedImages]
    """The most telling first: the page shows as many as it has room for."""

    @property
    def note(self) -> str:
        """What a reader must know of the pictures."""
        copy = "" if self.whole else " Of each row and column only every k-th pixel is shown."
        return (
            "The first images of the study, not chosen by success, at the largest radius attacked; rounded "
            f"to 8 bits for the screen. Classes are numbers; ✗ marks a misreading.{copy}"
        )
