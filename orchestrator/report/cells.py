"""The counts behind the page's heatmaps, as compact JSON; the page's script derives the rates from them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from orchestrator.report.grid import Grid
from orchestrator.transfer.matrix import COUNTS


def panel_cells(grid: Grid, orders: Sequence[Grid]) -> dict[str, Any]:
    """One panel: counts by source and target, row after row, and the orders it is shown in.

    A count that is the same in every row is written once for each target: ``n`` and ``clean_correct``
    hardly ever differ.
    """
    names = {name: place for place, name in enumerate(grid.rows)}
    return {
        "rows": grid.rows,
        "columns": len(grid.names),
        "orders": [[names[name] for name in order.rows] for order in orders],
        "counts": [_folded(grid, count) for count in COUNTS],
    }


def _folded(grid: Grid, count: str) -> list[int]:
    rows = [[getattr(grid.cell(s, t), count) for t in grid.names] for s in grid.rows]
    return rows[0] if all(row == rows[0] for row in rows) else [number for row in rows for number in row]


def page_data(panels: Mapping[str, dict[str, Any]], **more: Any) -> Markup:
    """What the page's script is given, safe inside a ``<script>`` element; panels by their files' stem."""
    given = {"panels": panels, **more}
    text = json.dumps(given, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - no tag can begin in it
