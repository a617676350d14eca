"""BankRecipe: how a detector bank is fitted and judges; frozen, checked, part of the bank's identity."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from orchestrator.detection.scores import Rule
from orchestrator.errors import StudyError

Keep = Literal["top", "random"]


@dataclass(frozen=True, kw_only=True)
class BankRecipe:
    """Everything that decides a bank beside its model and its images.

    Raises:
        StudyError: a value is out of range.
    """

    layers: tuple[str, ...] = ()
    """Names or patterns of layers to read, e.g. ``blocks.*``; none: the model family's own."""
    neurons: int = 50
    """Neurons of a fingerprint."""
    proposals: int = 1000
    """Random fingerprints tried for each class."""
    kept: int = 300
    """Fingerprints kept of those that tell clean from attacked, at most."""
    keep: Keep = "top"
    """Which of them: those of largest effect, or any, at random."""
    false_discoveries: float = 0.01
    """Share of kept fingerprints that may differ by chance alone (Benjamini & Hochberg 1995)."""
    effect: float = 0.5
    """Least absolute difference of means, in pooled standard deviations (Cohen's d)."""
    training_images: int = 200
    """Training images of each class, about, that are fitted on as clean beside those set apart."""
    least_images: int = 10
    """Clean and attacked images that a class needs to have fingerprints of its own; else it is pooled."""
    least_held_out: int = 100
    """Held-out clean images that a class needs to have a threshold of its own; else it is pooled."""
    draw: int = 50
    """Fingerprints drawn for each image that is judged."""
    rule: Rule = "shrunk-ratio"
    """What their score is, in a study: shrunk-ratio, which needs covariance, ratio, vote or anomaly."""
    covariance: bool = True
    """Keep correlations too, for the rule ``shrunk-ratio``: twice kept² numbers more for each class."""
    batch: int = 64
    """Images a model reads at a time: passes of one size round alike."""

    def __post_init__(self) -> None:
        least = {"neurons": 1, "proposals": 1, "kept": 1, "least_images": 3, "least_held_out": 1}
        for name, low in (least | {"draw": 1, "batch": 1, "training_images": 0}).items():
            if getattr(self, name) < low:
                raise StudyError(
                    f"Setting {name} of a detector is {getattr(self, name)}. Give at least {low}."
                )
        if self.rule == "shrunk-ratio" and not self.covariance:
            raise StudyError(
                "Rule shrunk-ratio needs correlations. Fit with covariance, or by another rule."
            )
        if not 0 < self.false_discoveries <= 1 or not self.effect >= 0:
            raise StudyError(
                f"A detector cannot have false discoveries of {self.false_discoveries:g} and effects of "
                f"{self.effect:g}. Give a share in (0, 1], and an effect of 0 or more."
            )

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {**asdict(self), "layers": list(self.layers)}

    def training_share(self, images: int, classes: int) -> float:
        """The share of a study's training images that are shown as clean ones, for so many classes."""
        return min(1.0, self.training_images * classes / max(images, 1))

    def state_bytes(self) -> int:
        """Bytes one class takes in a bank, in a file as in memory: neurons, statistics, correlations."""
        neurons, statistics = 4 * self.neurons, 4 * 8
        correlations = 2 * 4 * self.kept if self.covariance else 0
        return self.kept * (neurons + statistics + correlations)
