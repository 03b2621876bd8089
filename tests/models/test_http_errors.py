"""Everything that can go wrong on the way, with the official clients against a real server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx
import httpx2
import pytest

from cascade.errors import (
    AuthenticationError,
    BadRequestError,
    ContextLengthError,
    MalformedResponseError,
    ModelError,
    ModelNotFoundError,
    ModelTimeoutError,
    ModelUnavailableError,
    RateLimitError,
    StreamInterruptedError,
    UnsupportedContentError,
)
from cascade.models.base import Model
from cascade.models.ollama import OllamaModel
from cascade.models.openai import OpenAIModel
from tests.models.asking import ask, ask_in_pieces
from tests.servers import replies
from tests.servers.fake import FakeServer
from tests.servers.replies import Reply


@dataclass(frozen=True)
class Case:
    what: str
    behaviour: Reply
    error: type[ModelError]
    billed: bool | None
    says: str = ""


OPENAI = [
    Case("401", replies.error(401, "bad key sk-abcdef123456"), AuthenticationError, False, "key"),
    Case("403", replies.error(403, "no"), AuthenticationError, False),
    Case("404", replies.error(404, "no model x"), ModelNotFoundError, False, "small-1"),
    Case("400", replies.error(400, "bad"), BadRequestError, False),
    Case("422", replies.error(422, "bad"), BadRequestError, False),
    Case(
        "too long",
        replies.error(400, "too big", code="context_length_exceeded"),
        ContextLengthError,
        False,
        "longer context",
    ),
    Case(
        "image",
        replies.error(500, "image input is not supported"),
        UnsupportedContentError,
        False,
    ),
    Case("429", replies.error(429, "slow"), RateLimitError, False),
    Case("500", replies.error(500, "oops"), ModelUnavailableError, None),
    Case("503", replies.error(503, "busy"), ModelUnavailableError, None),
    Case("504", replies.error(504, "gateway"), ModelTimeoutError, None),
    Case(
        "html", replies.text_reply("<html>", content_type="text/html"), MalformedResponseError, None
    ),
    Case("broken JSON", replies.text_reply('{"choices": ['), MalformedResponseError, None),
    Case("no choices", replies.json_reply({"hello": 1}), MalformedResponseError, None),
    Case("list", replies.json_reply([1]), MalformedResponseError, None),
    Case("odd choices", replies.json_reply({"choices": [1]}), MalformedResponseError, None),
    Case("odd content", replies.openai_reply(7), MalformedResponseError, None),
    Case(
        "broken tool call",
        replies.openai_reply(None, tool_calls=[{"function": {"name": "f", "arguments": "{"}}]),
        MalformedResponseError,
        None,
    ),
    Case("odd tool call", replies.openai_reply(None, tool_calls=[3]), MalformedResponseError, None),
    Case("dropped", replies.DROP, ModelUnavailableError, None, "broke"),
]

OPENAI_STREAM = [
    Case("401", replies.error(401, "bad key"), AuthenticationError, False),
    Case("429", replies.error(429, "slow"), RateLimitError, False),
    Case("500", replies.error(500, "oops"), ModelUnavailableError, None),
    Case("dropped at once", replies.DROP, ModelUnavailableError, None),
    Case(
        "dropped after a piece",
        replies.sse(replies.openai_chunks("Paris")[:2], done=False, ending="drop", pause_s=0.05),
        StreamInterruptedError,
        None,
    ),
    Case(
        "no end marker",
        replies.sse(replies.openai_chunks("Paris")[:3], done=False),
        StreamInterruptedError,
        None,
        "finish reason",
    ),
    Case(
        "error event first",
        replies.sse([{"error": {"message": "prompt is too long", "code": 400}}, {}]),
        ContextLengthError,
        False,
    ),
    Case(
        "error event later",
        replies.sse([*replies.openai_chunks("Paris")[:2], {"error": {"message": "boom"}}]),
        StreamInterruptedError,
        None,
        "boom",
    ),
    Case(
        "broken JSON",
        Reply((b"data: {]\n\n", b"\n"), content_type="text/event-stream"),
        MalformedResponseError,
        None,
    ),
]

OLLAMA = [
    Case("401", replies.ollama_error(401, "unauthorized"), AuthenticationError, False),
    Case(
        "404",
        replies.ollama_error(404, "model 'qwen2.5:3b' not found"),
        ModelNotFoundError,
        False,
        "ollama pull qwen2.5:3b",
    ),
    Case("400", replies.ollama_error(400, "bad"), BadRequestError, False),
    Case(
        "no tools",
        replies.ollama_error(400, "m does not support tools"),
        UnsupportedContentError,
        False,
    ),
    Case(
        "too long",
        replies.ollama_error(400, "the input length exceeds the context length"),
        ContextLengthError,
        False,
    ),
    Case("429", replies.ollama_error(429, "slow"), RateLimitError, False),
    Case("500", replies.ollama_error(500, "oops"), ModelUnavailableError, None),
    Case("text error", replies.text_reply("oops", status=502), ModelUnavailableError, None),
    Case("broken JSON", replies.text_reply('{"message": {'), MalformedResponseError, None),
    Case("no message", replies.json_reply({"hello": 1}), MalformedResponseError, None),
    Case("list", replies.json_reply([1]), MalformedResponseError, None),
    Case("odd content", replies.ollama_reply(7), MalformedResponseError, None),
    Case(
        "odd tool call",
        replies.ollama_reply("", tool_calls=[{"function": {"name": "", "arguments": {}}}]),
        MalformedResponseError,
        None,
    ),
    Case("dropped", replies.DROP, ModelUnavailableError, None, "broke"),
]

OLLAMA_STREAM = [
    Case("404", replies.ollama_error(404, "not found"), ModelNotFoundError, False),
    Case("500", replies.ollama_error(500, "oops"), ModelUnavailableError, None),
    Case("dropped at once", replies.DROP, ModelUnavailableError, None),
    Case(
        "dropped after a piece",
        replies.ndjson(replies.ollama_chunks("Paris")[:1] * 2, ending="drop", pause_s=0.05),
        StreamInterruptedError,
        None,
    ),
    Case(
        "no end marker",
        replies.ndjson(replies.ollama_chunks("Paris")[:2]),
        StreamInterruptedError,
        None,
        "done",
    ),
    Case("error first", replies.ndjson([{"error": "boom"}, {}]), ModelUnavailableError, None),
    Case(
        "error later",
        replies.ndjson([replies.ollama_chunks("Paris")[0], {"error": "boom"}]),
        StreamInterruptedError,
        None,
        "boom",
    ),
    Case("broken JSON", Reply((b"{]\n", b"\n")), MalformedResponseError, None),
]


def _named(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.what)


async def _expect(case: Case, model: Model, server: FakeServer, *, stream: bool = False) -> None:
    server.will(case.behaviour)
    with pytest.raises(case.error) as caught:
        await (ask_in_pieces(model) if stream else ask(model))
    assert type(caught.value) is case.error
    assert caught.value.billed is case.billed
    assert caught.value.model == model.name
    assert "127.0.0.1" in str(caught.value)
    assert case.says in str(caught.value)
    assert "abcdef" not in str(caught.value)


@_named(OPENAI)
async def test_openai_failure_is_a_named_error(
    case: Case, openai_model: OpenAIModel, server: FakeServer
) -> None:
    await _expect(case, openai_model, server)


@_named(OPENAI_STREAM)
async def test_openai_stream_failure_is_a_named_error(
    case: Case, openai_model: OpenAIModel, server: FakeServer
) -> None:
    await _expect(case, openai_model, server, stream=True)


@_named(OLLAMA)
async def test_ollama_failure_is_a_named_error(
    case: Case, ollama_model: OllamaModel, server: FakeServer
) -> None:
    await _expect(case, ollama_model, server)


@_named(OLLAMA_STREAM)
async def test_ollama_stream_failure_is_a_named_error(
    case: Case, ollama_model: OllamaModel, server: FakeServer
) -> None:
    await _expect(case, ollama_model, server, stream=True)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_never_answers_times_out(
    either_model: Model, server: FakeServer, stream: bool
) -> None:
    server.will(replies.HANG)
    with pytest.raises(ModelTimeoutError, match=r"0\.5 s") as caught:
        await (ask_in_pieces if stream else ask)(either_model, timeout_s=0.5)
    assert caught.value.billed is None
    assert await asyncio.to_thread(server.last.left.wait, 2), "the connection was not closed"


async def test_the_clients_own_time_limit(
    either_model: Model, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade.models.openai._WAIT", httpx2.Timeout(0.3))
    monkeypatch.setattr("cascade.models.ollama._WAIT", httpx.Timeout(0.3))
    server.will(replies.HANG)
    with pytest.raises(ModelTimeoutError, match="no answer in time") as caught:
        await ask(either_model)
    assert caught.value.billed is None


async def test_a_stream_that_stalls_times_out(
    openai_model: OpenAIModel, server: FakeServer
) -> None:
    server.will(replies.sse(replies.openai_chunks("Paris")[:2], done=False, ending="hang"))
    with pytest.raises(ModelTimeoutError):
        await ask_in_pieces(openai_model, timeout_s=0.5)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "says"),
    [
        (OpenAIModel("x", base_url="http://127.0.0.1:9/v1"), "Is the server running"),
        (OllamaModel("x", base_url="127.0.0.1:9"), "ollama serve"),
    ],
    ids=["openai", "ollama"],
)
async def test_nobody_listens(model: Model, says: str, stream: bool) -> None:
    with pytest.raises(ModelUnavailableError, match=says) as caught:
        await (ask_in_pieces if stream else ask)(model)
    assert caught.value.billed is False
    await model.aclose()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
async def test_rate_limit_carries_how_long_to_wait(
    openai_model: OpenAIModel,
    server: FakeServer,
    headers: dict[str, str],
    seconds: float | None,
) -> None:
    server.will(replies.error(429, "slow", headers=headers))
    with pytest.raises(RateLimitError) as caught:
        await ask(openai_model)
    assert caught.value.retry_after == seconds


async def test_no_retry_inside_and_success_on_the_next_request(
    either_model: Model, server: FakeServer
) -> None:
    server.will(replies.error(429, "slow"), replies.error(500, "oops"))
    for failure in (RateLimitError, ModelUnavailableError):
        with pytest.raises(failure):
            await ask(either_model)
    assert (await ask(either_model, "hi")).text == "HI"
    assert len(server.received) == 3
