"""What users see of the package is listed and typed; ruff sees that it is sorted and explained."""

import ast
import importlib
from pathlib import Path

import pytest

import floors

MODULES = floors.modules()
PACKAGES = sorted(name for name, path in MODULES.items() if path.name == "__init__.py")


def listed(package: str) -> list[str]:
    """The names that it exports; empty where it exports nothing."""
    return list(getattr(importlib.import_module(package), "__all__", []))


EXPORTING = [package for package in PACKAGES if listed(package)]


@pytest.mark.parametrize("package", EXPORTING)
def test_the_names_of_a_package_resolve(package: str) -> None:
    names = listed(package)
    assert len(names) == len(set(names))
    module = importlib.import_module(package)
    assert [name for name in names if not hasattr(module, name)] == []


def test_every_module_begins_with_a_docstring() -> None:
    trees = {name: floors.tree(path) for name, path in MODULES.items()}
    silent = [name for name, tree in trees.items() if ast.get_docstring(tree) is None]
    assert silent == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = importlib.import_module("cascade").no_such_name


def test_the_type_checkers_see_a_typed_package() -> None:
    assert (Path(floors.ROOT) / "cascade" / "py.typed").exists()
