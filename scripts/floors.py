"""The floors of the house: who stands where, and who imports whom.

`python scripts/floors.py` draws them from the imports as they are; tests/house/test_floors.py holds
the code to them, and the drawing in docs/architecture.md to the code.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FLOORS: tuple[tuple[str, ...], ...] = (
    ("cli",),
    ("service",),
    ("jobs", "teaching", "integrations"),
    ("api",),
    ("kernel", "evaluation"),
    ("agents", "middleware", "testing"),
    ("run",),
    ("models", "ledger", "confidence", "policies"),
    ("records",),
)
"""Rooms of the package from top to bottom; imports run downwards only, never sideways."""

ROOMS: dict[str, tuple[str, ...]] = {
    "api": ("api", "result", "calibrate", "questions"),
    "kernel": ("kernel", "graph", "calling"),
    "run": ("run", "tiers"),
    "records": ("errors", "state", "events", "_lazy", "_numbers", "_portal", "_version"),
}
"""Rooms of several modules; every folder is a room of its own. Within a room, modules may import
each other, without rings."""


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement: which module imports which, and where."""

    importer: str
    imported: str
    path: Path
    line: int
    for_types: bool

    @property
    def units(self) -> tuple[str, str]:
        """The two rooms that it joins."""
        return unit_of(self.importer), unit_of(self.imported)

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.importer} imports {self.imported}"


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the package with its file; `agents/` as `cascade.agents`."""
    found = {}
    for folder, package in ((root / "cascade", "cascade"), (root / "agents", "cascade.agents")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if package == "cascade" and parts[0] == "agents":
                continue  # the symlink
            name = ".".join((package, *parts))
            found[name.removesuffix(".__init__")] = path
    return found


def unit_of(module: str) -> str:
    """The room of a module: `models` of `cascade.models.base`, `records` of `cascade.state`; the
    empty string for the package itself."""
    name = module.split(".")[1] if "." in module else ""
    return next((room for room, members in ROOMS.items() if name in members), name)


def floor_of(unit: str) -> int:
    """Number of the floor, 0 at the top.

    Raises:
        LookupError: the room has no floor yet.
    """
    for number, units in enumerate(FLOORS):
        if unit in units:
            return number
    raise LookupError(f"cascade.{unit} has no room: give it one in scripts/floors.py")


def imports(root: Path = ROOT) -> list[Import]:
    """Every import of one module of the package by another, also those inside functions."""
    known = modules(root)
    return [
        found
        for module, path in known.items()
        for found in _imports_of(module, path, known, root)
        if found.imported != module
    ]


def forbidden(found: Import) -> str | None:
    """Why an import is against the rule, or None."""
    upper, lower = found.units
    if not upper or upper == lower:
        return None  # the package's own face may name anything; within a room all is free
    lower = lower or "api"  # the face shows what a user holds: it is for those above only
    if floor_of(upper) < floor_of(lower):
        return None
    side = "sideways" if floor_of(upper) == floor_of(lower) else "upwards"
    return (
        f"imports {side}: {upper} stands on floor {floor_of(upper)}, {lower} on {floor_of(lower)}"
    )


def ring(found: Iterable[Import]) -> list[str]:
    """Modules that import each other in a ring when they run, if there are any."""
    graph: dict[str, set[str]] = {}
    for item in found:
        if not item.for_types:
            graph.setdefault(item.importer, set()).add(item.imported)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))
    return []


def picture(root: Path = ROOT) -> str:
    """The house as text: floors from top to bottom, and beside each room what it imports."""
    known = {unit_of(module) for module in modules(root)} - {""}
    joins = {
        (upper, lower or "api")  # the package's face shows the API
        for upper, lower in (item.units for item in imports(root) if not item.for_types)
    }
    lines = []
    for units in FLOORS:
        here = [unit for unit in units if unit in known]
        lines += [_row(unit, {lower for upper, lower in joins if upper == unit}) for unit in here]
        if here:
            lines.append("─" * 72)
    return "\n".join(lines[:-1])


def drawing() -> str:
    """The floors alone, from top to bottom, for docs/architecture.md."""
    return "\n".join("  ".join(units) for units in FLOORS)


def _row(unit: str, imported: set[str]) -> str:
    shown = sorted(imported - {unit, ""})
    row = f"{unit:<14}" + ("→ " + ", ".join(shown) if shown else "")
    return textwrap.fill(row.rstrip(), 78, subsequent_indent=" " * 16)


@functools.cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports_of(module: str, path: Path, known: dict[str, Path], root: Path) -> Iterator[Import]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    place = path.relative_to(root)
    for node, for_types in statements(tree(path)):
        for name in targets(node, package):
            target = _nearest(name, known)
            if target is not None:
                yield Import(module, target, place, node.lineno, for_types)


def statements(tree: ast.AST, for_types: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Import statements, also those in functions, and whether each is under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, for_types
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from statements(ast.Module([child], []), True)
            for child in node.orelse:
                yield from statements(ast.Module([child], []), for_types)
        else:
            yield from statements(node, for_types)


def targets(node: ast.stmt, package: str) -> list[str]:
    """Dotted names that a statement imports, relative ones resolved."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert isinstance(node, ast.ImportFrom)
    base = node.module or ""
    if node.level:
        parts = package.split(".")
        base = ".".join(parts[: len(parts) - node.level + 1] + ([base] if base else []))
    return [f"{base}.{alias.name}" for alias in node.names]


def _nearest(name: str, known: dict[str, Path]) -> str | None:
    """The module that a dotted name stands in: `cascade.state` of `cascade.state.Usage`."""
    while name:
        if name in known:
            return name
        name = name.rpartition(".")[0]
    return None


if __name__ == "__main__":
    print(picture())
