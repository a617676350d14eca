"""Why LoRA models may fall to a guessed key: ranks swept, and what keyed models of each share, measured.

    python benchmarks/collapse.py [--output collapse]                                  # digits
    python benchmarks/collapse.py --preset cifar10 --data FOLDER --weights plain.safetensors …

Of one plain model (trained here, or --weights), every variant is tuned for each of --keys keys, drawn
for this run alone: ``full``; ``lora-R``, adapters of rank R on patch embedding and qkv; ``patch-R``, on
the patch embedding alone. Then, for each variant: who is fooled by whose images (fooling rate: of the
images read right when clean); cosines of input gradients between two keys and to plain; what the update
of the patch embedding reads, beside the principal components of clean patches; and which band of
frequencies of a perturbation passes on. In arXiv 2311.16577 LoRA models of rank 16, on a ViT of width
768, fall to images made on another key's model.
"""

import argparse
import json
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from collapse_measures import (
    BANDS,
    ROUTES,
    Aim,
    Count,
    bands,
    covariance,
    energy_inside,
    low_share,
    mean,
    patches,
    principal,
    row_space,
    share_inside,
    transfer,
)
from collapse_models import Scene, Variant, prepare, study_of, train
from rich.console import Console
from rich.table import Table
from torch import nn

from orchestrator.attacks.answer import Found
from orchestrator.attacks.threat import Threat
from orchestrator.report.figures.sheet import COLUMN, bare, new_figure, paper_files
from orchestrator.transfer.alignment.gradients import cosines, input_gradients

COMPONENTS = 16  # of clean patches, and directions of an update, at most
SHARED = ("cosine_keys", "cosine_plain", "update_cosine", "gradient_low")
UNTOLD = ("data", "weights", "output")  # where things were, on this machine
UPDATES = ("rows_inside", "rows_random", "energy_inside", "energy_random", "variance")


def alike(scene: Scene, models: list[nn.Module], cut: int) -> dict[str, float]:
    """Cosines of input gradients and of updates, means over images and pairs; shares of low frequencies."""
    own = [input_gradients(model, scene.images, scene.labels) for model in models]
    plain = input_gradients(scene.plain, scene.images, scene.labels)
    updates = [scene.update(model, slot).flatten() for slot, model in enumerate(models)]
    pairs = list(combinations(range(len(models)), 2))
    found = cosines(torch.stack([*own, plain]))
    between = torch.cat([found[:, a, b] for a, b in pairs])
    between = between[between.isfinite()]  # a model may have no gradient at an image
    return {
        "cosine_keys": float(between.mean()),
        "cosine_keys_error": float(between.std() / len(between) ** 0.5),
        "cosine_plain": float(found[:, -1, :-1].nanmean(dim=0).mean()),
        "update_cosine": mean(
            [float(torch.cosine_similarity(updates[a], updates[b], dim=0)) for a, b in pairs]
        ),
        "gradient_low": mean([low_share(gradient, cut) for gradient in own]),
    }


def updated(scene: Scene, models: list[nn.Module], variant: Variant) -> dict[str, float]:
    """What updates of the patch embedding read, on plain pixels, beside subspaces drawn at random."""
    spread = covariance(patches(scene.clean, scene.patch))
    space, values = principal(spread, COMPONENTS), len(spread)
    count = min(variant.rank or COMPONENTS, COMPONENTS)
    updates = [scene.update(model, slot).double() for slot, model in enumerate(models)]
    starts = [scene.start(slot).double() for slot in range(len(models))]
    moved, stood = ([float((m @ spread @ m.T).trace()) for m in each] for each in (updates, starts))
    return {
        "rows_inside": mean([share_inside(row_space(update, count), space[:count]) for update in updates]),
        "rows_random": count / values,
        "energy_inside": mean([energy_inside(update, space) for update in updates]),
        "energy_random": COMPONENTS / values,
        "variance": mean([m / (m + s) for m, s in zip(moved, stood, strict=True)]),
    }


