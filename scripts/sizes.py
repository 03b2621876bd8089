"""How large the house is: lines per folder, its longest files and functions, what stands twice.

`make docs` writes the tables into docs/architecture.md. tests/house/test_sizes.py holds the limits.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import floors

ENOUGH = 3
"""So many statements make a function that should not stand twice."""

SHOWN = 5

SLACK = 50
"""Lines by which a small number may differ."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Size:
    """Of some files.

    Attributes:
        lines: all of them.
        code: those that are no blank line, no comment and no docstring.
    """

    files: int = 0
    lines: int = 0
    code: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.files + other.files, self.lines + other.lines, self.code + other.code)


@dataclass(frozen=True, slots=True)
class Body:
    """Of a function.

    Attributes:
        code: lines that are no blank line, no comment and no docstring.
        shape: a hash of the kinds of its nodes; 0 where it is shorter than `ENOUGH`.
    """

    name: str
    line: int
    code: int
    shape: int


def size_of(paths: Iterable[Path]) -> Size:
    """The size of Python files together."""
    return sum((_read(path)[0] for path in paths), Size())


def functions(path: Path) -> Iterator[Body]:
    """The functions of a file."""
    return iter(_read(path)[1])


def twins(paths: Iterable[Path]) -> list[list[str]]:
    """Functions of `ENOUGH` statements that do the same, whatever they call what they have."""
    alike: dict[int, list[tuple[Path, Body]]] = defaultdict(list)
    for path in paths:
        for body in functions(path):
            if body.shape:
                alike[body.shape].append((path, body))
    found: dict[str, list[str]] = defaultdict(list)
    for path, body in (one for group in alike.values() if len(group) > 1 for one in group):
        found[_without_names(path, body)].append(f"{path.name}:{body.line} {body.name}")
    return [places for places in found.values() if len(places) > 1]


def table() -> str:
    """The sizes of the folders of the package, with those of their tests."""
    units: dict[str, list[Path]] = defaultdict(list)
    for module, path in floors.modules().items():
        units["" if path.parent.name == "cascade" else floors.unit_of(module)].append(path)
    tests: dict[str, int] = Counter()
    for path in (floors.ROOT / "tests").rglob("*.py"):
        tests[path.relative_to(floors.ROOT).parts[1]] += len(_lines(path))
    everything = sum(tests.values())
    rows = ["| folder | files | lines | of these code | tests |", "|---|---:|---:|---:|---:|"]
    sizes = {unit: size_of(paths) for unit, paths in units.items()}
    for unit, size in sorted(sizes.items(), key=lambda item: -item[1].lines):
        rows.append(_row(f"`{unit}`" if unit else "single modules", size, tests.pop(unit, 0)))
    rows.append(_row("tests of the whole", None, sum(tests.values())))
    rows.append(_row("**together**", sum(sizes.values(), Size()), everything))
    return "\n".join(rows)


def longest() -> str:
    """The longest files and functions, and what stands twice or in a circle."""
    paths = list(floors.modules().values())
    files = sorted(((size_of([path]).lines, path) for path in paths), reverse=True)[:SHOWN]
    bodies = sorted(
        ((body.code, body.name, path) for path in paths for body in functions(path)),
        key=lambda body: (-body[0], str(body[2])),
    )[:SHOWN]
    return "\n".join(
        [
            "| what | which |",
            "|---|---|",
            f"| longest files | {', '.join(f'{_link(path)} {lines}' for lines, path in files)} |",
            "| longest functions, lines of code in the body | "
            + ", ".join(f"`{name}` in {_link(path)} {lines}" for lines, name, path in bodies)
            + " |",
            f"| functions of {ENOUGH} statements or more that stand twice | {len(twins(paths))} |",
            f"| circles of imports | {len(floors.cycles(floors.imports()))} |",
        ]
    )


def near(left: str, right: str) -> bool:
    """Whether two versions of these tables have the same rows, and sizes a quarter apart at most.

    Every line that is written changes them, and no reader needs them to the line.
    """
    before, now = _rows(left), _rows(right)
    return before.keys() == now.keys() and all(
        abs(a - b) <= max(SLACK, b // 4)
        for name, sizes in now.items()
        for a, b in zip(before[name], sizes, strict=True)
    )


def _rows(tables: str) -> dict[str, list[int]]:
    """The sizes of each row, by its first cell; which files are the longest does not count."""
    rows = [line.strip("| ").split("|") for line in tables.splitlines() if line.startswith("|")]
    return {
        row[0].strip(): [int(cell.replace(",", "") or 0) for cell in map(str.strip, row[1:])]
        for row in rows
        if all(set(cell.strip()) <= set("0123456789,") for cell in row[1:])
    }


def _row(name: str, size: Size | None, tests: int) -> str:
    sizes = (0, 0, 0) if size is None else (size.files, size.lines, size.code)
    cells = [f"{n:,}" if n else "" for n in (*sizes, tests)]
    return f"| {name} | {' | '.join(cells)} |"


def _link(path: Path) -> str:
    place = path.relative_to(floors.ROOT).as_posix()
    return f"[{place.removeprefix('cascade/')}](../{place})"


@cache
def _read(path: Path) -> tuple[Size, tuple[Body, ...]]:
    lines = _lines(path)
    nodes = list(ast.walk(ast.parse("\n".join(lines))))
    strings = [  # docstrings, also those of attributes
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for node in nodes
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    documented = {number for each in strings for number in each}
    code = sum(_says(line) for n, line in enumerate(lines, 1) if n not in documented)
    bodies = tuple(_read_body(node, lines) for node in nodes if isinstance(node, Function))
    return Size(1, len(lines), code), bodies


def _read_body(node: Function, lines: list[str]) -> Body:
    body = _body(node)
    first = body[0].lineno if body else node.end_lineno
    code = sum(map(_says, lines[(first or 1) - 1 : node.end_lineno]))
    kinds = [type(each) for part in body for each in ast.walk(part)]
    enough = sum(issubclass(kind, ast.stmt) for kind in kinds) >= ENOUGH
    return Body(node.name, node.lineno, code, hash(tuple(kinds)) if enough else 0)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _says(line: str) -> bool:
    """Whether it is neither blank nor a comment."""
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _body(node: Function) -> list[ast.stmt]:
    return node.body[ast.get_docstring(node) is not None :]


def _without_names(path: Path, body: Body) -> str:
    """The body with its arguments and variables numbered in the order in which they come."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (node,) = (
        each
        for each in ast.walk(tree)
        if isinstance(each, Function) and (each.lineno, each.name) == (body.line, body.name)
    )
    held = [argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)]
    numbers = {name: f"_{n}" for n, name in enumerate(held)}
    parts = _body(node)
    for part in parts:
        for each in ast.walk(part):
            if isinstance(each, ast.Name) and (
                isinstance(each.ctx, ast.Store) or each.id in numbers
            ):
                each.id = numbers.setdefault(each.id, f"_{len(numbers)}")
    for part in parts:
        for each in ast.walk(part):
            if isinstance(each, ast.Name):
                each.id = numbers.get(each.id, each.id)
    return "\n".join(ast.dump(part) for part in parts)


if __name__ == "__main__":
    print(table(), longest(), *twins(floors.modules().values()), sep="\n")
