"""Dialogue: a decision-based attack on one image as questions, asked together with those on other images.

An author writes the attack on one image alone, from the first question to the last, and never meets
another. The house packs the questions of many images into full batches, keeps to the budget, remembers
the nearest misread image, and ends a dialogue where that is inside the threat.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from orchestrator.attacks.attack import Points
from orchestrator.attacks.source import Source
from orchestrator.attacks.threat import Threat, distances, project

Dialogue = Generator[Float[Tensor, "asked 3 height width"], Bool[Tensor, " asked"], None]
"""Yields images, and is sent which of them are misread. One that ends has given up."""

# Distances are sums and differences of rounded pixels; a threat's check allows ten times as much.
_ROUNDING = 1e-6


@dataclass
class _Image:
    """One image's dialogue, and what came of it."""

    row: int
    point: Points
    dialogue: Dialogue
    left: int  # questions still to be asked
    asking: Float[Tensor, "asked 3 height width"]
    nearest: Float[Tensor, "1 3 height width"]
    distance: float = float("inf")

    def hear(self, misread: Bool[Tensor, " asked"], threat: Threat) -> bool:
        """Take the answers to what was asked; whether there is more to ask."""
        away = distances(self.asking, self.point.images.expand_as(self.asking))[threat.norm]
        away = torch.where(misread, away, torch.inf)
        place = int(away.argmin())
        if float(away[place]) < self.distance:
            self.nearest, self.distance = self.asking[place : place + 1], float(away[place])
        self.left -= len(self.asking)
        return self.left > 0 and not _inside(self.distance, threat) and self.ask(misread, threat)

    def ask(self, heard: Bool[Tensor, " asked"], threat: Threat) -> bool:
        """The next question, as far as the budget goes; False where there is none."""
        try:
            asking = self.dialogue.send(heard)
        except StopIteration:
            return False
        asking = asking[: self.left]
        images = self.point.images.expand_as(asking)
        away = distances(asking, images)[threat.norm][:, None, None, None]
        # What is near enough is asked exactly as it would be answered.
        near = (away > 0) & (away <= threat.epsilon * (1 + _ROUNDING))
        self.asking = torch.where(near, project(asking, images, threat), asking)
        return True

    def answer(self, threat: Threat) -> Float[Tensor, "1 3 height width"]:
        """The misread image where it is inside; else the nearest one brought inside."""
        if _inside(self.distance, threat):
            return self.nearest
        return project(self.nearest, self.point.images, threat)


def converse(
    source: Source,
    points: Points,
    threat: Threat,
    begin: Callable[[Points], Dialogue],
    *,
    queries: int,
) -> Float[Tensor, "rows 3 height width"]:
    """Hold the dialogues of all points; first asked of each is the image itself, then its start.

    Args:
        source: is asked for decisions alone.
        points: any number of images.
        threat: where a misread image must be.
        begin: starts the dialogue of one point.
        queries: most questions about an image, one or more; all are asked unless it falls.

    Returns:
        Of each image one that is misread and inside the threat; where none was found, the nearest
        misread one brought inside, or the image itself where none was misread at all.
    """
    found = points.images.clone()
    waiting = list(range(len(points)))
    talking: list[_Image] = []
    while waiting or talking:
        while waiting and len(talking) < source.batch:
            talking.append(_opened(points, waiting.pop(0), begin, queries))
        now, later = _turn(talking, source.batch)
        for image, misread in zip(now, _decisions(source, points, now), strict=True):
            if image.hear(misread, threat):
                later.append(image)
            else:
                found[image.row] = image.answer(threat)[0]
        talking = later
    return found


def _turn(talking: list[_Image], batch: int) -> tuple[list[_Image], list[_Image]]:
    """Whose questions fill one batch, the first's in any case, and who goes on waiting."""
    last = accumulate(len(image.asking) for image in talking)
    number = max(1, sum(asked <= batch for asked in last))
    return talking[:number], talking[number:]


def _opened(points: Points, row: int, begin: Callable[[Points], Dialogue], queries: int) -> _Image:
    point = points.part(torch.tensor([row], device=points.images.device))
    dialogue = _greeted(point, begin)
    return _Image(row, point, dialogue, queries, asking=next(dialogue), nearest=point.images)


def _greeted(point: Points, begin: Callable[[Points], Dialogue]) -> Dialogue:
    yield point.images
    if point.start is not None:
        yield point.start
    yield from begin(point)


def _decisions(source: Source, points: Points, now: list[_Image]) -> list[Bool[Tensor, " asked"]]:
    """What the source decides of all that is asked now, image by image."""
    lengths = [len(image.asking) for image in now]
    asked = torch.cat([image.asking for image in now])
    device = points.images.device
    rows = torch.tensor([image.row for image in now], device=device).repeat_interleave(
        torch.tensor(lengths, device=device)
    )
    misread = [
        source.decisions(asked[some], rows[some], points.labels[rows[some]])
        for some in torch.split(torch.arange(len(rows), device=device), source.batch)
    ]
    return list(torch.split(torch.cat(misread), lengths))


def _inside(distance: float, threat: Threat) -> bool:
    return distance <= threat.epsilon * (1 + _ROUNDING)
