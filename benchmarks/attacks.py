"""What an attack costs and what it is worth: pyautoattack, cell by cell, and ours, on keyed digits models.

    python benchmarks/attacks.py [--images 75] [--json attacks.json]

Trains the fleet of the digits preset, then compares on the same points and models, one side after the
other in one process with one thread, as an attack actor has: AutoAttack standard source by source and our
standard cascade; the whole matrix by one worker and by N² attacks; and how often the images of each
transfer attack, on one key and on two and three together, fool the other keys, for how many passes.
Counts are exact and the same on any machine; a ratio of seconds is of this run alone. See also
attacks_resnet.py.
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from attack_duel import Cost, attack_cost, duel, duel_table, fooled, measured, outcomes
from attack_scenes import Meter, Scene, digits_scene
from rich.console import Console
from rich.table import Table

from orchestrator.attacks import ATTACKS
from orchestrator.models.ensemble import Ensemble, SourceRef
from orchestrator.shards.shard import Shard
from orchestrator.statistics.proportion import wilson
from orchestrator.transfer.counting import build_matrix

BROKEN, PARTLY = "linf:8/255", "linf:3/255"
TRANSFER = [name for name, row in ATTACKS.items() if type(row).__module__.split(".")[2] == "transfer"]
CONSOLE = Console(width=None if sys.stdout.isatty() else 180)


def matrix(scene: Scene, threat: str, shard: Shard, alone: dict[str, Any], again: bool) -> dict[str, Any]:
    """The whole matrix by one worker; and cell by cell, measured or, as runs repeat, N times the duel."""
    models, meter, whole, cells = scene.models, Meter(), Cost(), Cost()
    number, images = len(models), len(shard.items)
    with measured(meter, whole):
        worker = scene.worker(meter)
        for source in models:
            worker.run(scene.unit("standard", threat, source, models, shard))
    if again:
        with measured(meter, cells):
            for source in models:
                for target in models:
                    scene.worker(meter).run(scene.unit("standard", threat, source, [target], shard))
    else:
        cells = alone["ours"].times(number)
    # Their attack again for every cell, and one look at the images before it and one after.
    theirs = alone["theirs"].times(number) + Cost(forwards=2 * images * number**2)
    return {"threat": threat, "number": number, "whole": whole, "cells": cells, "theirs": theirs}


def matrix_table(matrices: list[dict[str, Any]]) -> Table:
    """Passes and seconds of both ways, and their ratio over 1/N."""
    table = Table(title="standard, the whole matrix with plain: ours / cell by cell / ratio × N")
    for heading in (
        "threat",
        "N",
        "passes",
        "CPU s",
        "passes of pyautoattack cell by cell",
        "ours of these",
    ):
        table.add_column(heading, justify="left" if heading == "threat" else "right")
    for one in matrices:
        whole, cells, theirs, number = (one[name] for name in ("whole", "cells", "theirs", "number"))
        table.add_row(
            one["threat"],
            str(number),
            f"{whole.calls:,} / {cells.calls:,} / {whole.calls / cells.calls * number:.2f}",
            f"{whole.cpu:.1f} / {cells.cpu:.1f} / {whole.cpu / cells.cpu * number:.2f}",
            f"{theirs.calls:,}",
            f"{whole.calls / theirs.calls:.4f}",
        )
    return table


def strengths(scene: Scene, threat: str, shard: Shard, alone: dict[str, Any]) -> list[dict[str, Any]]:
    """How often other keys are fooled, for passes an image; pyautoattack's images first."""
    pairs = [
        fooled(scene, target, shard, alone["moved"][source])
        for source in scene.keyed
        for target in scene.keyed
        if target != source
    ]
    baseline = {"name": "pyautoattack", "keys": 1, "calls": alone["theirs"].calls / alone["images"]}
    rows = [baseline | {"fooled": sum(f for f, _ in pairs), "tried": sum(n for _, n in pairs)}]
    singles = [strength(scene, name, 1, threat, shard) for name in ("standard", *TRANSFER)]
    cheap = [row for row in singles[1:] if row["calls"] <= baseline["calls"]]
    best = max(cheap, key=lambda row: row["fooled"] / row["tried"])
    for name in dict.fromkeys(("mi-fgsm", best["name"])):
        singles += [strength(scene, name, keys, threat, shard) for keys in (2, 3)]
    return rows + singles


def strength(scene: Scene, attack: str, keys: int, threat: str, shard: Shard) -> dict[str, Any]:
    """One attack on every set of so many keys, its images tried on all keys outside."""
    worker, spent, tables, sources = scene.worker(Meter()), Cost(), [], 0
    for members in combinations(scene.keyed, keys):
        source: SourceRef = members[0] if keys == 1 else Ensemble(members=members)
        others = [model for model in scene.keyed if model not in members]
        unit = scene.unit(attack, threat, source, others, shard)
        worker.run(unit)
        tables.append(outcomes(scene, unit))
        spent, sources = spent + attack_cost(tables[-1]), sources + 1
    counted = build_matrix(tables).table
    hits, tried = (sum(counted[name].to_pylist()) for name in ("fooled", "eligible"))
    calls = spent.calls / (sources * len(shard.items))
    return {"name": attack, "keys": keys, "calls": calls, "fooled": hits, "tried": tried}


def strength_table(rows: list[dict[str, Any]], threat: str) -> Table:
    """Rates, times pyautoattack's, and per passes spent."""
    table = Table(title=f"how often images made on some keys fool the others, {threat}")
    for heading in (
        "images of",
        "keys",
        "calls an image",
        "others fooled",
        "× pyautoattack",
        "a 100 calls",
    ):
        table.add_column(heading, justify="left" if heading == "images of" else "right")
    first = rows[0]["fooled"] / rows[0]["tried"]
    for row in rows:
        rate = wilson(row["fooled"], row["tried"])
        table.add_row(
            row["name"],
            str(row["keys"]),
            f"{row['calls']:.0f}",
            f"{rate.rate:.1%} ({rate.low:.1%} to {rate.high:.1%} of {row['tried']})",
            f"{rate.rate / first:.1f}",
            f"{100 * rate.rate / row['calls']:.1%}",
        )
    return table


def compare(images: int, root: Path) -> dict[str, Any]:
    """Everything, on one fleet."""
    scene = digits_scene(root, images, images // 8, CONSOLE.print)
    whole, part = scene.shards
    CONSOLE.print("standard, source by source")
    duels = [duel(scene, scene.models, BROKEN, whole), duel(scene, scene.models, PARTLY, part)]
    CONSOLE.print(duel_table(duels))
    matrices = [
        matrix(scene, BROKEN, whole, duels[0], again=True),
        matrix(scene, PARTLY, part, duels[1], again=False),
    ]
    CONSOLE.print(matrix_table(matrices))
    rows = strengths(scene, BROKEN, whole, duels[0])
    CONSOLE.print(strength_table(rows, BROKEN))
    for one in duels:
        del one["moved"]
    return {"duels": duels, "matrices": matrices, "strength": rows, "machine": machine()}


def machine() -> dict[str, Any]:
    """Where this ran."""
    return {"cores": os.cpu_count(), "machine": platform.machine(), "load": os.getloadavg()}


def write(result: dict[str, Any], file: Path) -> None:
    """The result as JSON."""
    file.write_text(json.dumps(result, indent=1, default=dataclasses.asdict) + "\n")


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=75)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = compare(options.images, Path(folder))
    CONSOLE.print(f"machine: {result['machine']}")
    if options.json:
        write(result, options.json)


if __name__ == "__main__":
    main()
