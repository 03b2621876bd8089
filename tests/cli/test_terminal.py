"""What a person at a terminal sees: the way of a question, what to type next, Ctrl-C, <TAB>."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.main import get_command

from cascade import Cascade, Price, Tier
from cascade.cli import app, completing
from cascade.cli.console import print_json
from cascade.cli.live import Way
from cascade.cli.program import _show_everything
from cascade.confidence.signals import BUILT_IN
from cascade.evaluation.plan import Plan
from cascade.evaluation.report import Evaluation
from cascade.evaluation.scorers import SCORERS
from cascade.jobs import Done
from cascade.jobs.plan import PlanDone
from cascade.oversight.readiness import Readiness
from cascade.report import TABLES, Report
from cascade.service.shared.calibrations import InUse, RolledOut
from cascade.teaching import Lesson, Terms
from cascade.teaching.clusters import Clusters
from cascade.teaching.forms import ROWS
from cascade.teaching.status import Status
from cascade.testing import ScriptedModel, reply
from tests.cli.conftest import Run

# What to type next


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answers.jsonl").write_text("{}\n")
    (tmp_path / "wrong.yaml").write_text("cascadez: 1\n")
    (tmp_path / "broken.yaml").write_text("cascades: [\n")


BATCH = "batch q.csv --output a.csv --large ollama:x"


@pytest.mark.parametrize(
    ("typed", "then"),
    [
        ("aks hi", "cascade ask hi"),
        ("keys lst cascade.yaml", "cascade keys list cascade.yaml"),
        ("ask hi --larg ollama:x", "cascade ask hi --large ollama:x"),
        ("ask hi --colour", "cascade ask --help"),
        ("ask hi", "cascade doctor"),
        ("ask hi --small qwen --large ollama:x", "cascade ask hi --small ollama:qwen --large "),
        ("ask hi --small nope:x --large ollama:x", "cascade ask hi --small openai:x --large "),
        ("ask hi --large openai:gpt-5.1", "export OPENAI_API_KEY=…"),
        ("ask --file q.txt --large ollama:x", "ls"),
        (BATCH, "ls"),
        ("evaluate answer.jsonl", "cascade evaluate answers.jsonl"),
        ("report sqlite:///ledger.db", "cascade batch questions.csv --output answers.csv --ledger"),
        ("report ledger.db", "cascade report sqlite:///ledger.db"),
        ("teach status sqlite:///l.db", "cascade serve --example > cascade.yaml"),
        ("serve", "cascade serve --example > cascade.yaml"),
        ("serve cascade.yaml", "cascade serve --example > cascade.yaml"),
        ("serve wrong.yaml", "cascade serve wrong.yaml --check"),
        ("keys list broken.yaml", "cascade serve broken.yaml --check"),
        ("plan", "cascade plan --help"),
        ("there-is-no-file", "cascade --help"),
        ("evaluate /root-of-nobody/x.jsonl", "ls"),
    ],
)
def test_an_error_ends_with_the_next_command_to_type(run: Run, typed: str, then: str) -> None:
    lines = run(*typed.split(), code=2).stderr.splitlines()
    assert lines[-1].startswith(f"next: {then}")
    assert any(line.startswith("error: ") for line in lines[:-1])


def test_no_password_is_repeated(run: Run) -> None:
    said = run("report", "postgres://me:secret@host/db", "--colour", code=2).stderr
    assert "secret" not in said


def test_the_example_of_a_configuration_is_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "leave the rest out" in run("serve", "--example", "--json", code=2).output
    Path("cascade.yaml").write_text(run("serve", "--example").stdout)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    found = json.loads(run("serve", "cascade.yaml", "--check", "--json").stdout)
    assert (found["cascades"], found["asks_for_keys"]) == (["assistant"], True)
    assert run("serve", code=2).stderr.endswith("next: cascade serve cascade.yaml\n")


# For machines


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
        return
    for name, one in below.items():
        yield from _commands(one, (*path, name))


def _names(record: Any) -> set[str]:
    return set(getattr(record, "model_fields", ())) or {field.name for field in fields(record)}


def test_every_command_can_answer_with_json() -> None:
    names = {
        path: {option for parameter in command.params for option in parameter.opts}
        for path, command in _commands(get_command(app))
    }
    assert [path for path, options in names.items() if "--json" not in options] == []


@pytest.mark.parametrize(
    ("typed", "kind", "then"),
    [
        ("ask hi --json", "ConfigurationError", "cascade doctor"),
        ("ask --json --colour", "UsageError", "cascade ask --help"),
    ],
)
def test_with_json_an_error_is_the_last_line_of_stderr(
    run: Run, typed: str, kind: str, then: str
) -> None:
    result = run(*typed.split(), code=2)
    assert result.stdout == ""
    error = json.loads(result.stderr.splitlines()[-1])["error"]
    assert error["message"]
    assert (error["type"], error["next"], error["exit_code"]) == (kind, then, 2)


def test_a_question_may_say_json(run: Run) -> None:
    assert run("ask", "--", "--json", code=2).stderr.startswith("error: ")


def test_keys_are_made_and_revoked_for_machines(run: Run) -> None:
    where = "sqlite:///ledger.db"
    made = json.loads(run("keys", "create", where, "me", "--day-usd", "5", "--json").stdout)
    assert (made["name"], made["day_usd"], "digest" in made) == ("me", "5", False)
    changed = json.loads(run("keys", "rotate", where, "me", "--json").stdout)
    assert changed["secret"] not in ("", made["secret"])
    gone = json.loads(run("keys", "revoke", where, "me", "--json").stdout)
    assert gone["revoked_at"] is not None
    assert "secret" not in gone


RECORDS = {
    "batch": (Done, {"rows", "output", "written", *_names(PlanDone)}),
    "calibration push": (RolledOut, set()),
    "calibration status": (InUse, set()),
    "evaluate": (Evaluation, set()),
    "lessons list": (Lesson, set()),
    "lessons terms": (Terms, set()),
    "plan": (Plan, {"summary"}),
    "report": (Report, set()),
    "shadow": (Readiness, set()),
    "teach report": (Clusters, set()),
    "teach status": (Status, set()),
}
"""Commands that print a record, and what is beside it."""


def test_the_manual_has_every_key_of_the_documents(run: Run, models: dict[str, Any]) -> None:
    page = Path(__file__).parents[2] / "docs" / "cli.md"
    rows = re.findall(r"^\| (`[a-z].*?) \| (.*) \|$", page.read_text("utf-8"), re.MULTILINE)
    said = {
        command: set(re.findall(r"`(\w+)`", keys))
        for commands, keys in rows
        for command in re.findall(r"`([^`]+)`", commands)
    }
    told = {command: said[command] for command in RECORDS}
    assert told == {name: _names(record) | more for name, (record, more) in RECORDS.items()}
    models["ollama:a"] = ScriptedModel(["Canberra"], logprobs=0.99)
    models["ollama:b"] = ScriptedModel(["x"])
    asked = run("ask", "?", "--small", "ollama:a", "--large", "ollama:b", "--json")
    assert said["ask"] == json.loads(asked.stdout).keys()
    there = {" ".join(path) for path, _ in _commands(get_command(app))}
    assert there == {command.removesuffix(" --check") for command in said}


# Streams that cannot show everything


def test_a_terminal_of_ascii_gets_figures_and_whole_json(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    _show_everything()
    print("− $1 ≈ ✓ ─ … ß \ud83d")
    print_json({"said": "ß 🎉"})
    stream.flush()
    line, _, document = stream.buffer.getvalue().decode("ascii").partition("\n")
    assert line == "- $1 ~ + - ... \\xdf \\ud83d"
    assert json.loads(document) == {"said": "ß 🎉"}


# The way of a question


def _way(probability: float, *, width: int = 100) -> str:
    draft = reply("Sydney [bold]\x1b]0;x\x07", probability=probability, output_tokens=3)
    small = Tier(ScriptedModel([draft], name="tiny"), price=Price(input="1", output="1"))
    large = Tier(ScriptedModel(["Canberra"], name="huge"), price=Price(input="9", output="9"))
    cascade = Cascade(small, large)
    way = Way({tier.name: tier.model.name for tier in cascade.tiers}, "small")
    console = Console(file=io.StringIO(), width=width, height=20, force_terminal=False)
    for event in cascade.stream("Capital of Australia?", show="optimistic"):
        way.take(event)
        console.print(way.render(console))
    console.file = io.StringIO()
    console.print(way.render(console))
    return console.file.getvalue()


def test_of_an_accepted_draft_the_way_shows_confidence_decision_and_cost() -> None:
    shown = _way(0.9)
    assert "scripted:tiny" in shown
    assert "0.90 ██████████████░░ raw score, not calibrated; needs 0.80" in shown
    assert "accept: uncalibrated score 0.900" in shown
    assert "Sydney" not in shown  # it is the answer, which goes to stdout


def test_a_rejected_draft_stays_above_who_answers_instead() -> None:
    shown = _way(0.4)
    draft, decision, answered = (shown.index(w) for w in ("Sydney [bold]", "escalate:", "huge"))
    assert draft < decision < answered


def test_the_way_fits_a_narrow_screen() -> None:
    assert max(map(len, _way(0.4, width=40).splitlines())) <= 40


def test_quiet_prints_the_answer_alone(run: Run, models: dict[str, Any]) -> None:
    models["ollama:a"] = ScriptedModel(["Canberra"], logprobs=0.99)
    models["ollama:b"] = ScriptedModel(["x"])
    result = run("ask", "?", "--small", "ollama:a", "--large", "ollama:b", "--quiet")
    assert (result.stdout, result.stderr) == ("Canberra\n", "")


SLOW = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests may ignore it
from cascade import tiers
from cascade.testing import ScriptedModel
tiers.open_model = lambda *_, **__: ScriptedModel(["late"], delay_s=60)
from cascade.cli import main
main()
"""


