"""`cascade ask`, as a stranger types it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cascade.cli.ask import EXAMPLE
from cascade.errors import ContextLengthError
from cascade.models.base import guard
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply
from tests.cli.conftest import Models, Run, Server

QUESTION = "Capital of Australia?"
SMALL, LARGE = "ollama:qwen2.5:3b", "openai:gpt-5.1"
BOTH = ("--small", SMALL, "--large", LARGE)


@pytest.fixture(autouse=True)
def _two_models(models: Models) -> None:
    models[SMALL] = ScriptedModel([reply("Canberra", probability=0.95)], name="small")
    models[LARGE] = ScriptedModel([reply("Canberra, of course")], name="large")


def hosted(answer: Completion) -> ScriptedModel:
    """A scripted model under the name of one that has a list price."""
    model = ScriptedModel([answer], name="gpt-5.1", local=False)
    model.provider = "openai"
    return model


def sent_to(models: Models, spec: str) -> list[str]:
    model = models[spec]
    assert isinstance(model, ScriptedModel)
    return [message.text for request in model.requests for message in request.messages]


def test_the_answer_is_on_stdout_and_all_the_rest_on_stderr(run: Run) -> None:
    result = run("ask", QUESTION, *BOTH)
    assert result.stdout == "Canberra\n"
    assert "small: uncalibrated score 0.950 ≥ 0.800" in result.stderr
    assert "self_check" in result.stderr


def test_the_table_can_be_left_out(run: Run) -> None:
    result = run("ask", QUESTION, *BOTH, "--no-table")
    assert "uncalibrated score" in result.stderr
    assert "self_check" not in result.stderr


@pytest.mark.parametrize(
    "answer",
    ["all:\n\tgcc :x: [bold]a[/bold]", "a :smile: and a [link]", "1 [/] 2", "e\u0301 中 🎉"],
)
def test_the_answer_is_printed_as_it_is(run: Run, models: Models, answer: str) -> None:
    """Tabs, emoji codes and brackets mean something to the program that reads the answer."""
    models[SMALL] = ScriptedModel([answer], logprobs=0.99)
    assert run("ask", "Makefile?", *BOTH).stdout == answer + "\n"


def test_json_is_one_document_with_exact_money(run: Run, models: Models) -> None:
    models[LARGE] = hosted(reply("x", input_tokens=1, output_tokens=1))
    document = json.loads(run("ask", QUESTION, *BOTH, "--threshold", 1, "--json").stdout)
    assert document["answer"] == "x"
    assert document["escalated"] is True
    assert document["decision"]["reason"] == "uncalibrated score 0.950 < 1.000"
    assert document["cost_usd"] is None  # the draft has no price: unknown is not 0
    assert [entry["node"] for entry in document["ledger"]] == [
        "draft",
        "self_check",
        "verify",
        "expert",
    ]
    assert [entry["cost_usd"] for entry in document["ledger"]] == [None, "0", "0", "0.00001125"]


@pytest.mark.parametrize(
    ("probability", "stays", "answer", "facts"),
    [
        (0.95, "answer", "Canberra", {"degraded": False, "abstained": False, "answered": "here"}),
        (0.1, "answer", "Canberra", {"degraded": True, "abstained": False, "answered": "here"}),
        (0.1, "abstain", "", {"degraded": False, "abstained": True, "answered": None}),
    ],
)
def test_what_is_local_only_is_answered_here_or_not_at_all(
    run: Run, models: Models, probability: float, stays: str, answer: str, facts: dict[str, object]
) -> None:
    models[SMALL] = ScriptedModel([reply("Canberra", probability=probability)])
    models[LARGE] = hosted(reply("x"))
    given = ("ask", QUESTION, *BOTH, "--local-only", stays)
    document = json.loads(run(*given, "--json").stdout)
    assert document["answer"] == answer
    assert document | facts | {"local_only": stays} == document
    result = run(*given, "--no-table")
    assert result.stdout == (f"{answer}\n" if answer else "")
    assert ("no answer: " in result.stderr) is facts["abstained"]
    assert sent_to(models, LARGE) == []


@pytest.mark.parametrize(("local", "answered"), [(True, "here"), (False, "elsewhere")])
def test_json_says_where_the_answer_was_made(
    run: Run, models: Models, local: bool, answered: str
) -> None:
    models[LARGE] = ScriptedModel(["x"], local=local)
    document = json.loads(run("ask", QUESTION, *BOTH, "--threshold", 1, "--json").stdout)
    assert (document["answered"], document["local_only"]) == (answered, None)


def test_a_larger_model_on_this_machine_is_asked_also_where_nothing_may_leave(
    run: Run, models: Models
) -> None:
    result = run("ask", QUESTION, *BOTH, "--threshold", 1, "--local-only", "abstain")
    assert result.stdout == "Canberra, of course\n"


def test_a_way_to_stay_that_does_not_exist_is_wrong_usage(run: Run) -> None:
    text = said(run, QUESTION, *BOTH, "--local-only", "maybe")
    assert "'answer', 'abstain'" in text


def test_a_system_message_goes_first(run: Run, models: Models) -> None:
    run("ask", QUESTION, *BOTH, "--system", "Be short.")
    assert sent_to(models, SMALL) == ["Be short.", QUESTION]


def test_the_length_of_the_answer_is_limited_for_both_models(run: Run, models: Models) -> None:
    run("ask", QUESTION, *BOTH, "--max-tokens", 5, "--threshold", 1)
    for spec in (SMALL, LARGE):
        model = models[spec]
        assert isinstance(model, ScriptedModel)
        assert model.requests[0].max_tokens == 5


def test_models_are_taken_from_the_environment(run: Run) -> None:
    run("ask", QUESTION, env={"CASCADE_SMALL": SMALL, "CASCADE_LARGE": LARGE})


def test_the_question_comes_from_a_file(run: Run, models: Models, tmp_path: Path) -> None:
    file = tmp_path / "question.txt"
    file.write_bytes("\ufeffWas heißt Käse?\n".encode())
    run("ask", "--file", file, *BOTH)
    assert sent_to(models, SMALL) == ["Was heißt Käse?\n"]


def test_the_question_comes_from_standard_input(run: Run, models: Models) -> None:
    run("ask", "-", *BOTH, input=QUESTION)
    assert sent_to(models, SMALL) == [QUESTION]


def said(run: Run, *arguments: object, code: int = 2, **options: object) -> str:
    """What an error says; nothing of it is on stdout, where an answer is expected."""
    result = run("ask", *arguments, code=code, **options)
    assert result.stdout == ""
    return " ".join(result.stderr.replace("│", " ").split())


def test_without_a_large_model_it_says_how_to_name_one(run: Run) -> None:
    text = said(run, QUESTION, "--small", SMALL)
    assert "export CASCADE_LARGE=openai:gpt-5.1" in text
    assert "--large" in text


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "give the question as an argument, or --file"),
        ([QUESTION, "--file", "q.txt"], "and not both"),
        ([""], "the question is empty"),
        (["  \n"], "the question is empty"),
        (["--file", "/no/such/file"], "/no/such/file cannot be read: No such file"),
        (["--file", "/"], "/ cannot be read: Is a directory"),
        ([QUESTION, "--threshold", "-0.1"], "threshold=-0.1"),
        ([QUESTION, "--threshold", "1.1"], "threshold=1.1"),
        ([QUESTION, "--price-of-error", "-1"], "which is unknown"),
        (
            [QUESTION, "--threshold", "0.5", "--price-of-error", "1"],
            "--threshold and --price-of-error were both given",
        ),
        ([QUESTION, "--max-tokens", "0"], "max_tokens=0"),
        ([QUESTION, "--small", "nope:x"], "unknown provider 'nope'"),
        ([QUESTION, "--small", "qwen"], "'qwen'"),
        ([QUESTION, "--small", "openai:gpt-4o-mini"], "set OPENAI_API_KEY"),
        ([QUESTION, "--threshold", "high"], "parse string as a number"),
        ([QUESTION, "--colour", "red"], "No such option"),
    ],
)
def test_wrong_usage_is_named_and_exits_with_2(
    run: Run, arguments: list[str], complaint: str
) -> None:
    given = arguments if "--small" in arguments else [*arguments, "--small", SMALL]
    assert complaint in said(run, *given, "--large", LARGE)


@pytest.mark.parametrize("where", ["file", "stdin"])
def test_a_text_that_is_not_utf8_is_named_with_the_byte(
    run: Run, tmp_path: Path, where: str
) -> None:
    text = "café".encode("latin-1")
    file = tmp_path / "latin.txt"
    file.write_bytes(text)
    if where == "file":
        complaint = said(run, "--file", file, *BOTH)
        assert str(file) in complaint.replace(" ", "")
    else:
        complaint = said(run, "-", *BOTH, input=text)
    assert "is not UTF-8 (byte 3)" in complaint


def test_a_failure_exits_with_1_and_shows_what_was_spent(run: Run, models: Models) -> None:
    down = ContextLengthError("503 :x: [down]", model="m", billed=False)
    models[LARGE] = ScriptedModel([down], name="large")
    models[SMALL] = ScriptedModel([""], name="small", logprobs=0.9)  # no draft to fall back on
    text = said(run, QUESTION, *BOTH, code=1)
    assert "what it cost all the same:" in text
    assert "draft" in text
    assert "error: 503 :x: [down]" in text


def test_a_large_model_that_is_down_still_gives_the_draft(run: Run, models: Models) -> None:
    down = ContextLengthError("503 from the server", model="m", billed=False)
    models[LARGE] = ScriptedModel([down], name="large")
    result = run("ask", QUESTION, *BOTH, "--threshold", 1)
    assert result.stdout == "Canberra\n"
    assert "but large failed: 503 from the server" in result.stderr


def test_a_server_that_is_not_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "forbidden", False)
    text = said(run, QUESTION, "--small", "ollama:a", "--large", "ollama:x:1b", code=1)
    assert "error: ollama:x:1b: nobody answers at http://127.0.0.1:9" in text
    assert "ollama serve" in text


def test_a_model_that_is_not_pulled(run: Run, ollama: Server) -> None:
    ollama.replies["/api/show"] = None
    text = said(run, QUESTION, "--small", "ollama:absent:1b", "--large", LARGE, code=1)
    assert "ollama pull absent:1b" in text


def test_the_example_of_the_help_is_one_that_parses(run: Run) -> None:
    arguments = shlex.split(EXAMPLE.removeprefix("Example: cascade "))
    text = said(run, *arguments[1:])  # the scripted models have no price
    assert "price_of_error" in text
    shown = " ".join(run("ask", "--help").stdout.split())
    assert "Example: cascade ask" in shown
    assert "llamacpp:smollm2-135m" in shown


@pytest.mark.parametrize("flags", [["--version"], ["--help"], ["-h"]])
def test_the_program_says_what_it_is(run: Run, flags: list[str]) -> None:
    assert "cascade" in run(*flags).stdout


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    assert "calibrate" in run(code=2).output


def test_as_a_process_of_its_own() -> None:
    """What CliRunner cannot show: exit codes and streams of the real program."""
    command = [sys.executable, "-m", "cascade.cli", "ask", "?", "--large", "nope:x"]
    command[1:3] = ["-c", "from cascade.cli import main; main()"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown provider 'nope'")
    assert "Traceback" not in done.stderr
