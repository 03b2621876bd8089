"""What a package exports is written down, sorted, and nothing else."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import floors

MODULES = floors.modules()
PACKAGES = {module: path for module, path in MODULES.items() if path.name == "__init__.py"}
BELOW = sorted(set(PACKAGES) - {"cascade"})


def isort_key(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest: the order that ruff's RUF022 asks for."""
    bare = name.strip("_")
    return (0 if bare.isupper() and len(bare) > 1 else 1 if bare[:1].isupper() else 2), name


def bound(tree: ast.Module, package: str) -> set[str]:
    """Public names of a package: what it defines, and what it takes from its own modules.

    Its submodules are reached by their own names, and what it imports from elsewhere it uses.
    """
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{package}."):
            taken = {alias.name: alias.asname or alias.name for alias in node.names}
            names |= {
                name
                for original, name in taken.items()
                if f"{node.module}.{original}" not in MODULES
            }
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


def exported(tree: ast.Module) -> list[str] | None:
    """The literal `__all__`, or None where there is none."""
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                return list(ast.literal_eval(value))
            case ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value):
                return list(ast.literal_eval(value))
    return None


@pytest.mark.parametrize("package", BELOW)
def test_all_of_a_package_is_what_it_binds(package: str) -> None:
    tree = ast.parse(PACKAGES[package].read_text(encoding="utf-8"))
    names = bound(tree, package)
    if not names:
        assert exported(tree) in (None, []), f"{package} exports what it does not bind"
        return
    listed = exported(tree)
    assert listed is not None, f"{package} binds {sorted(names)} and has no literal __all__"
    assert sorted(listed) == sorted(names)
    assert listed == sorted(listed, key=isort_key)


def test_all_of_cascade_is_literal_sorted_and_without_doubles() -> None:
    listed = exported(ast.parse(PACKAGES["cascade"].read_text(encoding="utf-8")))
    assert listed, "cascade/__init__.py has no literal __all__"
    assert listed == sorted(set(listed), key=isort_key)


def test_every_public_name_of_cascade_resolves_and_is_shown() -> None:
    cascade = importlib.import_module("cascade")
    for name in cascade.__all__:
        assert getattr(cascade, name) is not None, name
    assert set(cascade.__all__) <= set(dir(cascade))


def test_cascade_shows_nothing_public_that_it_does_not_list() -> None:
    # In a fresh process: submodules that other tests have imported are attributes as well.
    script = (
        "import cascade; "
        "print(*[n for n in dir(cascade) if not n.startswith('_') and n not in cascade.__all__])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()
    submodules = {floors.unit_of(module) for module in MODULES}
    assert set(shown) - submodules - {"annotations"} == set()


def test_the_contract_of_the_readme_is_exported() -> None:
    cascade = importlib.import_module("cascade")
    assert {"Cascade", "CascadeResult", "Price", "Tier", "build_graph"} <= set(cascade.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    cascade = importlib.import_module("cascade")
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = cascade.no_such_name


def test_the_type_checkers_see_a_typed_package() -> None:
    assert (Path(floors.ROOT) / "cascade" / "py.typed").exists()
