"""Names of a package that load on first use: importing it stays fast."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of a package, which lists its names as well (`dir`, `import *`): by module
    of the package, those that come from there, parted by spaces."""
    home_of = {name: home for home, names in homes.items() for name in names.split()}
    namespace = vars(sys.modules[package])
    namespace["__all__"] = sorted(home_of)
    namespace["__dir__"] = lambda: sorted({*namespace, *home_of})

    def load(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        namespace[name] = getattr(import_module(f"{package}.{home_of[name]}"), name)
        return namespace[name]

    return load