def test_ctrl_c_at_a_terminal_says_what_was_spent_and_ends_with_130() -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", SLOW, "ask", "?", "--small", "ollama:a", "--large", "ollama:b"]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    seen = _read(ours, until="drafts")
    process.send_signal(2)
    seen = _read(ours)
    os.close(ours)
    assert process.wait(20) == 130
    assert "Traceback" not in seen
    assert "interrupted; spent: $0.00 in 1 call, and 1 of them at an unknown cost" in seen


def _read(terminal: int, until: str | None = None) -> str:
    """What comes until some words, or to the end."""
    seen, last = "", time.monotonic() + 60
    while time.monotonic() < last and (until is None or until not in seen):
        try:
            more = os.read(terminal, 65_536)
        except OSError:  # Linux says so when nobody writes any more
            break
        if not more:
            break
        seen += more.decode(errors="replace")
    assert until is None or until in seen, seen
    return seen


# <TAB>


def test_what_is_offered_is_what_there_is() -> None:
    assert set(completing.SCORERS) == set(SCORERS)
    assert set(completing.SIGNALS) == set(BUILT_IN)
    assert set(completing.FORMS) == set(ROWS)
    assert {*completing.TABLES} == {*TABLES, "tag:"}


def test_ledgers_are_told_from_other_files() -> None:
    with sqlite3.connect("runs.db") as file:
        file.execute("CREATE TABLE ledger_schema (version INTEGER)")
    file.close()
    Path("other.db").write_text("no database")
    assert completing.ledgers("sqlite") == ["sqlite:///runs.db"]
    assert completing.configurations("wr") == ["wrong.yaml"]


def test_the_models_of_ollama_are_offered(ollama: Any) -> None:
    ollama.replies["/api/tags"] = {"models": [{"name": "qwen2.5:3b"}]}
    assert completing.models("ollama:q") == ["ollama:qwen2.5:3b"]
    ollama.replies["/api/tags"] = "no JSON"
    assert completing.models("oll") == ["ollama:"]


ASKED = """
. <(cascade --show-completion bash)
function asked { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
  _cascade_completion cascade; echo "${COMPREPLY[*]}"; }
asked cascade keys ""
asked cascade ask --local-only ""
asked cascade ask --small llam
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    here = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{here}{os.pathsep}{os.environ['PATH']}")
    found = subprocess.run(["bash", "-c", ASKED], capture_output=True, text=True, check=True)
    keys, stays, models = found.stdout.splitlines()
    assert set(keys.split()) == {"create", "list", "revoke", "rotate"}
    assert (stays, models) == ("answer abstain", "llamacpp:smollm2-135m")
