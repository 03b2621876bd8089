"""The wheel holds the package once, and lives beside `openai-agents`, which owns `agents`."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

import floors

ROOT = floors.ROOT

BOTH = """
import agents, cascade, cascade.agents
from pathlib import Path

theirs, ours = Path(agents.__file__).parent, Path(cascade.agents.__file__).parent
assert hasattr(agents, "Runner"), theirs
assert ours == Path(cascade.__file__).parent / "agents" and not ours.is_symlink(), ours
assert theirs != ours
"""

TINY = """
from cascade import Cascade, Tier
from cascade.testing import ScriptedModel

cascade = Cascade(
    tiers=[
        Tier(ScriptedModel("Sydney", logprobs=0.3), name="small"),
        Tier(ScriptedModel("Canberra"), name="large"),
    ]
)
result = cascade.invoke("What is the capital of Australia?")
assert (result.answer, result.escalated) == ("Canberra", True), result
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)])
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> Counter[str]:
    with zipfile.ZipFile(wheel) as archive:
        return Counter(archive.namelist())


def run(command: list[str], cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def package_files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }


def test_the_wheel_holds_every_file_of_the_package_exactly_once(names: Counter[str]) -> None:
    own = {f"cascade/{name}" for name in package_files(ROOT / "cascade")}
    own = {name for name in own if not name.startswith("cascade/agents/")}
    own |= {f"cascade/agents/{name}" for name in package_files(ROOT / "agents")}
    inside = {name for name in names if name.startswith("cascade/") and not name.endswith("/")}
    assert inside == own
    assert "cascade/py.typed" in inside
    assert not [name for name, count in names.items() if count > 1]


def test_a_wheel_built_from_the_source_distribution_is_the_same(
    names: Counter[str], tmp_path: Path
) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path), "-t"]
    run([*build, "sdist"])
    (sdist,) = tmp_path.glob("*.tar.gz")
    run(["tar", "-xzf", str(sdist), "-C", str(tmp_path)])
    run([*build, "wheel"], cwd=tmp_path / sdist.name.removesuffix(".tar.gz"))
    (rebuilt,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(rebuilt) as archive:
        assert Counter(archive.namelist()) == names


def test_the_wheel_holds_nothing_else(names: Counter[str]) -> None:
    assert {name.partition("/")[0] for name in names} - {"cascade"} == {
        name.partition("/")[0] for name in names if ".dist-info/" in name
    }


def test_the_demo_data_are_in_the_wheel(names: Counter[str]) -> None:
    data = {name for name in names if name.startswith("cascade/demo/")} - {
        name for name in names if name.endswith(".py")
    }
    assert data, "cascade/demo has no data files"


def test_the_wheel_lives_beside_the_agents_sdk(wheel: Path, tmp_path: Path) -> None:
    uv = str(ROOT / "scripts" / "uv.sh")
    environment = tmp_path / "venv"
    python = str(environment / "bin" / "python")
    run([uv, "venv", "--quiet", "--python", sys.executable, str(environment)])
    run([uv, "pip", "install", "--quiet", "--python", python, str(wheel), "openai-agents"])
    run([python, "-I", "-c", BOTH], cwd=tmp_path)
    run([python, "-I", "-c", TINY], cwd=tmp_path)
    assert "0.1.0" in run([str(environment / "bin" / "cascade"), "--version"], cwd=tmp_path)
