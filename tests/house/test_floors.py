"""Imports run downwards only."""

from __future__ import annotations

from pathlib import Path

import pytest

import floors


def test_imports_run_downwards_only() -> None:
    wrong = [f"{item} ({why})" for item in floors.imports() if (why := floors.forbidden(item))]
    assert not wrong, "\n".join(wrong)


def test_the_floors_in_the_architecture_page_are_those_of_the_code() -> None:
    page = (floors.ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert floors.drawing() in page, f"the floors are now\n{floors.drawing()}"


def test_no_modules_import_each_other_in_a_ring() -> None:
    rings = [" → ".join(ring) for ring in floors.cycles(floors.imports())]
    assert not rings, "\n".join(rings)


def test_every_module_has_a_floor() -> None:
    units = {floors.unit_of(module) for module in floors.modules()} - {""}
    assert {"agents", "models", "ledger", "confidence", "policies", "state"} <= units
    for unit in units:
        floors.floor_of(unit)


def house(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


WRONG = {
    "upwards": ("cascade/state.py", "from cascade.models import base"),
    "upwards in a function": ("cascade/errors.py", "def f():\n    import cascade.ledger.view"),
    "upwards for types": (
        "cascade/state.py",
        "if TYPE_CHECKING:\n    from cascade.ledger import x",
    ),
    "sideways": ("cascade/models/base.py", "from cascade.ledger import view"),
    "sideways, relative": ("cascade/models/base.py", "from ..ledger import view"),
    "an agent upwards": ("agents/router.py", "from cascade.api import Cascade"),
    "the face": ("cascade/state.py", "from cascade import Cascade"),
}

RIGHT = {
    "downwards": ("agents/router.py", "from cascade.models import base"),
    "the face from above": ("cascade/cli.py", "from cascade import Cascade"),
    "over several floors": ("cascade/cli.py", "from cascade.state import Usage"),
    "within a package": ("cascade/models/base.py", "from . import openai"),
}

SKELETON = dict.fromkeys(
    [
        "cascade/__init__.py",
        "cascade/api.py",
        "cascade/cli.py",
        "cascade/errors.py",
        "cascade/state.py",
        "cascade/models/__init__.py",
        "cascade/models/base.py",
        "cascade/models/openai.py",
        "cascade/ledger/__init__.py",
        "cascade/ledger/view.py",
        "agents/__init__.py",
        "agents/router.py",
    ],
    "",
)


@pytest.mark.parametrize(("path", "text"), WRONG.values(), ids=WRONG)
def test_a_wrong_import_is_found(tmp_path: Path, path: str, text: str) -> None:
    found = floors.imports(house(tmp_path, {**SKELETON, path: text}))
    assert [floors.forbidden(item) is not None for item in found] == [True]


@pytest.mark.parametrize(("path", "text"), RIGHT.values(), ids=RIGHT)
def test_a_right_import_is_let_through(tmp_path: Path, path: str, text: str) -> None:
    found = floors.imports(house(tmp_path, {**SKELETON, path: text}))
    assert [floors.forbidden(item) for item in found] == [None]


def test_a_ring_is_found(tmp_path: Path) -> None:
    ring = {
        "cascade/models/base.py": "from cascade.models import openai",
        "cascade/models/openai.py": "from cascade.models.base import Model",
    }
    found = floors.imports(house(tmp_path, {**SKELETON, **ring}))
    assert floors.cycles(found) == [
        ["cascade.models.base", "cascade.models.openai", "cascade.models.base"]
    ]
