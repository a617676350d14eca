"""The house: README's map is the tree, rooms keep to their floors, files and functions stay small."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path
    for folder in ("orchestrator", "jobs")
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "__init__.py" or path.read_text().strip()
)
FLOW = [
    "jobs",
    "orchestrator",
    *(
        f"orchestrator/{room}"
        for room in (
            *("keys", "store", "statistics", "shards", "models", "training"),
            *("attacks", "attacks/gradient", "attacks/query", "attacks/transfer", "attacks/adaptive"),
            *("attacks/unrestricted", "attacks/oracle"),
            *("transfer", "transfer/committee", "transfer/alignment"),
            *("detection", "detection/guard", "detection/rivals", "report", "report/figures"),
            *("report/alignment", "report/committee", "report/detection", "report/reproduction"),
            *("cluster", "pipeline", "checkup", "status"),
        )
    ),
]
FILE_LINES, FUNCTION_LINES, JOB_LINES = 250, 45, 60
NEVER_A_NAME = {"utils", "util", "helpers", "common", "misc", "base", "manager", "handler", "core"}


def first_line(path: Path) -> str:
    """A module's first docstring line, as the map shows it."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.splitlines()[0].rstrip(".") if docstring else ""


def drawn_map() -> str:
    """The map of the tree in the order data flows: every module with its docstring's first line."""
    lines: list[str] = []
    for folder in FLOW:
        lines.append(f"{folder}/")
        found = [path for path in SOURCES if path.parent == ROOT / folder]
        lines += [f"  {path.name:<17} {first_line(path)}" for path in found]
    return "\n".join(lines)


def test_readme_map_is_the_tree() -> None:
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- map -->\n```\n(.*?)\n```\n<!-- /map -->", readme, re.DOTALL)
    assert block is not None, "README.md has no map between its markers"
    assert block[1] == drawn_map(), f"README's map has drifted; it should be:\n{drawn_map()}"
    assert {path.parent for path in SOURCES} == {ROOT / folder for folder in FLOW}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    most = JOB_LINES if path.parent.name == "jobs" else FILE_LINES
    assert len(text.splitlines()) <= most
    assert first_line(path), "a module says in one line what it is"
    assert path.stem not in NEVER_A_NAME
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < FUNCTION_LINES, node.name


def test_every_room_keeps_to_its_floor() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_nothing_is_unpickled_and_no_address_of_a_download_is_pinned() -> None:
    unpickles = r"pickle\.load|(?<!safetensors\.)torch\.load\(|allow_pickle\s*=\s*True"
    downloads = r"https?://\S+\.(whl|tar\.gz)|index.url"
    for path in [*SOURCES, ROOT / "pyproject.toml"]:
        text = path.read_text()
        assert not re.search(unpickles, text), path
        assert not re.search(downloads, text), path
