"""Files beside the page: every cell as CSV and parquet, figures and tables fit for a paper."""

import csv
import math
from collections.abc import Sequence
from io import BytesIO, StringIO

import pyarrow.parquet as pq

from orchestrator.detection.guard.matrix import GuardMatrix
from orchestrator.report.figures.heatmap import draw_heatmap, is_drawn
from orchestrator.report.figures.sheet import COLUMN, paper_files
from orchestrator.report.grid import Grid
from orchestrator.report.wording import picture_stem
from orchestrator.statistics.proportion import wilson
from orchestrator.transfer.matrix import CELL, COUNTS, TransferMatrix


def matrix_csv(matrix: TransferMatrix) -> bytes:
    """Every cell of every panel: its counts, and the rates they give in [0, 1]; blank for nan."""
    text = StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([*CELL, *COUNTS, "fooling_rate", "fooling_low", "fooling_high", "robust_accuracy"])
    for row in matrix.table.to_pylist():
        rates = [*wilson(row["fooled"], row["eligible"]), wilson(row["adv_correct"], row["n"]).rate]
        lines.writerow([*(row[name] for name in CELL + COUNTS), *_written(rates)])
    return text.getvalue().encode()


def detection_csv(matrix: GuardMatrix) -> bytes:
    """Every cell of every panel: its counts, and at every rate what is stopped and safe; blank for nan."""
    table, text = matrix.table, StringIO()
    lines = csv.writer(text, lineterminator="\n")
    endings = [f"at_{rate:g}" for rate in matrix.guarded]
    added = ("stopped_rate", "stopped_low", "stopped_high", "safe_rate")
    lines.writerow([*table.column_names, *(f"{name}_{end}" for end in endings for name in added)])
    for row in table.to_pylist():
        rates: list[float] = []
        for end in endings:
            rates += wilson(row[f"stopped_{end}"], row["fooled"])
            rates.append(wilson(row[f"safe_{end}"], row["n"]).rate)
        lines.writerow([*row.values(), *_written(rates)])
    return text.getvalue().encode()


def matrix_parquet(matrix: TransferMatrix) -> bytes:
    """The counts of every cell of every panel."""
    sink = BytesIO()
    pq.write_table(matrix.table, sink, compression="zstd")
    return sink.getvalue()


def paper_heatmaps(grids: Sequence[Grid]) -> dict[str, bytes]:
    """Every panel's heatmap as SVG, PNG and PDF, where it is not too large to be drawn."""
    files: dict[str, bytes] = {}
    for grid in filter(is_drawn, grids):
        files |= paper_files(draw_heatmap(grid, COLUMN).figure, picture_stem(grid.panel))
    return files


def _written(rates: Sequence[float]) -> list[str]:
    return ["" if math.isnan(rate) else f"{rate:.6f}" for rate in rates]
