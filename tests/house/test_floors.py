"""Imports run downwards only."""

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
    assert floors.ring(floors.imports()) == []


def test_every_module_has_a_floor() -> None:
    units = {floors.unit_of(module) for module in floors.modules()} - {""}
    assert {"agents", "models", "ledger", "confidence", "policies", "records"} <= units
    for unit in units:
        floors.floor_of(unit)


def house(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


STATE, BASE, ROUTER = "cascade/state.py", "cascade/models/base.py", "agents/router.py"
HIDDEN = "def f():\n    import cascade.ledger.entries"
FOR_TYPES = "if TYPE_CHECKING:\n    from cascade.ledger import x"
IMPORTS: dict[str, tuple[str, str, bool]] = {
    "upwards": (STATE, "from cascade.models import base", False),
    "upwards in a function": ("cascade/errors.py", HIDDEN, False),
    "upwards for types": (STATE, FOR_TYPES, False),
    "sideways": (BASE, "from cascade.ledger import entries", False),
    "sideways, relative": (BASE, "from ..ledger import entries", False),
    "an agent upwards": (ROUTER, "from cascade.api import Cascade", False),
    "the face": (STATE, "from cascade import Cascade", False),
    "downwards": (ROUTER, "from cascade.models import base", True),
    "the face from above": ("cascade/cli.py", "from cascade import Cascade", True),
    "over several floors": ("cascade/cli.py", "from cascade.state import Usage", True),
    "within a package": (BASE, "from . import openai", True),
}
MODULES = ["__init__", "api", "cli", "errors", "state", "models/__init__", "models/base"]
MODULES += ["models/openai", "ledger/__init__", "ledger/entries"]
SKELETON = {
    **{f"cascade/{name}.py": "" for name in MODULES},
    **{f"agents/{name}.py": "" for name in ("__init__", "router")},
}


@pytest.mark.parametrize(("path", "text", "allowed"), IMPORTS.values(), ids=IMPORTS)
def test_a_wrong_import_is_found_and_a_right_one_let_through(
    tmp_path: Path, path: str, text: str, allowed: bool
) -> None:
    found = floors.imports(house(tmp_path, {**SKELETON, path: text}))
    assert [floors.forbidden(item) is None for item in found] == [allowed]


def test_a_ring_is_found(tmp_path: Path) -> None:
    ring = {
        "cascade/models/base.py": "from cascade.models import openai",
        "cascade/models/openai.py": "from cascade.models.base import Model",
    }
    found = floors.ring(floors.imports(house(tmp_path, {**SKELETON, **ring})))
    assert set(found) == {"cascade.models.base", "cascade.models.openai"}
