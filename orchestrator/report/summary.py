"""StudySummary: everything the report says, gathered from the store; plain values only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.detection.guard.findings import DetectionFindings
from orchestrator.report.album import Album
from orchestrator.transfer.alignment.measured import Alignment
from orchestrator.transfer.committee.findings import CommitteeFindings
from orchestrator.transfer.matrix import TransferMatrix


@dataclass(frozen=True, kw_only=True)
class ModelLine:
    """One trained model: ``plain``, a key id with a method, or a control."""

    name: str
    """The model's name in the matrix: ``plain``, a key id such as ``k-3f9a61c2d0e4``, or a control's."""
    method: str
    """``plain``, ``full`` or ``lora``."""
    trainable_parameters: int
    total_parameters: int
    epochs: int
    seconds: float
    """Wall time of its training, from the record."""
    workers: int = 1
    """Data-parallel workers of its training, one device each."""
    device: str = ""
    """What it was trained on: ``cuda`` or ``cpu``; empty where its record does not say."""
    twin: str = ""
    """Of a control, the key id of the slot whose key or weights it has; empty for all others."""


@dataclass(frozen=True, kw_only=True)
class StageLine:
    """One stage of the study: how many artifacts it made and how long they took, machines summed."""

    name: str
    artifacts: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class StudySummary:
    """One study, ready to be written up."""

    study: str
    settings: Mapping[str, str]
    """The study's settings by name, printable; no secret is among them."""
    matrix: TransferMatrix
    models: Sequence[ModelLine]
    stages: Sequence[StageLine]
    notes: Sequence[str] = field(default=())
    """Things a reader must know first: images left out, units that failed, random weights."""
    against: "StudySummary | None" = None
    """Another study that this one is compared with."""
    album: Album | None = None
    """Example images, where outcomes were recorded with some."""
    detection: DetectionFindings | None = None
    """What detectors stop, where there are some."""
    committees: CommitteeFindings | None = None
    """What committees make of attacked images, where there are some."""
    alignments: Sequence[Alignment] = ()
    """How far models' input gradients point the same way, a method each; none where it was not measured."""
    attack_seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time of attacking a source and scoring its images, by the source's name and method as in
    ``k-3f9a61c2d0e4.full``; empty where it is not known."""
