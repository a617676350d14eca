"""Keyed models trained here against a plain timm + PEFT script, side by side, per key.

    python benchmarks/training.py [--scene digits|cifar10|vit-s|vit-b] [--methods full lora] [--json FILE]
    python benchmarks/training.py --ddp

Both sides start from the same plain model and take the same images, epochs, batch, optimiser and
schedule. The script trains one key after another, on one GPU or with as many threads as there are cores,
and again with one, which is faster on a busy machine; the faster counts. Ours uses the same machine as it
does for any study, on a Ray that it starts. Each run is a fresh process with keys of its own; sides take
turns, and a ratio is the median of those of the runs. Testing the models is in no number. With --ddp: one
model by one worker, then by two, a core (or GPU) each.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median, stdev

import torch
from rich.console import Console
from rich.table import Table
from training_scene import SCENES, flops_per_image, prepare, scene, train_ours, write_settings

from orchestrator.study import Study

OURS = "ours"
# Dense bf16 without sparsity, by the makers' data sheets.
PEAK_TFLOPS = {"A100": 312.0, "H100": 989.0, "H200": 989.0, "L4": 121.0, "L40S": 362.0}
# arXiv 2311.16577 reports A100-hours per key; some 60 epochs follow from them.
PAPER_HOURS, PAPER_EPOCHS, IMAGENET = {"lora": 20, "full": 60}, 60, 1_281_167


def in_own_process(command: list[str], threads: int = 0) -> dict[str, object]:
    """Run one side; what it printed, and its wall seconds less what is in no number."""
    own = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    ambient = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *command], check=False, capture_output=True, text=True, env=ambient | own
    )
    wall = time.monotonic() - began
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    told = json.loads(done.stdout.splitlines()[-1])
    return {**told, "wall": wall - told["unmeasured"]}


def compare(options: argparse.Namespace, study: Study, root: Path, method: str) -> dict[str, object]:
    """Both sides in turn; every run."""
    here = Path(__file__).parent
    script = [str(here / "training_script.py"), str(write_settings(study, root, method, options.loaders))]
    runs: dict[str, list[dict]] = {side: [] for side in (*map(by, options.threads), OURS)}
    for number in range(options.repeats):
        for side in list(runs) if number % 2 == 0 else list(runs)[::-1]:
            threads = next((count for count in options.threads if by(count) == side), 0)
            ours = [*sys.argv, "--side", method, "--root", str(root)]
            command = ours if side == OURS else [*script, str(number)]
            runs[side].append(in_own_process(command, threads))
    trained = options.keys * study.recipe_of(method).epochs * images_of(study, root, method)
    return {"runs": runs, "images": trained, "flops": flops_per_image(study, root, method)}


def by(threads: int) -> str:
    """What a script with so many threads is called."""
    return f"script, {threads} thread{'s' * (threads > 1)}"


def fastest(runs: dict[str, list[dict]], name: str) -> str:
    """The script that took least."""
    return min((side for side in runs if side != OURS), key=lambda s: median(r[name] for r in runs[s]))


def images_of(study: Study, root: Path, method: str) -> int:
    """Images of an epoch: whole batches."""
    import numpy as np

    batch = study.recipe_of(method).batch_size
    return len(np.load(root / "images.npz")["train_labels"]) // batch * batch


def show(method: str, result: dict, keys: int, console: Console) -> None:
    """One method's table, ratios and notes."""
    table = Table(title=f"{method}, {keys} keys: medians of {len(result['runs']['ours'])} runs")
    headings = ("side", "s/key, all", "s/key, running", "images/s", "GFLOP/s", "waits", "accuracy")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "side" else "right", no_wrap=True)
    for side, runs in result["runs"].items():
        wall, steady = (median(run[name] for run in runs) / keys for name in ("wall", "steady"))
        spent = [key for run in runs for key in run["keys"]]
        waits = sum(key["waited"] for key in spent) / sum(key["seconds"] for key in spent)
        pace = result["images"] / keys / steady
        right = [key["accuracy"] for key in spent]
        cells = (f"{wall:.2f}", f"{steady:.2f}", f"{pace:,.0f}", f"{pace * result['flops'] / 1e9:,.1f}")
        table.add_row(side, *cells, f"{waits:.1%}", f"{mean(right):.1%} ± {spread(right):.1%}")
    console.print(table)
    for name, told in (("steady", "running"), ("wall", "start and end of all processes included")):
        side = fastest(result["runs"], name)
        pairs = zip(result["runs"][side], result["runs"][OURS], strict=True)
        each = [script[name] / ours[name] for script, ours in pairs]
        console.print(f"{method}: {median(each):.2f} times the {side}, {told} ({listed(each)})")
    console.print(f"{method}: {same_accuracy(result)}")
    for name, told in (("ray", "Ray starts"), ("group", "workers start"), ("winding_up", "workers end")):
        console.print(f"{method}: {told}: {median(r[name] for r in result['runs']['ours']):.1f} s")
    on_a_gpu(method, result, console)


