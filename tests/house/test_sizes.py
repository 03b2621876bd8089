"""Files and functions stay short enough to be read in one sitting."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import floors

LONGEST_FILE = 400
LONGEST_FUNCTION = 40
"""Lines of code in its body; docstring, comments and blank lines are not counted."""


def functions(path: Path) -> Iterator[tuple[str, int]]:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[ast.get_docstring(node) is not None :]
            first = body[0].lineno if body else node.end_lineno
            code = [line.strip() for line in lines[(first or 1) - 1 : node.end_lineno]]
            yield node.name, sum(bool(line) and not line.startswith("#") for line in code)


def test_no_file_is_too_long() -> None:
    long = {
        module: count
        for module, path in floors.modules().items()
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST_FILE
    }
    assert not long, f"over {LONGEST_FILE} lines: {long}"


def test_no_function_is_too_long() -> None:
    long = {
        f"{module}.{name}": count
        for module, path in floors.modules().items()
        for name, count in functions(path)
        if count > LONGEST_FUNCTION
    }
    assert not long, f"over {LONGEST_FUNCTION} lines of code: {long}"


def test_only_lines_of_code_in_the_body_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('def f():\n    """Say\n\n    much."""\n\n    # why\n    return 1\n')
    assert list(functions(path)) == [("f", 1)]
