"""`cascade ask`, the program around all commands, and how errors are said."""

import io
import json
import sys
from decimal import Decimal
from pathlib import Path
from unittest import mock

import pytest

from cascade import Cascade
from cascade.cli import main, program
from cascade.cli.program import exit_code_of
from tests.acceptance import commands
from tests.acceptance.commands import MODELS
from tests.acceptance.upstream import Answer, Upstream
from tests.cli import terminal

QUESTION = "What is the capital of Australia?"


def test_without_a_command_all_commands_are_shown() -> None:
    done = commands.cascade(code=2)
    assert all(f" {name} " in done.out + done.err for name in program.COMMANDS)
    assert commands.cascade("--version").out.startswith("cascade ")
    assert "Missing command" in commands.cascade("--", code=2).err


def test_ctrl_c_while_the_program_loads_is_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "app", mock.Mock(side_effect=KeyboardInterrupt))
    assert commands.cascade("doctor", code=130).err == "interrupted\n"


BROKEN = {
    "latin.csv": b"question,reference\ncaf\xe9,x\n",
    "one.csv": b"word\nup\n",
    "empty.jsonl": b"",
    "cut.jsonl": b'{"question": "a", "reference": "b"}\n{"question": "c", "ref',
    "no.parquet": b"PAR1",
    "text.txt": b"What is this?",
    "bad.yaml": b"cascades: [",
}


@pytest.mark.parametrize("name", [*BROKEN, "none.csv", "folder"])
@pytest.mark.parametrize("command", ["batch", "calibrate", "evaluate", "serve", "keys", "try"])
def test_a_file_that_cannot_be_read_is_named_in_one_line_and_nothing_is_asked(
    host: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for file, content in BROKEN.items():
        Path(file).write_bytes(content)
    models = () if command in ("serve", "keys") else MODELS
    typed = {"keys": ("keys", "list", name), "batch": ("batch", name, "--output", "out.csv")}
    done = commands.cascade(*typed.get(command, (command, name)), *models, code=2)
    error, then = done.err.strip().splitlines()[-2:]
    assert error.startswith("error: ")
    assert name in done.err or "which two models" in error or "no row has both" in error
    assert then.startswith(("next: cascade ", "next: iconv "))
    assert host.seen == []


@pytest.mark.parametrize(
    ("typed", "said", "then"),
    [
        (("nonsense",), "nonsense", "cascade --help"),
        (("keys", "nonsense"), "nonsense", "cascade keys --help"),
        (("plan", "--accept", "0.5"), "--input-tokens", "cascade plan --help"),
        (("plan", "--accept", "half"), "half", "cascade plan --help"),
        (("ask", QUESTION), "no large model", "cascade doctor"),
        (("ask", "?", "--small", "llamacpp:no.gguf", *MODELS[2:]), "no.gguf", "cascade ask --help"),
    ],
)
def test_wrong_usage_says_what_to_type_next(typed: tuple[str, ...], said: str, then: str) -> None:
    done = commands.cascade(*typed, code=2)
    assert (done.out, said in done.err) == ("", True)
    assert done.err.strip().splitlines()[-1] == f"next: {then}"
    done = commands.cascade(*typed, "--json", code=2)
    error = json.loads(done.err)["error"]
    assert (error["next"], error["exit_code"], said in error["message"]) == (then, 2, True)


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (ModuleNotFoundError("", name="sklearn"), 2, "sklearn is not installed: in a clone, `pip"),
        (ModuleNotFoundError("", name="sqlalchemy"), 2, 'next: pip install ".[service]"'),
        (PermissionError(13, "Permission denied", "c.json"), 1, "c.json: Permission denied."),
    ],
)
def test_what_is_missing_or_cannot_be_written_is_named(
    capsys: pytest.CaptureFixture[str], raised: Exception, code: int, said: str
) -> None:
    assert exit_code_of(mock.Mock(side_effect=raised)) == code
    assert said in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):  # a fault of ours
        exit_code_of(mock.Mock(side_effect=ModuleNotFoundError("", name="ours")))


@pytest.mark.parametrize("typed", ["keys create", "keys list", "lessons terms", "teach status"])
def test_commands_of_groups_have_json_and_their_groups_an_example(typed: str) -> None:
    group, command = typed.split()
    assert f"Example: cascade {group}" in commands.cascade(group, "--help").out
    assert "--json" in commands.cascade(group, command, "--help").out


def test_a_terminal_shows_drafts_and_decisions_as_they_come(host: Upstream) -> None:
    host.says("small", Answer("Sydney", p=0.3))
    done = terminal.cascade("ask", QUESTION, *MODELS)
    assert done.out.strip() == f"large: {QUESTION}"
    assert done.err.index("Sydney") < done.err.index("small: escalate") < done.err.index(done.out)


