"""Fitting a bank: propose, measure on clean and attacked images part by part, choose, and calibrate."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from orchestrator.detection.bank import DetectorBank, Side
from orchestrator.detection.examples import Examples
from orchestrator.detection.moments import Moments, merge
from orchestrator.detection.neurons import NeuronLayout
from orchestrator.detection.probe import Probe
from orchestrator.detection.proposals import propose
from orchestrator.detection.readout import Fingerprints, Readout
from orchestrator.detection.recipe import BankRecipe
from orchestrator.detection.selection import Chosen, choose
from orchestrator.detection.shrinkage import shrunk
from orchestrator.errors import DataError
from orchestrator.seeds import derive_seed

Kind = Literal["clean", "attacked"]
POOL = "pool"


@dataclass(frozen=True)
class Feed:
    """Images to make a bank of; each part is looked at once or twice, and is in memory only then."""

    clean: Iterable[Examples]
    """Those set apart for it, and training images: correlations of few images are mostly noise."""
    attacked: Iterable[Examples]
    held_out: Iterable[Examples]
    """Clean images for the thresholds; none of those above, nor any that tests are made on."""


@dataclass(frozen=True)
class Measured:
    """What one part of the images came to."""

    moments: Moments
    used: int
    shown: int
    """Images given. Of clean ones those are used that are read right, of attacked ones the others."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A bank in the making; every step depends on its inputs alone, so parts may be measured anywhere."""

    layout: NeuronLayout
    classes: int
    recipe: BankRecipe
    seed: int
    """The study's."""
    model_digest: str
    """Of the model: banks of two models share no proposals."""

    def proposed(self) -> Fingerprints:
        """Random fingerprints for every class, and for the pool of all."""
        rows = [
            propose(
                self.seed,
                self.model_digest,
                name,
                proposals=self.recipe.proposals,
                neurons=self.recipe.neurons,
                total=self.layout.total,
            )
            for name in (*map(str, range(self.classes)), POOL)
        ]
        return Fingerprints(self.layout, torch.stack(rows), torch.arange(self.classes + 1))

    def measure(
        self,
        model: nn.Module,
        fingerprints: Fingerprints,
        examples: Examples,
        kind: Kind,
        *,
        products: bool = False,
    ) -> Measured:
        """The moments of some images' fingerprints, each image under the class it is read as."""
        fingerprints = fingerprints.to(examples.images.device)
        moved = _moved(examples)
        readout = fingerprints.read(model, examples.images[moved], self.recipe.batch)
        right = readout.classes == examples.labels[moved]
        used = readout.part((right if kind == "clean" else ~right).nonzero()[:, 0])
        rows = len(fingerprints.members)
        moments = _moments(used, rows, int(fingerprints.row_of[-1]), products)
        return Measured(moments.to("cpu"), len(used.classes), len(examples.labels))

    def chosen(
        self, fingerprints: Fingerprints, clean: Sequence[Measured], attacked: Sequence[Measured]
    ) -> DetectorBank:
        """The bank of what was measured, with neither correlations nor thresholds.

        Args:
            fingerprints: as proposed.
            clean: parts of the clean images, in their order.
            attacked: parts of the attacked ones.

        Raises:
            DataError: no attacked image fools the model, clean images were given for attacked ones, or no
                class has any fingerprint.
        """
        _check_fooled(attacked)
        of_clean, of_attacked = (merge(part.moments for part in parts) for parts in (clean, attacked))
        seed = derive_seed(self.seed, "detector", self.model_digest)
        choices = choose(of_clean, of_attacked, self.recipe, seed)
        notes = {_name(row, self.classes): each.note for row, each in enumerate(choices) if each.note}
        own = [row for row, each in enumerate(choices) if len(each.places)]
        if not own:
            raise DataError(f"No class can be watched: of all classes together, {choices[-1].note}.")
        kept = torch.tensor([len(choices[row].places) for row in own])
        places = torch.stack([_filled(choices[row], int(kept.max())) for row in own])
        rows = torch.tensor(own)[:, None]
        watched = Fingerprints(self.layout, fingerprints.members[rows, places], _row_of(own, self.classes))
        return DetectorBank(
            fingerprints=watched,
            kept=kept,
            clean=Side(of_clean.mean[rows, places], of_clean.std[rows, places]),
            attacked=Side(of_attacked.mean[rows, places], of_attacked.std[rows, places]),
            draw=self.recipe.draw,
            batch=self.recipe.batch,
            rule=self.recipe.rule,
            notes=notes,
        )

    def correlated(
        self, bank: DetectorBank, clean: Sequence[Measured], attacked: Sequence[Measured]
    ) -> DetectorBank:
        """The bank with correlations, from what was measured once more of the fingerprints it kept."""
        sides = []
        for side, parts in ((bank.clean, clean), (bank.attacked, attacked)):
            moments = merge(part.moments for part in parts)
            correlation = shrunk(moments.correlation, bank.kept, moments.count).float()
            sides.append(Side(side.mean, side.std, correlation))
        return bank.with_sides(*sides)

    def calibrated(
        self, model: nn.Module, bank: DetectorBank, held_out: Iterable[Examples]
    ) -> DetectorBank:
        """The bank with thresholds from held-out clean images, and what it knows its model by."""
        parts, probe = [], None
        for examples in held_out:
            parts.append(bank.read(model, examples.images))
            probe = probe or Probe.of(model, examples.images.shape[-1], examples.images.device)
        if not parts:
            raise DataError("There are no held-out clean images to set thresholds by. Give some.")
        seed = derive_seed(self.seed, "held-out", self.model_digest)
        whole = bank.calibrated(Readout.joined(parts), self.recipe.least_held_out, seed).to("cpu")
        return replace(whole, probe=probe)


