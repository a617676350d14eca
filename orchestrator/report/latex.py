"""Tables as LaTeX for a paper: booktabs, every name escaped."""

import re
from collections.abc import Sequence

from orchestrator.report.tables import Table

_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "ε": r"$\varepsilon$", "ℓ∞": r"$\ell_\infty$", "ℓ1": r"$\ell_1$", "ℓ2": r"$\ell_2$",
    "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "–": "--", "⁶": "$^6$",
}  # fmt: skip
_MOST_COLUMNS = 5
_PATTERN = re.compile("|".join(re.escape(sign) for sign in sorted(_SPECIAL, key=len, reverse=True)))


def tables_tex(tables: Sequence[Table]) -> bytes:
    """Tables for a document that loads booktabs, one after the other."""
    head = "% Needs \\usepackage{booktabs}.\n"
    return (head + "\n".join(_table(table) for table in tables)).encode()


def _table(table: Table) -> str:
    columns = "l" * table.words + "r" * (len(table.header) - table.words)
    # A table of many columns goes across both columns of the paper.
    environment = "table*" if len(table.header) > _MOST_COLUMNS else "table"
    lines = [
        rf"\begin{{{environment}}}",
        r"\centering",
        # Tables are numbered by the document they are in.
        rf"\caption{{{escape(re.sub(r'^Table [IVX]+[.] ', '', table.title))}. {escape(table.note)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *_spans(table),
        _row(table.header),
        r"\midrule",
        *(_row(row) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\end{{{environment}}}",
    ]
    return "\n".join(lines) + "\n"


def _spans(table: Table) -> list[str]:
    """The line of group headings, and rules below those that have a name."""
    if not table.groups:
        return []
    cells, rules, place = [], [], 1
    for name, columns in table.groups:
        cells.append(rf"\multicolumn{{{columns}}}{{c}}{{{escape(name)}}}")
        if name:
            rules.append(rf"\cmidrule(lr){{{place}-{place + columns - 1}}}")
        place += columns
    return [" & ".join(cells) + r" \\", "".join(rules)]


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"


def escape(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return _PATTERN.sub(lambda found: _SPECIAL[found[0]], " ".join(text.split()))