@pytest.mark.parametrize("large", [(), ("--large", "openai:gpt-5.1")])
def test_an_answer_that_stays_on_this_machine_needs_no_large_model(
    host: Upstream, large: tuple[str, ...]
) -> None:
    host.says("small", Answer("Sydney", p=0.3))
    given = ("ask", QUESTION, "--local-only", "--small", "ollama:small", *large)
    assert commands.cascade(*given, OPENAI_API_KEY="k").out == "Sydney\n"
    given = ("ask", QUESTION, "--local-only", "--small", "openai:gpt-5.1")
    assert "no tier is on this machine" in commands.cascade(*given, code=2, OPENAI_API_KEY="k").err


def test_half_an_emoji_is_shown_as_it_can_be(
    host: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    host.says("small", "half \ud83d")
    assert commands.cascade("ask", QUESTION, *MODELS, "--json").json["answer"] == "half \ud83d"
    program.give(None, "half \ud83d")
    assert capsys.readouterr().out == "half \\ud83d\n"


def test_on_a_terminal_an_answer_moves_no_cursor(host: Upstream) -> None:
    host.says("small", "Canberra\x1b[2J")
    assert terminal.cascade("ask", QUESTION, *MODELS).out == "Canberra\ufffd[2J\n"
    assert commands.cascade("ask", QUESTION, *MODELS).out == "Canberra\x1b[2J\n"


def test_a_question_that_is_no_text_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("caf\xe9".encode("latin1"))))
    monkeypatch.setattr(sys, "argv", ["cascade", "ask", "-", *MODELS])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "standard input is not UTF-8 (byte 3)" in capsys.readouterr().err


@pytest.mark.usefixtures("keyboard")
@pytest.mark.parametrize("as_json", [True, False])
def test_ctrl_c_says_what_was_spent(host: Upstream, as_json: bool) -> None:
    host.says("small", Answer("Sydney", p=0.3))
    host.says("large", terminal.ctrl_c)
    done = commands.cascade("ask", QUESTION, *MODELS, *["--json"] * as_json, code=130)
    if as_json:
        error = json.loads(done.err)["error"]
        assert (error["type"], error["exit_code"], "cost_usd" in error) == ("Interrupted", 130, 1)
    else:
        assert "what it cost all the same" in done.err
        assert done.err.strip().splitlines()[-1] == "interrupted"


def test_ctrl_c_before_anything_is_spent(host: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Cascade, "__init__", interrupted)
    assert "interrupted" in commands.cascade("ask", QUESTION, *MODELS, code=130).err
    assert host.seen == []


TOKENS = ("plan", "--input-tokens", "400", "--output-tokens", "100")
LARGE = ("--large-price", "1,10")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--small-price", "1", *LARGE), "'--small-price': '1': write two"),
        (("--small-price", "a,b", *LARGE), "'--small-price': 'a,b'"),
        (LARGE, "there is no price of the small model: give --small"),
        (("--small-price", "1,1"), "--large-price"),
        (("--small-price", "1,1", *LARGE, "--kwh-price", "0.3"), "give --kw too"),
        (("--hourly", "1", "--utilisation", "2", *LARGE), "utilisation"),
        (("--hourly", "1", *LARGE), "give --busy-s"),
        (("--small-price", "1,1", *LARGE, "--accept-n", "10"), "give --accept too"),
        (("--small", "gpt-5.1", *LARGE), "there is no price of gpt-5.1"),
        (("--small-price", "1,1", "--large-price", "0,0"), "nothing to save"),
        (("--small-price", "1,1", *LARGE, "--accept", "1.5"), "1.5"),
        (("--small-price", "1,1", *LARGE, "--accept", "most"), "valid decimal, not 'most'"),
    ],
)
def test_a_plan_without_its_figures_says_which(given: tuple[str, ...], said: str) -> None:
    assert said in commands.cascade(*TOKENS, *given, code=2).err


@pytest.mark.parametrize(
    "given",
    [
        ("--small", "openai:gpt-5-nano", "--large", "openai:gpt-5.1"),
        ("--small-price", "0.1,0.4", "--hourly", "1", "--busy-s", "0.1", *LARGE),
        ("--kw", "0.3", "--kwh-price", "0.4", "--busy-s", "0.1", "--check-calls", "1", *LARGE),
    ],
)
def test_a_plan_takes_prices_in_several_ways(given: tuple[str, ...]) -> None:
    asked = (*TOKENS, *given, "--accept", "0.9", "--requests", "1000", "--fixed-usd", "2")
    document = commands.cascade(*asked, "--json").json
    assert 0 < Decimal(document["cost_ratio"]) < 1
    assert document["summary"] in " ".join(commands.cascade(*asked).out.split())
