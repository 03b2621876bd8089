"""Clients of other people against the gateway, each in its own environment; the table of
docs/service.md is what came of it."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.setups import ROOT
from tests.acceptance.test_22_gateway import Served, serving
from tests.acceptance.upstream import Answer, Seen
from tests.clients.python_clients import FEATURES, PACKAGES

pytestmark = pytest.mark.heavy

HERE = Path(__file__).parent
PAGE = ROOT / "docs" / "service.md"
BEGIN, END = "<!-- clients -->\n", "<!-- /clients -->\n"


def answers(seen: Seen) -> Answer:
    """A model that calls the first tool, reads its result, and keeps to a schema."""
    messages, tools = seen.body["messages"], seen.body.get("tools")
    if any(message["role"] == "tool" for message in messages):
        return Answer("It is warm", tokens=(100, 10))
    if tools:
        call = (tools[0]["function"]["name"], {"city": "Canberra"})
        return Answer(calls=(call,), finish="tool_calls", tokens=(100, 10))
    wanted = seen.body.get("response_format") or {"type": "text"}
    text = "Canberra" if wanted["type"] == "text" else '{"city": "Canberra"}'
    return Answer(text, p=0.95, tokens=(100, 10))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    with serving(tmp_path_factory.mktemp("clients")) as served:
        for name in ("small", "large"):
            served.upstream.says(name, answers)
        yield served, served.key("clients")["secret"]


def table_of(command: list[str], folder: Path) -> dict[str, dict[str, str]]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    read: dict[str, dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return read


def of_python(url: str, key: str, folder: Path) -> dict[str, dict[str, str]]:
    uv, packages = str(ROOT / "scripts" / "uv.sh"), [f"--with={name}" for name in PACKAGES]
    run = [uv, "run", "--quiet", "--isolated", "--no-project", "--python", sys.executable]
    installed([*run, *packages, "python", "-c", ""], folder)
    return table_of([*run, *packages, "python", str(HERE / "python_clients.py"), url, key], folder)


def of_javascript(url: str, key: str, folder: Path) -> dict[str, dict[str, str]]:
    if shutil.which("npm") is None:
        pytest.skip("there is no npm")
    shutil.copytree(HERE / "javascript", folder, dirs_exist_ok=True)
    installed(["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"], folder)
    return table_of(["node", "clients.js", url, key], folder)


def installed(command: list[str], folder: Path) -> None:
    """Install clients, or skip where their index cannot be reached."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the clients cannot be installed: {done.stderr[-500:]}")


@pytest.mark.parametrize("clients", [of_python, of_javascript])
def test_clients_of_others_find_what_they_know(
    gateway: tuple[Served, str], clients: Any, tmp_path: Path
) -> None:
    served, key = gateway
    table = clients(served.url, key, tmp_path)
    wrong = {
        f"{name}, {feature}": row[feature]
        for name, row in table.items()
        for feature in FEATURES
        if row[feature] not in ("ok", "–")
    }
    assert wrong == {}
    page = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    shown = dict(re.findall(r"^\| (.+?) \| [\d.]+ \| (.+) \|$", page, flags=re.M))
    for name, row in table.items():
        assert shown[name] == " | ".join(row[feature] for feature in FEATURES), name
