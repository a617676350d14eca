"""Findings on detectors: what they stop of every sort of images, and what it costs in clean ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from orchestrator.detection.guard.matrix import GuardMatrix
from orchestrator.detection.origin import Origin
from orchestrator.statistics.estimate import Estimate
from orchestrator.statistics.proportion import Interval
from orchestrator.transfer.matrix import Panel

CLEAN_IMAGES = "clean images"
"""In words, of a harmless line: all clean images, by which it shows whether a rate is kept."""


@dataclass(frozen=True)
class Roc:
    """Which share of attacked images is stopped at each share of clean ones; both ascend."""

    false_positives: Float[np.ndarray, " points"]
    true_positives: Float[np.ndarray, " points"]


@dataclass(frozen=True, kw_only=True)
class SortLine:
    """One sort of images that fool: an attack under a threat, by whose images they are to the target."""

    panel: Panel
    origin: Origin
    seen: bool
    """Whether detectors were fitted on images of this attack from this origin."""
    images: int
    """Images that fool, over all targets."""
    auroc: Estimate
    """Of a model's scores against its clean test images; mean over models."""
    stopped: Mapping[float, Estimate]
    """Of the images that fool, by false-positive rate; all targets' images together."""
    roc: Roc
    """What is stopped of clean and of fooling images at every threshold that held-out images set."""


@dataclass(frozen=True, kw_only=True)
class ClassLine:
    """Images of one attack under a threat that fool models into one class, whoever they are made on."""

    panel: Panel
    read_as: int
    images: int
    stopped: Mapping[float, Interval]


@dataclass(frozen=True, kw_only=True)
class HarmlessLine:
    """Images that no attack moved, and how many of them detectors stop."""

    method: str
    kind: str
    """In words: clean images, clean images that are misread, noise under a threat."""
    images: int
    """Over all models; one photograph counts once for each of them."""
    stopped: Mapping[float, Interval]


@dataclass(frozen=True, kw_only=True)
class SafeLine:
    """The fleet's figure of one panel: images of another key that are read right or stopped."""

    panel: Panel
    bare: Estimate
    """Read right without detectors, of all test images; mean over pairs of different keys."""
    guarded: Mapping[float, Estimate]
    """Read right or stopped, by false-positive rate."""
    own: Mapping[float, Estimate]
    """The same of a model's own images: its attacker has the device."""


@dataclass(frozen=True, kw_only=True)
class DetectionFindings:
    """Everything a report says of a study's detectors; of test images alone."""

    matrix: GuardMatrix
    fitted_on: Sequence[str]
    """Names of the attacks whose images detectors were fitted on."""
    images: Mapping[str, int]
    """Photographs of each part: training ones and others that were fitted on, held out, and to test."""
    clean_accuracy: Mapping[str, Mapping[float, Estimate]]
    """By method: clean test images read right and not stopped, by rate; at rate 0 none is stopped."""
    sorts: Sequence[SortLine]
    classes: Sequence[ClassLine]
    harmless: Sequence[HarmlessLine]
    safe: Sequence[SafeLine]
    notes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By model, why a class has no fingerprints of its own."""
