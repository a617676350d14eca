"""pyautoattack as its users call it and our standard cascade, one source at a time, on the same images."""

import io
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from attack_scenes import Meter, Scene
from pyautoattack import AutoAttack
from rich.table import Table
from torch import Tensor

from orchestrator.attacks.threat import Threat
from orchestrator.models.ref import ModelRef
from orchestrator.shards.shard import Shard
from orchestrator.transfer.judge import read
from orchestrator.transfer.work import WorkUnit
from orchestrator.transfer.worker import OUTCOMES_FILE

JUDGED_AT_ONCE = 256


@dataclass
class Cost:
    """What something cost: passes of one image through one model, and seconds."""

    forwards: int = 0
    backwards: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    """Of this process, which has one thread: what the wall clock would say on an idle machine."""

    @property
    def calls(self) -> int:
        """Passes either way."""
        return self.forwards + self.backwards

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def times(self, factor: int) -> "Cost":
        """The same, so many times over."""
        return Cost(*(factor * getattr(self, name) for name in self.__dataclass_fields__))


@dataclass
class Side:
    """One side's run on one source."""

    cost: Cost
    standing: list[bool]
    """Image by image, whether the source still reads it right."""
    attack: Cost = field(default_factory=Cost)
    """Of the cost what the outcomes give as the attack's own, without the house's readings."""


@contextmanager
def measured(meter: Meter, cost: Cost) -> Iterator[None]:
    """Add to ``cost`` what happens inside."""
    before = (meter.forwards, meter.backwards, time.perf_counter(), time.process_time())
    yield
    after = (meter.forwards, meter.backwards, time.perf_counter(), time.process_time())
    passed = [later - earlier for later, earlier in zip(after, before, strict=True)]
    for name, value in zip(cost.__dataclass_fields__, passed, strict=True):
        setattr(cost, name, getattr(cost, name) + value)


def theirs(scene: Scene, source: ModelRef, threat: str, shard: Shard) -> tuple[Side, Tensor]:
    """AutoAttack standard on one source, called as its documentation shows; and the images it returns."""
    pixels, wanted = scene.pixels(shard), Threat.parse(threat)
    meter, cost = Meter(), Cost()
    with measured(meter, cost):
        model = meter.watch(scene.load(scene.store, source))
        norm = wanted.norm.replace("l", "L", 1)
        attack = AutoAttack(model, norm=norm, eps=wanted.epsilon, seed=0, version="standard")
        with torch.random.fork_rng():
            moved, read_as = attack.run_standard_evaluation(pixels.images, pixels.labels)
    return Side(cost, (read_as == pixels.labels).tolist()), moved


def ours(scene: Scene, source: ModelRef, threat: str, shard: Shard) -> Side:
    """Our standard cascade by a fresh worker, with the source itself as the one target."""
    unit, meter, cost = scene.unit("standard", threat, source, [source], shard), Meter(), Cost()
    with measured(meter, cost):
        scene.worker(meter).run(unit)
    table = outcomes(scene, unit)
    standing = [
        read_as == label
        for read_as, label in zip(
            table["adversarial_prediction"].to_pylist(), table["label"].to_pylist(), strict=True
        )
    ]
    return Side(cost, standing, attack_cost(table))


def outcomes(scene: Scene, unit: WorkUnit) -> pa.Table:
    """The recorded outcomes of a unit."""
    return pq.read_table(io.BytesIO(scene.store.read(unit.address, OUTCOMES_FILE)))


def attack_cost(table: pa.Table) -> Cost:
    """What the outcomes say the attack cost; every target's rows repeat it."""
    first = table.filter(pa.compute.equal(table["target"], table["target"][0]))
    return Cost(*(sum(first[name].to_pylist()) for name in ("forwards", "backwards")))


def duel(scene: Scene, sources: Iterable[ModelRef], threat: str, shard: Shard) -> dict[str, Any]:
    """Both sides on every source; sums, and the images that came back from theirs."""
    images, pairs = {}, []
    for source in sources:
        side, images[source] = theirs(scene, source, threat, shard)
        pairs.append((side, ours(scene, source, threat, shard)))
    both = [sum((pair[place].cost for pair in pairs), Cost()) for place in (0, 1)]
    stood = [[flag for pair in pairs for flag in pair[place].standing] for place in (0, 1)]
    return {
        "scene": scene.name,
        "threat": threat,
        "sources": len(pairs),
        "images": len(stood[0]),
        "theirs": both[0],
        "ours": both[1],
        "attack": sum((pair[1].attack for pair in pairs), Cost()),
        "robust": [sum(flags) / len(flags) for flags in stood],
        "broken_by_them_alone": sum(o and not t for t, o in zip(*stood, strict=True)),
        "broken_by_us_alone": sum(t and not o for t, o in zip(*stood, strict=True)),
        "moved": images,
    }


def duel_table(duels: list[dict[str, Any]]) -> Table:
    """Robust accuracy, passes an image, seconds; theirs and ours."""
    table = Table(title="standard, source by source: pyautoattack / ours / ratio")
    headings = ("scene", "threat", "images", "robust", "broken by one alone", "forwards", "backwards")
    for heading in (*headings, "calls", "attack alone", "CPU s", "wall s"):
        table.add_column(heading, justify="left" if heading in headings[:2] else "right")
    for one in duels:
        told = [one[side] for side in ("theirs", "ours")]
        images = one["images"]
        table.add_row(
            one["scene"],
            one["threat"],
            f"{one['sources']} × {images // one['sources']}",
            " / ".join(f"{rate:.1%}" for rate in one["robust"]),
            f"{one['broken_by_them_alone']} / {one['broken_by_us_alone']}",
            *(" / ".join(f"{getattr(c, n) / images:.0f}" for c in told) for n in ("forwards", "backwards")),
            _versus(told[0].calls / images, told[1].calls / images, ".0f"),
            f"{one['attack'].calls / images:.1f} / {one['attack'].calls / told[0].calls:.3f}",
            *(_versus(*(getattr(c, name) for c in told), ".1f") for name in ("cpu", "wall")),
        )
    return table


def _versus(them: float, us: float, how: str) -> str:
    return f"{them:{how}} / {us:{how}} / {us / them:.3f}"


def fooled(scene: Scene, target: ModelRef, shard: Shard, moved: Tensor) -> tuple[int, int]:
    """How many moved images fool a target, of those it read right before; the rule of the house."""
    pixels, model = scene.pixels(shard), scene.load(scene.store, target)
    clean, after = (
        read([model], images, pixels.labels, JUDGED_AT_ONCE).classes for images in (pixels.images, moved)
    )
    eligible = (clean == pixels.labels) & (moved != pixels.images).flatten(1).any(dim=1)
    return int((eligible & (after != pixels.labels)).sum()), int(eligible.sum())
