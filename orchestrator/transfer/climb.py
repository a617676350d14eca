"""Climb: one attack up a ladder of threats, each begun where the one before ended; and what it cost."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orchestrator.attacks.answer import Found
from orchestrator.attacks.attack import Attack, Points
from orchestrator.attacks.settling import settle
from orchestrator.attacks.source import Source
from orchestrator.attacks.threat import Ladder, Threat


@dataclass(frozen=True)
class Moved:
    """The images an attack made, for every threat of its ladder, and the passes each image took."""

    worst: Float[Tensor, "threats images 3 size size"]
    """What asks whether the source fell; see Found."""
    best: Float[Tensor, "threats images 3 size size"]
    """What is tried on other models."""
    forwards: Int[Tensor, "threats images"]
    """Passes through the source's models, under this threat and the smaller ones before it."""
    backwards: Int[Tensor, "threats images"]
    read_as: Int[Tensor, "threats images"]
    """What the source reads the worst of them as, as the house judges; the label until it has judged."""
    worst_moves: Float[Tensor, "threats images ..."]
    """What the house rendered the worst of them from; no numbers where images are not rendered."""
    best_moves: Float[Tensor, "threats images ..."]

    def fooled(self, labels: Int[Tensor, " images"]) -> Bool[Tensor, "threats images"]:
        """Whether the source misreads the worst of them."""
        return self.read_as != labels

    @classmethod
    def joined(cls, parts: "list[Moved]") -> "Moved":
        """Images attacked in several parts, in their order."""
        names = [each.name for each in fields(cls)]
        return cls(*(torch.cat([getattr(part, name) for part in parts], dim=1) for name in names))


def climb(attack: Attack, source: Source, points: Points, ladder: Ladder) -> Moved:
    """Attack all points under each threat in turn.

    An image that fell under a smaller threat has fallen under a larger one. An attack that ends with
    an image's first fall leaves it alone from there on; any other goes on from the best it has found.

    Raises:
        ThreatViolated: the attack left its threat.
    """
    found: list[Found] = []
    forwards, backwards = [], []
    for threat in ladder.threats:
        found.append(_under(threat, attack, source, points, found[-1] if found else None))
        forwards.append(source.forwards[source.rows].clone())
        backwards.append(source.backwards[source.rows].clone())
    return Moved(
        worst=torch.stack([each.worst for each in found]),
        best=torch.stack([each.best for each in found]),
        forwards=torch.stack(forwards),
        backwards=torch.stack(backwards),
        read_as=points.labels.expand(len(found), -1),
        worst_moves=_stacked([each.worst_moves for each in found], points),
        best_moves=_stacked([each.best_moves for each in found], points),
    )


def _stacked(moves: list[Tensor | None], points: Points) -> Tensor:
    told = [each for each in moves if each is not None]
    return torch.stack(told) if told else no_moves(len(moves), points.images)


def no_moves(
    threats: int, images: Float[Tensor, "images 3 size size"]
) -> Float[Tensor, "threats images 0"]:
    """The moves of threats that have none."""
    return images.new_zeros(threats, len(images), 0)


def _under(threat: Threat, attack: Any, source: Source, points: Points, before: Found | None) -> Found:
    if before is None:
        return settle(attack(source, points, threat), points.images, threat)
    fell = _fallen(source, points, before.worst)
    rows = torch.arange(len(points), device=fell.device)
    left = rows[~fell] if getattr(attack, "early", False) else rows
    warm = Points(points.images, points.labels, points.seeds, start=before.reached)
    found = settle(attack(source.part(left), warm.part(left), threat), points.images[left], threat)
    now = Found(*(tensor.clone() for tensor in before.tensors))
    for kept, new in zip(now.tensors, found.tensors, strict=True):
        kept[left] = new
    # What the larger threat did not bring down again stays as it fell.
    still = left[fell[left] & ~_fallen(source.part(left), points.part(left), found.worst)]
    now.worst[still] = before.worst[still]
    if now.worst_moves is not None and before.worst_moves is not None:
        now.worst_moves[still] = before.worst_moves[still]
    return now


def _fallen(
    source: Source, points: Points, moved: Float[Tensor, "images 3 size size"]
) -> Bool[Tensor, " images"]:
    parts = [
        source.decisions(moved[rows], rows, points.labels[rows]) for rows in points.slices(source.batch)
    ]
    return torch.cat(parts) if parts else points.labels.bool()