def same_accuracy(result: dict) -> str:
    """Whether the keys of both sides read test images equally well: Welch's interval of the difference."""
    sides = (fastest(result["runs"], "steady"), OURS)
    scores = [[k["accuracy"] for run in result["runs"][side] for k in run["keys"]] for side in sides]
    apart = mean(scores[1]) - mean(scores[0])
    half = 2 * sum(stdev(part) ** 2 / len(part) for part in scores if len(part) > 1) ** 0.5
    within = "within noise" if abs(apart) <= half else "NOT within noise"
    return f"accuracy ours − script: {apart:+.2%} ± {half:.2%}: {within}"


def on_a_gpu(method: str, result: dict, console: Console) -> None:
    """Share of the GPU's peak, and GPU-hours at the paper's size, where there is a GPU."""
    if not torch.cuda.is_available():
        return
    name, count = torch.cuda.get_device_name(), torch.cuda.device_count()
    peak = next(
        (tera for part, tera in PEAK_TFLOPS.items() if part in name.replace("-", " ").split()), None
    )
    for side in result["runs"]:
        # The script uses one GPU, ours all of them.
        devices = count if side == OURS else 1
        pace = result["images"] / median(run["steady"] for run in result["runs"][side]) / devices
        hours = IMAGENET * PAPER_EPOCHS / pace / 3600
        share = f"{pace * result['flops'] / peak / 1e12:.1%} of {peak} TFLOP/s" if peak else "peak unknown"
        told = f"MFU {share}; {hours:.1f} {name}-hours per key for {PAPER_EPOCHS} epochs of ImageNet"
        console.print(f"{method}, {side}: {told} (paper: {PAPER_HOURS[method]} A100-hours)")


def spread(values: list[float]) -> float:
    """Standard deviation over keys; 0 of one."""
    return stdev(values) if len(values) > 1 else 0.0


def listed(values: list[float]) -> str:
    """All runs' ratios."""
    return ", ".join(f"{value:.2f}" for value in values)


def compare_workers(options: argparse.Namespace, root: Path, console: Console) -> dict[str, object]:
    """One model by one worker and by two, in turn; seconds of its epochs."""
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(options.repeats):
        for workers in times:
            command = [*sys.argv, "--side", "full", "--root", str(root), "--workers", str(workers)]
            times[workers].append(in_own_process(command)["keys"][0]["seconds"])
    each = [one / two / 2 for one, two in zip(times[1], times[2], strict=True)]
    console.print(f"epochs of one model: 1 worker {listed(times[1])} s, 2 workers {listed(times[2])} s")
    console.print(f"efficiency from 1 to 2 workers: {median(each):.0%} ({listed(each)})")
    return {"seconds": times, "efficiency": each}


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scene", choices=SCENES, default="digits")
    parser.add_argument("--data", default="", help="instead of the scene's own images")
    parser.add_argument("--images", type=int, default=0, help="training images; 0 is all")
    parser.add_argument("--methods", nargs="+", choices=("full", "lora"), default=["full", "lora"])
    parser.add_argument("--keys", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    gpu, cores = torch.cuda.is_available(), os.cpu_count() or 1
    parser.add_argument("--threads", type=int, nargs="+", default=[cores] if gpu else [cores, 1])
    parser.add_argument(
        "--loaders", type=int, default=8 if gpu else 0, help="the script's loader processes"
    )
    parser.add_argument("--compiled", action="store_true", help="our side through torch.compile")
    parser.add_argument("--ddp", action="store_true", help="one model by one worker and by two instead")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write JSON where asked."""
    options = parsed()
    keys = 1 if options.ddp else options.keys
    study = scene(options.scene, data=options.data, images=options.images, keys=keys, epochs=options.epochs)
    if options.side:
        told = train_ours(study, options.root, options.side, options.workers, options.compiled)
        print(json.dumps(told))
        return
    console = Console(width=None if sys.stdout.isatty() else 110)
    result: dict[str, object] = {"cores": os.cpu_count(), "machine": platform.machine()}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        console.print(f"plain model reads {prepare(study, root):.1%} of clean test images right")
        if options.ddp:
            result["ddp"] = compare_workers(options, root, console)
        for method in () if options.ddp else options.methods:
            result[method] = compare(options, study, root, method)
            show(method, result[method], keys, console)
    result["load"] = os.getloadavg()
    console.print(f"{result['cores']} cores, {result['machine']}, load {result['load']}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