def fit_bank(model: nn.Module, fit: Fit, feed: Feed) -> DetectorBank:
    """A bank of a model, made in this process.

    Args:
        model: in eval mode; it is left as it was found.
        fit: how.
        feed: on which images.

    Raises:
        DataError: see ``Fit.chosen`` and ``Fit.calibrated``.
        StudyError: fingerprints are larger than the model.
    """
    device = next(model.parameters()).device
    proposed = fit.proposed().to(device)

    def measure(fingerprints: Fingerprints, products: bool) -> list[list[Measured]]:
        kinds: tuple[tuple[Kind, Iterable[Examples]], ...] = (
            ("clean", feed.clean),
            ("attacked", feed.attacked),
        )
        return [
            [fit.measure(model, fingerprints, part, kind, products=products) for part in parts]
            for kind, parts in kinds
        ]

    bank = fit.chosen(proposed.to("cpu"), *measure(proposed, False))
    if fit.recipe.covariance:
        bank = fit.correlated(bank, *measure(bank.fingerprints.to(device), True))
    return fit.calibrated(model, bank.to(device), feed.held_out)


def _moments(used: Readout, rows: int, pool: int, products: bool) -> Moments:
    """Every image counts for its own class, and for the pool where that is another row."""
    own = used.part(((used.rows >= 0) & (used.rows != pool)).nonzero()[:, 0])
    values, of_row = own.values, own.rows
    if used.pool is not None:
        values = torch.cat([values, used.pool])
        of_row = torch.cat([of_row, torch.full_like(used.rows, pool)])
    return Moments.of(values, of_row, rows, products=products)


def _moved(examples: Examples) -> Int[Tensor, " moved"]:
    if examples.originals is None:
        return torch.arange(len(examples.labels), device=examples.images.device)
    return (examples.images != examples.originals).flatten(1).any(dim=1).nonzero()[:, 0]


def _check_fooled(attacked: Sequence[Measured]) -> None:
    if not sum(part.used for part in attacked):
        raise DataError(
            f"None of {sum(part.shown for part in attacked)} attacked images is moved and misread. Give "
            "images that fool this model; clean ones in their place would teach it nothing of attacks."
        )


def _name(row: int, classes: int) -> str:
    return POOL if row == classes else str(row)


def _filled(choice: Chosen, width: int) -> Int[Tensor, " width"]:
    """The places kept, filled up with the first of them: what is not real is never drawn."""
    return torch.cat([choice.places, choice.places[:1].expand(width - len(choice.places))])


def _row_of(own: Sequence[int], classes: int) -> Int[Tensor, " classes_and_pool"]:
    """The row of each class among those that are left; a class that has none is watched by the pool's."""
    pool = own.index(classes) if classes in own else -1
    return torch.tensor([own.index(c) if c in own else pool for c in range(classes)] + [pool])
