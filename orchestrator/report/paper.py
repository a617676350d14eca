"""Tables I and II as the paper lays them out (arXiv 2311.16577), from our own counts."""

import math
from collections.abc import Sequence
from math import nan

from orchestrator.models.ref import PLAIN
from orchestrator.report.grid import Grid, lay_out, mean
from orchestrator.report.summary import StudySummary
from orchestrator.report.tables import Table
from orchestrator.report.wording import NONE, method_words, spread, threat_words

# What the settings may call the three things Table I says about a model besides its numbers.
_MODEL = ("model", "architecture", "architecture_name", "backbone")
_BLOCK = ("block_size", "block")
_RANK = ("lora_rank", "rank")


def table_one(summary: StudySummary, grids: Sequence[Grid] | None = None) -> Table:
    """Clean and robust accuracy by method, attack and threat: mean ± sample deviation over keys.

    Non-adaptive images are made on plain, adaptive ones on every other key in turn. The column
    that the paper does not have, own key, is what an attacker reaches who holds the very model.

    Args:
        summary: of the study.
        grids: its panels, or some of them, for a table as narrow as the paper's.
    """
    grids = lay_out(summary) if grids is None else grids
    blocks = list(dict.fromkeys(_block(grid) for grid in grids))
    methods = dict.fromkeys(
        [model.method for model in summary.models if model.method != PLAIN]
        + [grid.panel.method for grid in grids if grid.keys]
    )
    rows = [_plain_row(summary, grids, blocks)]
    rows += [_method_row(summary, grids, blocks, method) for method in methods]
    return Table(
        title="Table I. Clean and robust accuracy",
        note="Accuracy in % over all images, as in the paper: mean over keys ± sample standard "
        "deviation over keys. Non-adaptive: attacked on plain. Adaptive: attacked on each other "
        "key, averaged per target. Own key: attacked on the model itself (white box).",
        header=["Model", "Defense", "Block size", "Fine-tune", "Clean"]
        + ["Non-adaptive", "Adaptive", "Own key"] * len(blocks),
        rows=rows,
        words=4,
        groups=[("", 5), *((f"Robust ({threat}), {attack}", 3) for attack, threat in blocks)],
    )


def table_two(summary: StudySummary) -> Table:
    """Trainable parameters by method, in millions and as a share of all parameters."""
    counts: dict[str, list[str]] = {}
    for model in summary.models:
        if model.method == PLAIN:
            continue
        entry = _parameters(model.trainable_parameters, model.total_parameters)
        entries = counts.setdefault(model.method, [])
        if entry not in entries:
            entries.append(entry)
    return Table(
        title="Table II. Trainable parameters",
        note="In millions (×10⁶), with their share of all parameters of the model.",
        header=["Model", *(method_words(method) for method in counts)],
        rows=[[_setting(summary, _MODEL), *("; ".join(entries) for entries in counts.values())]],
    )


def _plain_row(
    summary: StudySummary, grids: Sequence[Grid], blocks: Sequence[tuple[str, str]]
) -> list[str]:
    homes = [grid for grid in grids if (PLAIN, PLAIN) in grid.cells]
    readers = [grid for grid in grids if PLAIN in grid.names]
    clean = readers[0].clean(PLAIN).rate if readers else nan
    row = [_setting(summary, _MODEL), "Plain", NONE, method_words(PLAIN), spread([clean])]
    for block in blocks:
        robust = [grid.cell(PLAIN, PLAIN).robust.rate for grid in homes if _block(grid) == block]
        # The same model and the same images stand in the panel of every method: one is enough.
        row += [spread(robust[:1]), NONE, NONE]
    return row


def _method_row(
    summary: StudySummary,
    grids: Sequence[Grid],
    blocks: Sequence[tuple[str, str]],
    method: str,
) -> list[str]:
    own = {_block(grid): grid for grid in grids if grid.panel.method == method}
    seen = next(iter(own.values()), None)
    clean = [seen.clean(key).rate for key in seen.keys] if seen else []
    row = [
        _setting(summary, _MODEL),
        "Key",
        _setting(summary, _BLOCK),
        _fine_tune(summary, method),
        spread(clean),
    ]
    for block in blocks:
        row += _robust(own[block]) if block in own else [NONE] * 3
    return row


def _robust(grid: Grid) -> list[str]:
    def rate(source: str, target: str) -> float:
        return grid.cell(source, target).robust.rate

    return [
        spread(rate(PLAIN, key) for key in grid.keys),
        spread(mean(rate(other, key) for other in grid.others(key)) for key in grid.keys),
        spread(rate(key, key) for key in grid.keys),
    ]


def _block(grid: Grid) -> tuple[str, str]:
    return grid.panel.attack, threat_words(grid.panel)


def _fine_tune(summary: StudySummary, method: str) -> str:
    rank = _setting(summary, _RANK)
    return f"LoRA (r = {rank})" if method == "lora" and rank != NONE else method_words(method)


def _setting(summary: StudySummary, names: Sequence[str]) -> str:
    plain = {
        name.split(".")[-1].strip().lower().replace(" ", "_").replace("-", "_"): value
        for name, value in summary.settings.items()
    }
    return next((plain[name] for name in names if name in plain), NONE)


def _parameters(trainable: int, total: int) -> str:
    millions = trainable / 1e6
    # Two decimals as in the paper, and three significant digits where that would lose them.
    digits = 2 if millions >= 1 or trainable == 0 else 2 - math.floor(math.log10(millions))
    share = f" ({100 * trainable / total:.2f} %)" if total else ""
    return f"{millions:.{digits}f}{share}"