def sweep(scene: Scene, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every variant trained for every key, and measured; written down as it comes."""
    threat = Threat.parse(options.threat)
    aim = Aim(scene.images, scene.labels, options.attack, threat, options.cut)
    made = aim.whole(scene.plain)
    in_band = {band: aim.band(scene.plain, band) for band in ("low", "high")}
    rows = [of_plain(aim, scene.plain, made, in_band)]
    for variant in map(Variant, options.variants):
        began = time.process_time()
        models = [train(scene, variant, slot) for slot in range(scene.study.n_keys)]
        row = {
            "variant": variant.name,
            **alike(scene, models, options.cut),
            **updated(scene, models, variant),
        }
        row |= transfer(aim, models, scene.plain, made) | bands(aim, models, in_band)
        rows.append(row | {"cpu_seconds": time.process_time() - began})
        written = {"options": {k: v for k, v in vars(options).items() if k not in UNTOLD}, "rows": rows}
        (options.output / "collapse.json").write_text(json.dumps(written, indent=1) + "\n")
        print(f"{variant.name}: {rows[-1]['cpu_seconds']:.0f} s of CPU", file=sys.stderr)
    return rows


def of_plain(aim: Aim, plain: nn.Module, made: Found, in_band: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What the plain model reads, clean and after the attacks on itself."""
    right = aim.right(plain)
    row: dict[str, Any] = {"variant": "plain", "clean": float(right.double().mean())}
    row["gradient_low"] = low_share(input_gradients(plain, aim.images, aim.labels), aim.cut)
    for name, moved in {"own": made.worst, "own_low": in_band["low"], "own_high": in_band["high"]}.items():
        count = Count()
        count.add(plain, moved, aim.labels, right)
        row[name] = count.told()
    return row


def show(rows: list[dict[str, Any]]) -> None:
    """Print three tables."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    for title, names in {
        "fooling rates, %": ("clean", *ROUTES),
        "moved within one band alone: fooling rates, %": BANDS,
        "cosines and shares, %": (*SHARED, *UPDATES),
    }.items():
        table = Table(title=title)
        for heading in ("variant", *names):
            table.add_column(heading.replace("_", " "), justify="left" if heading == "variant" else "right")
        for row in rows:
            table.add_row(row["variant"], *(percent(row.get(name)) for name in names))
        console.print(table)


def percent(value: Any) -> str:
    """A share or a counted rate, in per cent."""
    if value is None:
        return "–"
    return f"{100 * (value['rate'] if isinstance(value, dict) else value):.1f}"


def draw(rows: list[dict[str, Any]]) -> dict[str, bytes]:
    """Three panels, a variant a place: fooling, cosines, and what updates read; as files by name."""
    tuned = [row for row in rows if row["variant"] != "plain"]
    panels = {
        "fooling rate, %": {"own": "own", "other": "another key's", "from_plain": "plain's"},
        "cosine, %": {
            "cosine_keys": "between keys",
            "cosine_plain": "to plain",
            "update_cosine": "of updates",
        },
        "in components, %": {
            "rows_inside": "rows",
            "energy_inside": "energy",
            "rows_random": "rows at random",
        },
    }
    figure = new_figure(COLUMN, COLUMN.width, 5.4)
    figure.subplots_adjust(left=0.16, right=0.96, top=0.95, bottom=0.1, hspace=0.6)
    for number, (label, lines) in enumerate(panels.items()):
        axes = figure.add_subplot(3, 1, number + 1)
        bare(axes, COLUMN)
        for mark, (name, told), colour in zip("os^", lines.items(), COLUMN.series, strict=False):
            heights = [float(percent(row[name])) for row in tuned]
            axes.plot(heights, mark, color=colour, label=told, markersize=4)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.set_xticks(range(len(tuned)), [row["variant"] for row in tuned], rotation=30)
        axes.set_ylabel(label, **COLUMN.text)
        axes.legend(
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=3,
            frameon=False,
            fontsize=COLUMN.points - 1,
        )
    return paper_files(figure, "collapse")


def main() -> None:
    """Train, measure, print, and write JSON and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", choices=["digits", "cifar10"], default="digits")
    for name in ("data", "weights"):
        parser.add_argument(f"--{name}", default="")
    for name in ("patch-size", "width", "depth", "heads", "block-size", "train-images"):
        parser.add_argument(f"--{name}", type=int, default=0)
    for name, value in {"epochs": 20, "keys": 2, "eval-images": 300, "cut": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    for name in ("learning-rate", "lora-learning-rate"):
        parser.add_argument(f"--{name}", type=float, default=0.0, help="0 is the preset's")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--variants", nargs="+", default=["full", "lora-16", "lora-4", "lora-1", "patch-16", "patch-4"]
    )
    parser.add_argument("--attack", default="apgd-ce:steps=10")
    parser.add_argument("--threat", default="linf:8/255")
    parser.add_argument("--output", type=Path, default=Path("collapse"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        rows = sweep(prepare(study_of(options), Path(folder)), options)
    show(rows)
    for name, content in draw(rows).items():
        (options.output / name).write_bytes(content)


if __name__ == "__main__":
    main()
