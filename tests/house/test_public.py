"""What users see of the package is listed, sorted, typed and explained."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

import floors

MODULES = floors.modules()
PACKAGES = sorted(name for name, path in MODULES.items() if path.name == "__init__.py")


def listed(package: str) -> list[str]:
    """Its literal `__all__`; empty where it exports nothing."""
    for node in floors.tree(MODULES[package]).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


EXPORTING = [package for package in PACKAGES if listed(package)]


def sort_key(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest, as ruff's RUF022 asks for."""
    bare = name.strip("_")
    return (0 if bare.isupper() and len(bare) > 1 else 1 if bare[:1].isupper() else 2), name


@pytest.mark.parametrize("package", EXPORTING)
def test_the_names_of_a_package_are_sorted_and_resolve(package: str) -> None:
    names = listed(package)
    assert names == sorted(set(names), key=sort_key)
    module = importlib.import_module(package)
    assert [name for name in names if not hasattr(module, name)] == []


def undocumented(thing: Any, name: str) -> list[str]:
    """Names without a docstring: the thing's own, and those of its public methods."""
    if inspect.isfunction(thing):
        return [] if thing.__doc__ else [name]
    if not inspect.isclass(thing):
        return []
    missing = [] if inspect.getdoc(thing) else [name]
    for method, value in vars(thing).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if not method.startswith("_") and inspect.isfunction(function):
            inherited = any(hasattr(base, method) for base in thing.__mro__[1:])
            missing += [] if function.__doc__ or inherited else [f"{name}.{method}"]
    return missing


@pytest.mark.parametrize("package", EXPORTING)
def test_every_public_name_has_a_docstring(package: str) -> None:
    module = importlib.import_module(package)
    missing = [gap for name in listed(package) for gap in undocumented(getattr(module, name), name)]
    assert missing == []


def test_every_module_begins_with_a_docstring() -> None:
    trees = {name: floors.tree(path) for name, path in MODULES.items()}
    silent = [name for name, tree in trees.items() if ast.get_docstring(tree) is None]
    assert silent == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = importlib.import_module("cascade").no_such_name


def test_the_type_checkers_see_a_typed_package() -> None:
    assert (Path(floors.ROOT) / "cascade" / "py.typed").exists()
