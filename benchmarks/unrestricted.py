"""Patches, turns and colours beside simpler ways to the same threats, on keyed digits models.

    python benchmarks/unrestricted.py --images 24

A patch where it is drawn (LaVAN); turns and shifts on the grid of Engstrom et al. (5 x 5 x 31), and as many
drawn at random as ours tries; colours by random maps. Counted are passes, and images of those the model
reads right that it misreads afterwards, confirmed in another batch size.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from attack_scenes import Scene, digits_scene
from jaxtyping import Float, Int
from torch import Tensor

from orchestrator.attacks import ATTACKS
from orchestrator.attacks.answer import Answer, Found
from orchestrator.attacks.attack import Attack, Points
from orchestrator.attacks.losses import cross_entropy
from orchestrator.attacks.noise import integers, uniform
from orchestrator.attacks.rendering import RENDERED, render, render_found, unmoved
from orchestrator.attacks.settling import settle
from orchestrator.attacks.source import Source
from orchestrator.attacks.threat import Threat
from orchestrator.attacks.unrestricted.patch import Painting, Patch
from orchestrator.transfer.judge import read

Way = Callable[[Source, Points, Threat], Found]
THREATS = (
    "patch:2",
    "patch:4",
    "patch:6",
    "spatial:0.01",
    "spatial:0.02",
    "colour:16/255",
    "colour:32/255",
)


def drawn_place(source: Source, points: Points, threat: Threat) -> Found:
    """A patch in one square drawn at random, with all of our steps."""
    side, length = int(threat.epsilon), points.images.shape[3] - int(threat.epsilon) + 1
    painting = Painting.begun(Patch(), source, points, side)
    place = [integers(points.seeds, stream, length) for stream in (0, 1)]
    painting.paint(0, place[0] * points.images.shape[3] + place[1], None, Patch().calls(10).forwards - 1)
    return painting.answer.found()


def worst_of(moves: Callable[[Points, int], Float[Tensor, "rows 3 ways numbers"]], tries: int) -> Way:
    """The moves of highest cross-entropy of some that do not follow from answers, none first."""

    def way(source: Source, points: Points, threat: Threat) -> Found:
        answer = Answer.unmoved(unmoved(points.images, threat.norm))
        for number in range(tries):
            made = threat.epsilon * moves(points, number)
            for rows in points.slices(source.batch):
                seen = source.look(
                    render(points.images[rows], made[rows], threat.norm), rows, points.labels[rows]
                )
                answer.offer(
                    rows, made[rows], cross_entropy(seen.logits, points.labels[rows]), seen.misread
                )
        return render_found(answer.found(), points.images, threat.norm)

    return way


def on_grid(points: Points, number: int) -> Float[Tensor, "rows 3 1 1"]:
    """The grid of Engstrom et al. (2019, §3.3)."""
    move = list(itertools.product(*(torch.linspace(-1, 1, n).tolist() for n in (5, 5, 31))))[number]
    return points.images.new_tensor(move).view(1, 3, 1, 1).expand(len(points), -1, -1, -1)


def at_random(norm: str) -> Callable[[Points, int], Float[Tensor, "rows 3 ways numbers"]]:
    """Moves of uniform numbers."""
    shape = RENDERED[norm].shape  # type: ignore[index]
    return lambda points, number: (2 * uniform(points.seeds, number, *shape) - 1).to(points.images)


WAYS: dict[str, dict[str, Way | Attack]] = {
    "patch": {"patch": ATTACKS["patch"], "a place drawn": drawn_place},
    "spatial": {
        "spatial": ATTACKS["spatial"],
        "grid of 775": worst_of(on_grid, 775),
        "201 at random": worst_of(at_random("spatial"), 201),
    },
    "colour": {"colour": ATTACKS["colour"], "202 maps at random": worst_of(at_random("colour"), 202)},
}


def tried(scene: Scene, way: Way | Attack, threat: Threat) -> tuple[int, int, float]:
    """Over all keyed models: images read right, those of them that fell, passes an image."""
    right = fell = passes = 0
    shard = scene.pixels(scene.shards[0])
    for ref in scene.keyed:
        model = scene.load(scene.store, ref)
        clean = read([model], shard.images, shard.labels, 64).classes == shard.labels
        rows: Int[Tensor, " rows"] = clean.nonzero()[:, 0]
        points = Points.of(shard.images[rows], shard.labels[rows], range(len(rows)))
        source = Source([model], len(rows), batch=256)
        found = settle(way(source, points, threat), points.images, threat)
        right += len(rows)
        fell += int((read([model], found.worst, points.labels, 64).classes != points.labels).sum())
        passes += int((source.forwards + source.backwards).sum())
    return right, fell, passes / right


def main() -> None:
    """Train the scene, try every way under every threat, print a table in markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=24, help="images attacked on each of four models")
    images = parser.parse_args().images
    with tempfile.TemporaryDirectory() as folder:
        scene = digits_scene(Path(folder), images, 1, lambda _: None)
        print("| threat | way | passes an image | fallen |\n|---|---|---:|---:|")
        for threat in map(Threat.parse, THREATS):
            for name, way in WAYS[threat.norm].items():
                right, fell, passes = tried(scene, way, threat)
                print(
                    f"| {threat} | {name} | {passes:.0f} | {100 * fell / right:.1f} % of {right} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
