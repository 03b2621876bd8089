"""Every example runs as it is, offline, in an empty folder."""

import ast
import runpy
from pathlib import Path

import pytest

import floors

FOLDER = floors.ROOT / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
MIDDLEWARE = ("mask_personal_data", "budget_per_user", "log_decisions")
SHORTER_THAN = 30


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("CASCADE_SMALL", "CASCADE_LARGE"):
        monkeypatch.delenv(name, raising=False)
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("name", MIDDLEWARE)
def test_a_middleware_of_your_own_is_short(name: str) -> None:
    tree = floors.tree(FOLDER / f"{name}.py")
    (made,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert made.end_lineno is not None
    assert made.end_lineno - made.lineno < SHORTER_THAN


def test_the_list_of_examples_names_each() -> None:
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in EXAMPLES if path.name not in listed] == []
