"""GuardUnit: one model is given its detector, and shown what was made on every source; and its identity."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.attacks.threat import Threat
from orchestrator.detection.recipe import BankRecipe
from orchestrator.detection.stored import BankRef
from orchestrator.models.ref import ModelRef
from orchestrator.seeds import derive_seed
from orchestrator.store.record import recipe_digest

Digests = Mapping[str, str]
"""Addresses of artifacts, each with its recipe's digest."""


@dataclass(frozen=True)
class Sitting:
    """What a model with its detector is shown in one go: one source's images, or harmless ones."""

    source: str
    """The source's label; ``clean`` for clean images and noise."""
    shown: Digests
    """Kept attacks of that source; none where images are harmless."""
    threats: tuple[Threat, ...] = ()
    """Of the noise beside clean images."""


@dataclass(frozen=True, kw_only=True)
class GuardUnit:
    """A model, what its detector is fitted on, and the sittings that are still to be held."""

    model: ModelRef
    settings: BankRecipe
    classes: int
    seed: int
    """The study's."""
    clean: Digests
    """Shards of clean images, which are fitted, calibrated and tested on by their parts."""
    training: Digests
    """Shards of training images, a sample of which is fitted on as clean, too."""
    share: float
    """Of the training images, those in the sample."""
    fitted: Digests
    """Kept attacks that the detector is fitted on."""
    sittings: tuple[Sitting, ...]

    @property
    def id(self) -> str:
        """The unit's name in ledgers and logs."""
        return f"guarded/{self.model.label}"

    @property
    def bank(self) -> BankRef:
        """The detector."""
        images = {**self.clean, **self.training, **self.fitted}
        return BankRef(model=self.model, settings=self.settings, seed=self.seed, images=images)

    @property
    def draws(self) -> int:
        """The seed that fingerprints are drawn by, so that a study can be judged twice alike."""
        return derive_seed(self.seed, "guard", self.model.label)

    def address(self, sitting: Sitting) -> str:
        """Where the judged rows of a sitting are: the last part is of all that decides them."""
        return f"{self.id}/{sitting.source}/{recipe_digest(self.recipe(sitting))[:8]}"

    def recipe(self, sitting: Sitting) -> dict[str, Any]:
        """Everything that decides the judged rows of a sitting."""
        return {
            "bank": recipe_digest(self.bank.recipe),
            "clean": dict(self.clean),
            "shown": dict(sitting.shown),
            "threats": [str(threat) for threat in sitting.threats],
        }
