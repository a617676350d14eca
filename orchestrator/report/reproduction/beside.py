"""Beside: the paper's tables with our numbers and its own side by side, cell by cell."""

import math
from collections.abc import Sequence
from statistics import fmean

from orchestrator.models.ref import PLAIN
from orchestrator.report.fleet import estimated, reach
from orchestrator.report.paper import table_two
from orchestrator.report.reproduction.published import PARAMETERS, TRAINED
from orchestrator.report.reproduction.reproduced import Line, Reproduced, Strand, lines
from orchestrator.report.summary import ModelLine
from orchestrator.report.tables import Table
from orchestrator.report.wording import NONE, duration, method_words, threat_words
from orchestrator.statistics.estimate import Estimate
from orchestrator.transfer.matrix import Panel

_COLUMNS = ("Clean", "Non-adaptive", "Adaptive", "Adaptive − non-adaptive")
_BUDGETS = {
    "linf": "The paper's ε is taken to be 4/255.",
    "l2": "The paper's ε of ℓ2 is not known: its figures stand beside each of ours.",
}


def budget_table(found: Reproduced, budget: Panel) -> Table:
    """Table I under one attack and threat: in every cell ours with its interval, then the paper's."""
    rows, told = [], list[Estimate]()
    for line in lines(found, budget):
        rows.append([*_words(line), *_cells(line)])
        told += [line.clean, line.non_adaptive, line.adaptive] if line.method != PLAIN else []
    note = (
        "Accuracy in % over all images, mean over keys; for adaptive attackers over pairs of keys. "
        f"{reach(told)} {_BUDGETS.get(budget.norm, '')}"
    )
    if len(found.seeds) > 1:
        note += f" Means over {len(found.seeds)} seeds; intervals are within seeds."
    return Table(
        title=f"Table I, {budget.attack}, {threat_words(budget)}",
        note=note,
        header=["Fine-tune", "M (paper’s)", *["Ours", "Paper"] * len(_COLUMNS)],
        rows=rows,
        words=2,
        groups=[("", 2), *((name, 2) for name in _COLUMNS)],
    )


def seed_table(found: Reproduced, budget: Panel) -> Table:
    """The same rows seed by seed: how other plain models and other keys differ."""
    rows = []
    for seed in found.seeds:
        for line in lines(found, budget, [seed]):
            parts = (line.clean, line.non_adaptive, line.adaptive)
            rows.append([f"{seed}", *_words(line), *map(estimated, parts)])
    return Table(
        title=f"Seed by seed, {budget.attack}, {threat_words(budget)}",
        note="As above; every seed has a plain model and keys of its own.",
        header=["Seed", "Fine-tune", "M (paper’s)", *_COLUMNS[:3]],
        rows=rows,
        words=3,
    )


def parameter_table(found: Reproduced) -> Table:
    """Table II: ours, by block size where they differ, and the paper's."""
    ours = [table_two(strand.summary) for strand in found.strands]
    seen = dict.fromkeys(tuple(row) for table in ours for row in table.rows)
    methods = {method_words(method): entry for method, entry in PARAMETERS.items()}
    header = ours[0].header if ours else ["Model"]
    paper = ["ViT-B/16 (paper)", *(methods.get(name, NONE) for name in header[1:])]
    return Table(
        title="Table II. Trainable parameters",
        note="In millions, with their share of all parameters of the model; as many at every block size.",
        header=header,
        rows=[*map(list, seen), paper],
    )


def cost_table(found: Reproduced) -> Table:
    """Section IV-C: what one key's model took to train, by method and block size, and the paper's."""
    rows = []
    for method in found.methods:
        for block_size in found.block_sizes:
            models = [
                model
                for strand in found.strands
                for model in _keyed(strand, method)
                if strand.block_size == block_size
            ]
            if models:
                rows.append([method_words(method), f"{block_size}", *_costs(models)])
        printed = TRAINED[method]
        gpus = f"{printed.gpus} × A100"
        minutes = f"about {duration(60.0 * printed.minutes)}"
        rows.append(
            [f"{method_words(method)}, paper", "any", NONE, gpus, minutes, f"{printed.gpu_hours:g} GPU-h"]
        )
    return Table(
        title="Section IV-C. Training time of one key’s model",
        note="Ours: mean over keys and seeds, with the shortest and the longest. Device time: on all "
        "devices of a model together. Only ratios between methods can be compared across machines.",
        header=["Fine-tune", "M", "Epochs", "Devices a model", "Time", "Device time a key"],
        rows=rows,
        words=2,
    )


def _words(line: Line) -> list[str]:
    if line.method == PLAIN:
        return ["Plain", NONE]
    return [method_words(line.method), f"{line.block_size} ({line.paper_block or NONE})"]


def _cells(line: Line) -> list[str]:
    non_adaptive, adaptive = line.paper_robust
    clean = line.paper.clean if line.paper else math.nan
    pairs = [
        (line.clean, clean),
        (line.non_adaptive, non_adaptive),
        (line.adaptive, adaptive),
        (line.gap, adaptive - non_adaptive),
    ]
    return [text for ours, paper in pairs for text in (estimated(ours), as_printed(paper))]


def as_printed(value: float) -> str:
    """A figure of the paper's, which is in percent, with its two decimals."""
    return NONE if math.isnan(value) else f"{value:.2f}"


def _keyed(strand: Strand, method: str) -> list[ModelLine]:
    keys = {key for panel, grid in strand.grids.items() if panel.method == method for key in grid.keys}
    return [model for model in strand.summary.models if model.method == method and model.name in keys]


def _costs(models: Sequence[ModelLine]) -> list[str]:
    seconds = [model.seconds for model in models]
    devices = dict.fromkeys(f"{m.workers} × {'GPU' if m.device == 'cuda' else 'core'}" for m in models)
    unit = "GPU" if all(model.device == "cuda" for model in models) else "core"
    used = fmean(model.seconds * model.workers for model in models)
    whole = f"{used / 3600:.3g} {unit}-h" if used >= 360 else f"{used:.3g} {unit}-s"
    span = f" ({duration(min(seconds))} to {duration(max(seconds))})" if len(seconds) > 1 else ""
    epochs = ", ".join(dict.fromkeys(f"{model.epochs}" for model in models))
    return [epochs, ", ".join(devices), f"{duration(fmean(seconds))}{span}", whole]
