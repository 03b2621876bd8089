"""Files and functions stay short enough to be read in one sitting."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import floors

LONGEST_FILE = 400
LONGEST_FUNCTION = 40
"""Lines of code: docstring, comments and blank lines are not counted."""


def functions(path: Path) -> Iterator[tuple[str, int]]:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            counted = set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                counted -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
            code = [lines[number - 1].strip() for number in counted]
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


def test_docstring_comments_and_blank_lines_are_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('def f():\n    """Say\n\n    much."""\n\n    # why\n    return 1\n')
    assert list(functions(path)) == [("f", 2)]
