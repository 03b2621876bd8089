"""What is built: the wheel, which holds the package once, imports and answers; the reference."""

import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import cascade
import floors

pytestmark = pytest.mark.heavy

ROOT = floors.ROOT

TINY = """
import sys
sys.path.insert(0, sys.argv[1])
import cascade, cascade.agents
from cascade import Cascade
from cascade.testing import ScriptedModel

assert cascade.__file__.startswith(sys.argv[1]), cascade.__file__
made = Cascade(ScriptedModel("Sydney", logprobs=0.3), ScriptedModel("Canberra"))
result = made.invoke("What is the capital of Australia?")
assert (result.answer, result.escalated) == ("Canberra", True), result
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)])
    (built,) = folder.glob("*.whl")
    return built


def run(command: list[str], cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def package_files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_every_file_of_the_package_once_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = Counter(archive.namelist())
    own = {f"cascade/{n}" for n in package_files(ROOT / "cascade") if not n.startswith("agents/")}
    own |= {f"cascade/agents/{name}" for name in package_files(ROOT / "agents")}
    assert {name for name in names if ".dist-info/" not in name} == own
    assert [name for name, count in names.items() if count > 1] == []


def test_the_wheel_imports_and_answers(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    run([sys.executable, "-c", TINY, str(tmp_path / "site")], cwd=tmp_path)


def test_the_reference_of_the_python_interface_holds_every_public_name(tmp_path: Path) -> None:
    run(["make", "api", f"ARGS={tmp_path}"])
    page = (tmp_path / "cascade.html").read_text(encoding="utf-8")
    names: Any = cascade.__all__
    assert [name for name in names if f'id="{name}"' not in page] == []
    assert (tmp_path / "cascade" / "middleware.html").exists()
