"""DetectorBank: the fingerprints of a model's classes, and judgement by a fresh random draw of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchestrator.detection.calibration import Calibration
from orchestrator.detection.draws import draw, draw_seeds
from orchestrator.detection.probe import Probe
from orchestrator.detection.readout import Fingerprints, Readout
from orchestrator.detection.scores import SCORES, Drawn, Gaussians, Rule
from orchestrator.detection.verdict import Verdict
from orchestrator.errors import DataError, StudyError


@dataclass(frozen=True)
class Side:
    """What fingerprints are like in clean images, or in attacked ones."""

    mean: Float[Tensor, "rows fingerprints"]
    std: Float[Tensor, "rows fingerprints"]
    correlation: Float[Tensor, "rows fingerprints fingerprints"] | None = None
    """Shrunk; in float32."""

    def to(self, device: torch.device | str) -> "Side":
        """The same on another device."""
        correlation = None if self.correlation is None else self.correlation.to(device)
        return Side(self.mean.to(device), self.std.to(device), correlation)

    def of(self, rows: Int[Tensor, " images"], places: Int[Tensor, "images drawn"]) -> Gaussians:
        """The distributions of drawn fingerprints, with correlations where they are known."""
        alone = self.marginals(rows, places)
        if self.correlation is None:
            return alone
        together = self.correlation[rows[:, None, None], places[:, :, None], places[:, None, :]]
        return replace(alone, correlation=together)

    def marginals(self, rows: Int[Tensor, " images"], places: Int[Tensor, "images drawn"]) -> Gaussians:
        """The same without correlations."""
        own = rows[:, None]
        return Gaussians(self.mean[own, places], self.std[own, places])


@dataclass(frozen=True)
class DetectorBank:
    """A bank fitted to one model; as secret as the model's weights.

    ``calibration`` and ``probe`` are None only while the bank is being made.
    """

    fingerprints: Fingerprints
    kept: Int[Tensor, " rows"]
    """Of each row's fingerprints so many are real, the first ones."""
    clean: Side
    attacked: Side
    draw: int
    """Fingerprints drawn for each image."""
    batch: int
    """Images of a pass through the model."""
    rule: Rule = "ratio"
    """By which it judges unless told otherwise."""
    calibration: Calibration | None = None
    probe: Probe | None = None
    """By which the bank knows its model."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Why a class, or the pool, has no fingerprints of its own."""

    def judge(
        self,
        model: nn.Module,
        images: Float[Tensor, "images 3 height width"],
        *,
        rate: float = 0.01,
        rule: Rule | None = None,
        seed: int | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Verdict:
        """What the model reads, and whether it was made to.

        Args:
            model: the one the bank was fitted to, in eval mode; it is left as it was found.
            images: in [0, 1].
            rate: share of clean images that may be flagged.
            rule: of the score; the bank's own if none is given.
            seed: fixes the draws, for tests; otherwise they are fresh and nobody can repeat them.
            numbers: of the images, for the draws; otherwise their places.

        Raises:
            WeightsError: the bank is of another model.
            StudyError: the rate is too low for the held-out images, or the rule needs correlations.
        """
        numbers = range(len(images)) if numbers is None else numbers
        readout = self.read(model, images)
        self.check(model, images.device)
        return self.verdict(readout, draw_seeds(numbers, seed), rate=rate, rule=rule)

    def check(self, model: nn.Module, device: torch.device | str) -> None:
        """Look whether this is the bank's model: one more pass, once.

        Raises:
            WeightsError: it is another one.
        """
        if self.probe is not None:
            self.probe.check(model, device)

    def read(self, model: nn.Module, images: Float[Tensor, "images 3 height width"]) -> Readout:
        """The images as the model reads them, with all that any draw may ask of them."""
        return self.fingerprints.read(model, images, self.batch)

    def verdict(
        self,
        readout: Readout,
        seeds: Int[Tensor, " images"],
        *,
        rate: float = 0.01,
        rule: Rule | None = None,
    ) -> Verdict:
        """What is said of images that were read already; see ``judge``."""
        if self.calibration is None:
            raise StudyError("This detector has no thresholds yet. Calibrate it on held-out clean images.")
        rule = rule or self.rule
        scores = self.scores(readout, seeds, rule)
        return self.calibration.verdict(rule, scores, readout.classes, rate)

    def scores(
        self, readout: Readout, seeds: Int[Tensor, " images"], rule: Rule
    ) -> Float[Tensor, " images"]:
        """Scores of images by the fingerprints that are drawn for them.

        Raises:
            StudyError: the rule needs correlations that the bank was fitted without.
        """
        if rule not in self.rules:
            raise StudyError(f"Rule {rule} needs correlations. Fit the detector with covariance.")
        rows = readout.rows.clamp_min(0)
        kept = self.kept[rows]
        places, real = draw(seeds.to(rows.device), kept, self.fingerprints.members.shape[1], self.draw)
        values = readout.values.gather(1, places).double()
        sides = (self.clean, self.attacked)
        if rule == "shrunk-ratio":
            clean, attacked = (side.of(rows, places) for side in sides)
        else:
            clean, attacked = (side.marginals(rows, places) for side in sides)
        scores = SCORES[rule](Drawn(values, real, clean, attacked))
        return torch.where(readout.rows >= 0, scores, torch.inf)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that this bank can judge by."""
        return tuple(r for r in SCORES if r != "shrunk-ratio" or self.clean.correlation is not None)

    def calibrated(
        self, held_out: Readout, least: int, seed: int, *, same_draw: bool = False
    ) -> "DetectorBank":
        """The bank with thresholds from held-out clean images, for every rule.

        Args:
            held_out: clean images as the model reads them, whatever they show; none was fitted on.
            least: a class with fewer of them is judged by those of all.
            seed: of their draws.
            same_draw: draw once for all of them, as a detector does that draws nothing anew.

        Raises:
            DataError: there are none that any fingerprint watches.
        """
        watched = _watched(held_out)
        count = len(watched.classes)
        seeds = draw_seeds([0] * count if same_draw else range(count), seed)
        scores: dict[str, Tensor] = {rule: self.scores(watched, seeds, rule) for rule in self.rules}
        return replace(self, calibration=Calibration(scores, watched.classes, least))

    def to(self, device: torch.device | str) -> "DetectorBank":
        """The same bank on the device of its model."""
        return replace(
            self,
            fingerprints=self.fingerprints.to(device),
            kept=self.kept.to(device),
            clean=self.clean.to(device),
            attacked=self.attacked.to(device),
            calibration=self.calibration.to(device) if self.calibration else None,
        )

    def with_sides(self, clean: Side, attacked: Side) -> "DetectorBank":
        """The same fingerprints, of which more is known."""
        return replace(self, clean=clean, attacked=attacked)

    def with_draw(self, count: int, held_out: Readout, least: int, seed: int) -> "DetectorBank":
        """The same fingerprints, of which another number is drawn; calibrated anew."""
        if count < 1:
            raise StudyError(f"A draw of {count} fingerprints judges nothing. Draw at least 1.")
        return replace(self, draw=count).calibrated(held_out, least, seed)


def _watched(held_out: Readout) -> Readout:
    """The images that some fingerprint watches.

    Raises:
        DataError: there are none.
    """
    watched = held_out.part((held_out.rows >= 0).nonzero()[:, 0])
    if not len(watched.classes):
        raise DataError("No held-out clean image is read as a class that this detector watches. Give more.")
    return watched
