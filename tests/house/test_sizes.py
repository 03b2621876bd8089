"""Files and functions stay short enough to be read in one sitting."""

from __future__ import annotations

from pathlib import Path

import floors
import sizes

LONGEST_FILE = 400
LONGEST_FUNCTION = 40
"""Lines of code in its body; docstring, comments and blank lines are not counted."""


def test_no_file_is_too_long() -> None:
    long = {
        module: count
        for module, path in floors.modules().items()
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST_FILE
    }
    assert not long, f"over {LONGEST_FILE} lines: {long}"


def test_no_function_is_too_long() -> None:
    long = {
        f"{module}.{body.name}": body.code
        for module, path in floors.modules().items()
        for body in sizes.functions(path)
        if body.code > LONGEST_FUNCTION
    }
    assert not long, f"over {LONGEST_FUNCTION} lines of code: {long}"


def test_only_lines_of_code_in_the_body_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('def f():\n    """Say\n\n    much."""\n\n    # why\n    return 1\n')
    assert [(body.name, body.code) for body in sizes.functions(path)] == [("f", 1)]


def test_no_function_stands_twice() -> None:
    twice = [" ~ ".join(places) for places in sizes.twins(floors.modules().values())]
    assert not twice, f"one of them serves both: {twice}"


def test_a_function_stands_twice_also_under_other_names(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    one = "def f(a):\n    b = a + 1\n    print(b)\n    return b\n"
    path.write_text(
        one
        + one.replace("b", "c").replace("f(a", "g(x").replace("a +", "x +")
        + one.replace("a + 1", "a + 2").replace("f(", "h(")
        + "def other(b):\n    print(b)\n    return b\n" * 2  # short
    )
    assert sizes.twins([path]) == [["module.py:1 f", "module.py:5 g"]]


def test_the_lines_of_a_folder_may_move_a_little_but_not_go() -> None:
    table = "| `models` | 27 | 4,246 | | 10 |\n| longest | [a](a.py) 400 |\n"
    assert sizes.near(table, table.replace("4,246", "4,400").replace("a.py", "b.py"))
    assert not sizes.near(table, table.replace("4,246", "6,246"))
    assert not sizes.near(table, table.replace("models", "tiers"))


def test_a_docstring_is_a_line_and_no_code(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('"""What\n\nit is."""\n\n# why\nX = 1\n"""Of X."""\n')
    assert sizes.size_of([path]) == sizes.Size(files=1, lines=7, code=1)
