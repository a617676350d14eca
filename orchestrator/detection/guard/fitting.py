"""Fitting: what a guard's detector is made of, from the store; and the detector, stored or made now."""

import functools
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from orchestrator.detection.bank import DetectorBank
from orchestrator.detection.examples import Examples, Part
from orchestrator.detection.fit import Feed, Fit, fit_bank
from orchestrator.detection.guard.unit import GuardUnit
from orchestrator.detection.kept import AttackedImages, CleanImages, Together, TrainingImages, kept_attack
from orchestrator.detection.neurons import layout_of
from orchestrator.detection.stored import load_bank, save_bank
from orchestrator.store.artifacts import ArtifactStore


@dataclass(frozen=True)
class Fitting:
    """One model, and what its detector is fitted on.

    Args:
        store: the study's.
        unit: which model, how, and on what.
        model: the model, on its device, in eval mode.
    """

    store: ArtifactStore
    unit: GuardUnit
    model: nn.Module

    @functools.cached_property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @functools.cached_property
    def fit(self) -> Fit:
        """How the detector is made; the model is shown one empty image, for the shapes of its layers."""
        unit, first = self.unit, next(iter(self.clean("fit"))).images
        return Fit(
            layout=layout_of(self.model, first.new_zeros(1, *first.shape[1:]), unit.settings.layers),
            classes=unit.classes,
            recipe=unit.settings,
            seed=unit.seed,
            model_digest=unit.model.digest,
        )

    @functools.cached_property
    def feed(self) -> Feed:
        """The images, read from the store as often as asked."""
        fitted = [kept_attack(self.store, address) for address in self.unit.fitted]
        label, seed = self.unit.model.label, self.unit.seed
        attacked = AttackedImages(self.store, fitted, label, "fit", seed, self.device)
        return Feed(Together([self.clean("fit"), self.training]), attacked, self.clean("held-out"))

    @property
    def training(self) -> TrainingImages:
        """Training images that count as clean."""
        unit = self.unit
        return TrainingImages(self.store, tuple(unit.training), unit.share, unit.seed, self.device)

    def clean(self, part: Part) -> CleanImages:
        """Clean images of one part."""
        return CleanImages(self.store, tuple(self.unit.clean), part, self.unit.seed, self.device)

    @property
    def stored(self) -> bool:
        """Whether the detector is in the store."""
        return self.store.has(self.unit.bank.address)

    def bank(self, *, keep: bool) -> DetectorBank:
        """The stored detector; or one made now, which is committed where it is to be kept.

        Raises:
            DataError: see ``fit_bank``.
        """
        if self.stored:
            return load_bank(self.store, self.unit.bank).to(self.device)
        started = time.monotonic()
        bank = fit_bank(self.model, self.fit, self.feed)
        if keep:
            save_bank(self.store, self.unit.bank, bank, self._told(time.monotonic() - started))
        return bank.to(self.device)

    def _told(self, seconds: float) -> dict[str, object]:
        parts: dict[str, Iterable[Examples]] = {
            "training": self.training,
            "fit": self.clean("fit"),
            "held-out": self.clean("held-out"),
        }
        images = {name: sum(len(each.labels) for each in part) for name, part in parts.items()}
        return {"images": images, "device": self.device.type, "seconds": seconds}
