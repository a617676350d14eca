"""Subject: one model with its bank, and the images on which attackers and rivals are held against it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from orchestrator.detection.bank import DetectorBank
from orchestrator.detection.examples import Examples
from orchestrator.detection.fit import Feed, Fit, fit_bank
from orchestrator.detection.origin import Sort
from orchestrator.detection.readout import full_passes
from orchestrator.detection.recipe import BankRecipe
from orchestrator.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One model, its bank, and test images that neither the bank nor its thresholds ever saw."""

    model: nn.Module
    """In eval mode, taking images in [0, 1]."""
    fit: Fit
    """How the bank was made."""
    feed: Feed
    """Of what: for banks of other sizes, and for the thresholds of all."""
    bank: DetectorBank
    """On the model's device."""
    clean: Iterable[Examples]
    attacked: Mapping[Sort, Iterable[Examples]]
    """Made on this very model, by one who has it."""
    fitted: frozenset[str]
    """Names of the attacks that the bank was fitted on."""

    def bank_of(self, recipe: BankRecipe) -> DetectorBank:
        """The bank that another recipe makes of the same images, made here unless only the draw differs.

        Raises:
            DataError: see ``fit_bank``.
        """
        if recipe == self.fit.recipe:
            return self.bank
        device = next(self.model.parameters()).device
        if replace(recipe, draw=self.fit.recipe.draw) == self.fit.recipe:
            drawn = replace(self.bank, draw=recipe.draw)
            return self.fit.calibrated(self.model, drawn, self.feed.held_out).to(device)
        return fit_bank(self.model, replace(self.fit, recipe=recipe), self.feed).to(device)

    def read_right(self, most: int) -> Examples:
        """Clean test images that the model reads right, ``most`` at most.

        Raises:
            DataError: there is no clean test image at all.
        """
        return _taken(self.clean, self._right, most)

    def fooling(self, sort: Sort, most: int) -> Examples:
        """Images that fool the model as the transfer matrix counts it: moved, read right before, misread.

        Raises:
            DataError: there is no image of that sort at all.
        """
        return _taken(self.attacked[sort], self._fooled, most)

    def widest(self) -> dict[Sort, Iterable[Examples]]:
        """Of each attack under each norm the images under its largest threat: no image comes twice."""
        last = {(sort.attack, sort.norm): sort for sort in sorted(self.attacked)}
        return {sort: self.attacked[sort] for sort in last.values()}

    def reads(self, images: Float[Tensor, "images 3 height width"]) -> Int[Tensor, " images"]:
        """The classes that the model reads."""
        with torch.no_grad():
            parts = [
                self.model(some)[:count].argmax(dim=1)
                for some, count in full_passes(images, self.bank.batch)
            ]
        return torch.cat([torch.zeros(0, dtype=torch.int64, device=images.device), *parts])

    def _right(self, examples: Examples) -> Bool[Tensor, " images"]:
        return self.reads(examples.images) == examples.labels

    def _fooled(self, examples: Examples) -> Bool[Tensor, " images"]:
        originals = examples.images if examples.originals is None else examples.originals
        moved = (examples.images != originals).flatten(1).any(dim=1)
        return moved & (self.reads(originals) == examples.labels) & ~self._right(examples)


def _taken(
    parts: Iterable[Examples], wanted: Callable[[Examples], Bool[Tensor, " images"]], most: int
) -> Examples:
    """The first ``most`` examples of those wanted."""
    found: list[Examples] = []
    for each in parts:
        left = most - sum(len(part.labels) for part in found)
        if left <= 0:
            break
        found.append(each.part(wanted(each).nonzero()[:left, 0]))
    if not found:
        raise DataError("There are no test images. Keep images of more shards, or attack more images.")
    originals = [part.originals for part in found if part.originals is not None]
    return Examples(
        torch.cat([part.images for part in found]),
        torch.cat([part.labels for part in found]),
        torch.cat(originals) if originals else None,
    )
