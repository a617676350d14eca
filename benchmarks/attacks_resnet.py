"""pyautoattack and our standard cascade on the CIFAR-10 ResNet-18 that its authors ship in their wheel.

    python benchmarks/attacks_resnet.py [--data FOLDER] [--images 12] [--share 3] [--json resnet.json]

The folder holds test_lossless_subset.parquet, exact CIFAR-10 test images as PNG; without it nothing is
measured, and that is said. All images under a threat that breaks every one of them, and, as one that
stands costs thousands of passes, the first few under one that the model partly resists.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from attack_duel import duel, duel_table
from attack_scenes import resnet_scene
from attacks import CONSOLE, machine, write

BROKEN, PARTLY = "linf:8/255", "linf:0.5/255"


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--share", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        try:
            scene = resnet_scene(Path(folder), options.data, options.images, options.share)
        except FileNotFoundError as absent:
            CONSOLE.print(f"skipped: {absent}. Name a folder that holds it with --data.")
            return
        whole, part = scene.shards
        duels = []
        for threat, shard in ((BROKEN, whole), (PARTLY, part)):
            duels.append(duel(scene, scene.models, threat, shard))
            del duels[-1]["moved"]
            CONSOLE.print(duel_table(duels[-1:]))
    result = {"duels": duels, "machine": machine()}
    CONSOLE.print(f"machine: {result['machine']}")
    if options.json:
        write(result, options.json)


if __name__ == "__main__":
    main()
