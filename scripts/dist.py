"""Builds wheel and source distribution and tries the wheel on every Python there is: `make dist`.

    make dist                            base install, on each of 3.11 to 3.14 that is installed
    make dist ARGS="--extras"            the extras as well
    make dist ARGS="--python 3.12"       on one of them, or with its path

A Python that is missing is named and is no failure; that none was found is one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import floors

ROOT = floors.ROOT
DIST = ROOT / "dist"
UV = str(ROOT / "scripts" / "uv.sh")
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
TOO_HEAVY = ("ray",)
"""Extras that are hundreds of megabytes."""
EXTRAS = "aiohttp,calibrate,langchain,llamacpp,otel,parquet,postgres,prometheus,service,store"

BASE = """
import importlib.metadata, sys, cascade, cascade.agents
from cascade import Cascade
from cascade.testing import ScriptedModel, reply

assert importlib.metadata.version("agent-cascade") == cascade.__version__
drafts = ScriptedModel({"a": reply("A", probability=0.95), "b": reply("?", probability=0.3)})
results = Cascade(drafts, ScriptedModel("B")).batch(["a", "b"])
assert [result.answer for result in results] == ["A", "B"], results
loaded = {"torch", "numpy", "sqlalchemy", "fastapi", "langchain"} & sys.modules.keys()
assert not loaded, f"loaded without need: {loaded}"
"""
WITH_EXTRAS = """
import xllamacpp
from cascade.integrations.middleware import CascadeMiddleware
from cascade.integrations.opentelemetry import Telemetry
from cascade.integrations.prometheus import PrometheusMetrics
from cascade.ledger.store import open_store
from cascade.policies import certify
from cascade.service import ServiceConfig, create_app
open_store("sqlite:///ledger.db").close()
"""
EXAMPLES = ("quickstart", "own_model", "langgraph_app", "classify_csv")
EXAMPLES_WITH_EXTRAS = ("sql_agent", "coding_agent", "team_of_cascades", "fastapi_app")


def main(words: Sequence[str] | None = None) -> int:
    """Build, then try; prints a line for each Python."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", action="append", help="a version or a path; may be repeated")
    parser.add_argument("--extras", action="store_true", help="try the extras as well")
    said = parser.parse_args(words)
    wheel = build(DIST)
    print(f"{wheel.name}, {wheel.stat().st_size / 1e6:.2f} MB")
    wanted = said.python or VERSIONS
    found = {version: find_python(version) for version in wanted}
    failed = 0
    for version, python in found.items():
        if python is None:
            print(f"Python {version}: not installed here")
            continue
        began = time.monotonic()
        problem = attempt(wheel, python, extras=said.extras)
        failed += problem is not None
        print(f"Python {version}: {problem or 'works'}, {time.monotonic() - began:.0f} s")
    return 1 if failed or not any(found.values()) else 0


def build(folder: Path) -> Path:
    """Source distribution, and the wheel that is built from it, as an index's users get them.

    Raises:
        CalledProcessError: one of them cannot be built.
    """
    build_one = [sys.executable, "-m", "hatchling", "build", "-d", str(folder), "-t"]
    _run([*build_one, "sdist"], ROOT)
    version = _run([sys.executable, "-m", "hatchling", "version"], ROOT).strip()
    with TemporaryDirectory() as place:
        with tarfile.open(folder / f"agent_cascade-{version}.tar.gz") as archive:
            archive.extractall(place, filter="data")
        _run([*build_one, "wheel"], Path(place) / f"agent_cascade-{version}")
    return folder / f"agent_cascade-{version}-py3-none-any.whl"


def find_python(version: str) -> str | None:
    """A Python of this version that runs: on PATH, of pyenv, or of uv."""
    if "/" in version:
        return version if Path(version).exists() else None
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    managed = Path("~/.local/share/uv/python").expanduser()
    candidates = [
        shutil.which(f"python{version}"),
        *sorted(map(str, pyenv.glob(f"{version}.*/bin/python"))),
        *sorted(map(str, managed.glob(f"cpython-{version}.*/bin/python{version}"))),
    ]
    tell = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):
        said = subprocess.run([candidate, "-c", tell], check=False, capture_output=True, text=True)
        if said.stdout.strip() == version:
            return candidate
    return None


def attempt(wheel: Path, python: str, *, extras: bool) -> str | None:
    """Install the wheel into a fresh environment and use it; what went wrong, or None."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        inside = folder / "venv" / "bin"
        install = [UV, "pip", "install", "--quiet", "--python", str(inside / "python")]
        try:
            _run([UV, "venv", "--quiet", "--python", python, str(folder / "venv")], folder)
            _run([*install, str(wheel)], folder)
            _use(inside, folder, BASE, EXAMPLES)
            if extras:
                _run([*install, f"agent-cascade[{EXTRAS}] @ file://{wheel}"], folder)
                _use(inside, folder, WITH_EXTRAS, EXAMPLES_WITH_EXTRAS)
        except subprocess.CalledProcessError as error:
            command = " ".join(map(str, error.cmd))
            return f"FAILED: {command}\n{error.stdout}{error.stderr}"
    return None


def _use(inside: Path, folder: Path, script: str, examples: Sequence[str]) -> None:
    _run([str(inside / "cascade"), "--version"], folder)
    _run([str(inside / "python"), "-I", "-W", "error", "-c", script], folder)
    for example in examples:
        _run([str(inside / "python"), str(ROOT / "examples" / f"{example}.py")], folder)


def _run(command: list[str], cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
