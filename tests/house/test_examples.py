"""Every example runs as it is, and with `--live` asks the models that it is told to ask.

They run in this process, each in an empty folder, as `python examples/NAME.py` would run them; one
does so in a process of its own. What asks no real model runs where real requests are forbidden.
"""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import examples_table
import floors
from tests.servers.fake import FakeServer
from tests.servers.obliging import ObligingServer
from tests.servers.replies import Reply

FOLDER = floors.ROOT / "examples"
EXAMPLES = examples_table.scripts()
EMBEDDED = [path for path in EXAMPLES if "runs in this process" in path.read_text("utf-8")]
ALONE = [path for path in EXAMPLES if path not in EMBEDDED]
SERVED = FOLDER / "langgraph_server.py"
FLAGGED = [path for path in EXAMPLES if path != SERVED]
FEWER_LINES_THAN = 80
MODELS = (
    *("--small", "openai:small", "--small-price", "0.02,0.06"),
    *("--large", "openai:large", "--large-price", "1.25,10"),
)

Run = Callable[..., str]


class FinishingServer(ObligingServer):
    """Answers once a tool has been called, where it is only asked to call one."""

    def oblige(self, body: Mapping[str, Any]) -> Reply:
        names = [tool["function"]["name"] for tool in body.get("tools") or ()]
        if "Answer" in names and body["messages"][-1]["role"] == "tool":
            return self._use(body, "Answer", {"answer": "That is all."})
        return super().oblige(body)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs an example in an empty folder; gives what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FOLDER)
    for name in ("CASCADE_SMALL", "CASCADE_LARGE"):
        monkeypatch.delenv(name, raising=False)

    def run_it(example: Path, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [str(example), *words])
        runpy.run_path(str(example), run_name="__main__")
        return capsys.readouterr().out

    return run_it


def shows_savings(printed: str) -> bool:
    """Whether it has the table of a ledger, or says what was saved."""
    return bool(re.search(r"\bsaved\b|\bsaving\b", printed))


@pytest.mark.parametrize("example", ALONE, ids=lambda path: path.name)
def test_an_example_runs_without_any_model(run: Run, example: Path) -> None:
    assert shows_savings(run(example))


@pytest.mark.live
@pytest.mark.parametrize("example", EMBEDDED, ids=lambda path: path.name)
def test_an_example_runs_with_the_embedded_model(run: Run, example: Path) -> None:
    assert shows_savings(run(example))


def test_an_example_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / "support_triage.py"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert shows_savings(done.stdout)
    assert not done.stderr


@pytest.mark.live
@pytest.mark.parametrize("example", FLAGGED, ids=lambda path: path.name)
def test_a_live_example_asks_the_models_that_are_named(
    run: Run, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FinishingServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        printed = run(example, "--live", *MODELS)
        asked = {request.body["model"] for request in server.received}
    assert shows_savings(printed)
    assert "small" in asked
    assert asked <= {"small", "large"}


@pytest.mark.live
def test_live_without_names_asks_ollama_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        run(FOLDER / "support_triage.py", "--live")
        asked = [(r.path, r.body["model"]) for r in server.received if "messages" in r.body]
    assert asked[0] == ("/api/chat", "qwen2.5:3b")
    assert ("/v1/chat/completions", "gpt-5.1") in asked


@pytest.mark.live
@pytest.mark.parametrize("example", [SERVED, FOLDER / "fastapi_app.py"], ids=lambda p: p.name)
def test_what_a_server_runs_takes_its_models_from_the_environment(
    example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("CASCADE_SMALL", "openai:small")
    monkeypatch.setenv("CASCADE_LARGE", "openai:large")
    monkeypatch.setattr(sys, "argv", ["uvicorn", "--app-dir", "examples", "app:app"])
    cascade = runpy.run_path(str(example), run_name="served")["cascade"]
    assert [tier.model.name for tier in cascade.tiers] == ["openai:small", "openai:large"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_to_run_it_and_what_it_needs(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    assert text.count("\n") < FEWER_LINES_THAN
    head = examples_table.docstring(example)
    assert f"python examples/{example.name}" in head
    assert "--live" in head or example == SERVED
    assert "\nNeeds: pip install " in head
    assert re.match(r"[A-Z][^:]+: [a-z]", head), "what it is called: what it does"


def test_the_examples_do_what_their_names_promise(run: Run) -> None:
    triage = run(FOLDER / "support_triage.py")
    assert "wrong" not in triage
    assert re.search(r"delivery +large +0\.50 +I want a refund", triage)
    rag = run(FOLDER / "rag_grounded.py")
    assert "It opens at 11 on Saturdays.  (large: uncalibrated score 0.000" in rag
    assert "Films may be kept for 7 days.  (small" in rag
    team = run(FOLDER / "research_team.py")
    assert re.search(r"planner +large +saved -0\.0", team)
    assert re.search(r"writer +small +saved \+0\.0", team)
    assert "8 answered now, 0 before" in run(FOLDER / "classify_csv.py")
    again = run(FOLDER / "classify_csv.py")
    assert "0 answered now, 8 before" in again
    assert "spent $0" in again
