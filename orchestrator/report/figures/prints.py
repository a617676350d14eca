"""Prints: the album as it stands in the page, PNG by PNG, as many sources as there is room for."""

import math
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.report.album import Album, MovedImages
from orchestrator.report.grid import Grid

_MOST_BYTES = 1_500_000  # of all example images in a page


@dataclass(frozen=True)
class Prints:
    """An album as it stands in the page."""

    album: Album
    shown: Sequence[tuple[MovedImages, dict[str, Any]]]
    """Those there is room for, each with its pictures as the page's script reads them."""

    @property
    def json(self) -> dict[str, Any]:
        """What all sources share, and the pictures of each."""
        album = self.album
        return {
            "labels": list(album.labels),
            "clean": [_png(image) for image in album.clean],
            "note": album.note,
            "moved": [pictures for _, pictures in self.shown],
        }

    def of(self, grid: Grid) -> dict[str, dict[str, Any]]:
        """What a panel shows, by source: which pictures, and what its targets read in them."""
        found = {}
        for place, (moved, _) in enumerate(self.shown):
            if readings := moved.of(grid.panel):
                found[moved.source] = {"moved": place, "readings": readings}
        return found

    def told(self, grid: Grid) -> str:
        """For which sources of a panel there are pictures; empty for those of no source."""
        sources, every = list(self.of(grid)), len(grid.rows)
        if not sources:
            return ""
        named = ", ".join(sources[:3]) + (" and others" if len(sources) > 3 else "")
        whose = (
            "All cells"
            if len(sources) == every
            else f"Cells of {len(sources)} of {every} sources ({named})"
        )
        return f"{whose} show example images, too."


def develop(album: Album) -> Prints:
    """The pictures of an album as PNG, as many sources as the page has room for."""
    room, shown = _MOST_BYTES, []
    for moved in album.moved:
        pictures = _pictures(album, moved)
        weight = sum(
            len(png) for part in ("others", "own") for row in pictures.get(part, []) for png in row
        )
        if weight > room:
            break
        room -= weight
        shown.append((moved, pictures))
    return Prints(album, shown)


def _pictures(album: Album, moved: MovedImages) -> dict[str, Any]:
    most = max(float(np.abs(images - album.clean).max(initial=0)) for images in (moved.others, moved.own))
    factor = max(1, math.floor(0.5 / most)) if most else 1

    def both(images: np.ndarray) -> list[list[str]]:
        steps = 0.5 + factor * (images - album.clean)
        return [[_png(image) for image in row] for row in (images, steps)]

    pictures = {"factor": factor, "others": both(moved.others)}
    return pictures if np.array_equal(moved.own, moved.others) else pictures | {"own": both(moved.own)}


def _png(image: np.ndarray) -> str:
    levels = np.clip(np.rint(255 * image.astype(np.float64)), 0, 255).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(levels.transpose(1, 2, 0)).save(file, "PNG", optimize=True)
    return b64encode(file.getvalue()).decode()
