"""Everything that can go wrong on the way, by both protocols and both HTTP clients."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

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
    RealRequestForbiddenError,
    StreamInterruptedError,
    UnsupportedContentError,
)
from cascade.models import Model, Request, http, served
from cascade.models.base import guard
from cascade.models.failures import Caller, conceal
from cascade.models.ollama import OllamaModel
from cascade.models.openai import OpenAIModel
from tests.models.asking import ASKING, ask, ask_by_stream
from tests.servers import replies
from tests.servers.fake import FakeServer
from tests.servers.replies import Reply

Case = tuple[Reply, type[ModelError], bool | None]

REFUSALS: dict[str, Case] = {
    "400": (replies.error(400, "bad"), BadRequestError, False),
    "401": (replies.error(401, "bad key sk-abcdef123456"), AuthenticationError, False),
    "403": (replies.error(403, "no"), AuthenticationError, False),
    "404": (replies.error(404, "no such model"), ModelNotFoundError, False),
    "408": (replies.error(408, "late"), ModelTimeoutError, None),
    "409": (replies.error(409, "conflict"), ModelUnavailableError, False),
    "413": (replies.error(413, "large"), ContextLengthError, False),
    "422": (replies.error(422, "bad"), BadRequestError, False),
    "429": (replies.error(429, "slow"), RateLimitError, False),
    "500": (replies.error(500, "oops"), ModelUnavailableError, None),
    "503": (replies.error(503, "busy"), ModelUnavailableError, None),
    "504": (replies.error(504, "gateway"), ModelTimeoutError, None),
    "529": (replies.error(529, "overloaded"), ModelUnavailableError, None),
    "a prompt too long, by its code": (
        replies.error(400, "too big", code="context_length_exceeded"),
        ContextLengthError,
        False,
    ),
    "a prompt too long, with 500": (
        replies.ollama_error(500, "the input length exceeds the context length"),
        ContextLengthError,
        False,
    ),
    "no images": (
        replies.error(500, "image input is not supported"),
        UnsupportedContentError,
        False,
    ),
    "no tools": (
        replies.ollama_error(400, "m does not support tools"),
        UnsupportedContentError,
        False,
    ),
    "FastAPI's form": (
        replies.json_reply({"detail": "prompt is too long"}, status=400),
        ContextLengthError,
        False,
    ),
    "text": (replies.text_reply("oops", status=502), ModelUnavailableError, None),
    "an error in a good reply": (
        replies.json_reply({"error": {"message": "slow", "code": 429}}),
        RateLimitError,
        False,
    ),
    "a text of an error in a good reply": (
        replies.json_reply({"error": "out of memory"}),
        ModelUnavailableError,
        None,
    ),
    "html": (replies.HTML, MalformedResponseError, None),
    "dropped": (replies.DROP, ModelUnavailableError, None),
    "reset": (Reply(ending="reset"), ModelUnavailableError, None),
    "no HTTP": (Reply((b"hello?\r\n\r\n",), raw=True), ModelUnavailableError, None),
}


@pytest.mark.parametrize("asking", ASKING)
@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal_is_a_named_error(
    case: Case, asking: Callable[..., Any], model: Model, server: FakeServer
) -> None:
    behaviour, kind, billed = case
    if behaviour is replies.HTML and asking is ask_by_stream:
        kind = StreamInterruptedError if model.provider == "openai" else MalformedResponseError
    server.will(behaviour)
    with pytest.raises(kind) as caught:
        await asking(model)
    assert type(caught.value) is kind
    assert (caught.value.billed, caught.value.model) == (billed, model.name)
    assert "127.0.0.1" in str(caught.value)
    assert "abcdef" not in str(caught.value)
    assert len(server.received) <= 1, "nothing is sent twice"
    assert (await ask(model, "next")).text == "NEXT"


def with_call(**function: Any) -> list[Any]:
    return [{"function": function}]


OPENAI_UNREADABLE: dict[str, object] = {
    "cut JSON": None,
    "no choices": {"hello": 1},
    "empty choices": {"choices": [], "usage": {}},
    "list": [1],
    "odd choices": {"choices": [1]},
    "odd message": {"choices": [{"message": "Paris"}]},
    "odd content": replies.openai_body(7),  # type: ignore[arg-type]
    "cut arguments": replies.openai_body(None, tool_calls=with_call(name="f", arguments="{")),
    "no name": replies.openai_body(None, tool_calls=with_call(arguments="{}")),
    "arguments without end": replies.openai_body(
        None, tool_calls=with_call(name="f", arguments="[" * 100_000)
    ),
    "odd tool call": replies.openai_body(None, tool_calls=[3]),
    "odd tool calls": replies.openai_body(None, tool_calls=3),
    "odd function": replies.openai_body(None, tool_calls=[{"function": 3}]),
}
OLLAMA_UNREADABLE: dict[str, object] = {
    "no message": {"hello": 1},
    "list": [1],
    "odd content": replies.ollama_body(7),  # type: ignore[arg-type]
    "no name": replies.ollama_body("", tool_calls=with_call(name="", arguments={})),
    "odd tool call": replies.ollama_body("", tool_calls=[3]),
    "odd tool calls": replies.ollama_body("", tool_calls=3),
}


def unreadable(body: object) -> Reply:
    return replies.text_reply('{"choices": [') if body is None else replies.json_reply(body)


@pytest.mark.parametrize("body", OPENAI_UNREADABLE.values(), ids=OPENAI_UNREADABLE)
async def test_a_reply_that_cannot_be_read_is_malformed(
    body: object, openai_model: OpenAIModel, server: FakeServer
) -> None:
    server.will(unreadable(body))
    with pytest.raises(MalformedResponseError) as caught:
        await ask(openai_model)
    assert caught.value.billed is None


@pytest.mark.parametrize("body", OLLAMA_UNREADABLE.values(), ids=OLLAMA_UNREADABLE)
async def test_a_reply_of_ollama_that_cannot_be_read_is_malformed(
    body: object, ollama_model: OllamaModel, server: FakeServer
) -> None:
    server.will(unreadable(body))
    with pytest.raises(MalformedResponseError):
        await ask(ollama_model)


OPENAI_BROKEN: dict[str, tuple[Reply, type[ModelError]]] = {
    "dropped after a piece": (
        replies.sse(replies.openai_chunks("Paris")[:2], done=False, ending="drop", pause_s=0.02),
        StreamInterruptedError,
    ),
    "no end": (replies.sse(replies.openai_chunks("Paris")[:3], done=False), StreamInterruptedError),
    "an error later": (
        replies.sse([*replies.openai_chunks("Paris")[:2], {"error": {"message": "boom"}}]),
        StreamInterruptedError,
    ),
    "an error first": (
        replies.sse([{"error": {"message": "prompt is too long", "code": 400}}]),
        ContextLengthError,
    ),
    "no JSON": (
        Reply((b"data: {]\n\n",), content_type="text/event-stream"),
        MalformedResponseError,
    ),
    "a call that cannot be read": (
        replies.sse([replies.openai_delta("stop", tool_calls=with_call(name="f", arguments="{"))]),
        MalformedResponseError,
    ),
}
OLLAMA_BROKEN: dict[str, tuple[Reply, type[ModelError]]] = {
    "dropped after a piece": (
        replies.ndjson(replies.ollama_chunks("Paris")[:1] * 2, ending="drop", pause_s=0.02),
        StreamInterruptedError,
    ),
    "no end": (replies.ndjson(replies.ollama_chunks("Paris")[:2]), StreamInterruptedError),
    "an error later": (
        replies.ndjson([replies.ollama_chunks("Paris")[0], {"error": "boom"}]),
        StreamInterruptedError,
    ),
    "an error first": (replies.ndjson([{"error": "boom"}]), ModelUnavailableError),
    "no JSON": (Reply((b"{]\n",)), MalformedResponseError),
}


@pytest.mark.parametrize(("reply", "kind"), OPENAI_BROKEN.values(), ids=OPENAI_BROKEN)
async def test_a_stream_that_breaks_is_a_named_error(
    reply: Reply, kind: type[ModelError], openai_model: OpenAIModel, server: FakeServer
) -> None:
    server.will(reply)
    with pytest.raises(kind) as caught:
        await ask_by_stream(openai_model)
    assert type(caught.value) is kind


@pytest.mark.parametrize(("reply", "kind"), OLLAMA_BROKEN.values(), ids=OLLAMA_BROKEN)
async def test_a_stream_of_ollama_that_breaks_is_a_named_error(
    reply: Reply, kind: type[ModelError], ollama_model: OllamaModel, server: FakeServer
) -> None:
    server.will(reply)
    with pytest.raises(kind) as caught:
        await ask_by_stream(ollama_model)
    assert type(caught.value) is kind


# Time


@pytest.mark.parametrize("asking", ASKING)
async def test_a_server_that_never_answers_times_out(
    asking: Callable[..., Any], model: Model, server: FakeServer
) -> None:
    server.will(replies.HANG)
    with pytest.raises(ModelTimeoutError, match=r"0\.2 s") as caught:
        await asking(model, timeout_s=0.2)
    assert caught.value.billed is None
    for received in server.received:
        assert await asyncio.to_thread(received.left.wait, 5), "the connection was not closed"


async def test_a_client_does_not_wait_for_ever(
    opened: Callable[[str], Model], server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "READ_S", 0.1)
    for kind in ("openai", "openai without aiohttp"):
        model = opened(kind)
        server.will(replies.HANG)
        with pytest.raises(ModelTimeoutError, match="no answer in time"):
            await ask(model)
        await model.aclose()


async def test_a_stream_that_stalls_times_out(
    openai_model: OpenAIModel, server: FakeServer
) -> None:
    server.will(replies.sse(replies.openai_chunks("Paris")[:2], done=False, ending="hang"))
    with pytest.raises(ModelTimeoutError):
        await ask_by_stream(openai_model, timeout_s=0.2)


async def test_a_complete_stream_is_not_waited_for(model: Model, server: FakeServer) -> None:
    whole = replies.openai_stream() if model.provider == "openai" else replies.ollama_stream()
    server.will(replace(whole, ending="hang"))
    assert (await ask_by_stream(model, timeout_s=30)).text == "Paris"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
async def test_a_refusal_carries_how_long_to_wait(
    headers: dict[str, str], seconds: float | None, model: Model, server: FakeServer
) -> None:
    server.will(replies.error(429, "slow", headers=headers))
    with pytest.raises(RateLimitError) as caught:
        await ask(model)
    assert caught.value.retry_after == seconds


# Places


@pytest.mark.parametrize("asking", ASKING)
@pytest.mark.parametrize(
    ("model", "says"),
    [
        (OpenAIModel("x", base_url="http://127.0.0.1:9/v1"), "Is the server running"),
        (OllamaModel("x", base_url="127.0.0.1:9"), "ollama serve"),
    ],
    ids=["openai", "ollama"],
)
async def test_a_server_that_does_not_run_is_named_with_the_way_out(
    model: Model, says: str, asking: Callable[..., Any]
) -> None:
    with pytest.raises(ModelUnavailableError, match=says) as caught:
        await asking(model)
    assert caught.value.billed is False
    await model.aclose()


async def test_a_model_that_was_not_pulled_is_named_with_the_way_out(
    ollama_model: OllamaModel, server: FakeServer
) -> None:
    server.will(replies.ollama_error(404, "model 'qwen2.5:3b' not found"))
    with pytest.raises(ModelNotFoundError, match=r"ollama pull qwen2\.5:3b"):
        await ask(ollama_model)


async def test_a_server_under_tls_is_checked(server: FakeServer) -> None:
    model = OpenAIModel("m", base_url=server.openai_url.replace("http:", "https:"), api_key="x")
    with pytest.raises(ModelUnavailableError, match="SSL"):
        await ask(model)
    await model.aclose()


@pytest.mark.parametrize("asking", ASKING)
@pytest.mark.parametrize("status", [301, 307])
async def test_a_redirect_is_not_followed(
    asking: Callable[..., Any], status: int, model: Model, server: FakeServer
) -> None:
    to = f"http://user:password@localhost:{server.port}/v1/chat/completions?key=1"
    server.will(Reply((b"",), status=status, headers={"location": to}))
    with pytest.raises(ModelNotFoundError, match=r"localhost.*base_url") as caught:
        await asking(model)
    assert caught.value.billed is False
    assert not {"password", "key=1"} & set(str(caught.value).replace("@", " ").split())
    assert len(server.received) == 1


async def test_a_proxy_of_the_environment_is_not_asked_for_a_server_on_this_machine(
    opened: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for kind in ("openai", "openai without aiohttp"):
        model = opened(kind)
        assert (await ask(model, "hi")).text == "HI"
        await model.aclose()


async def test_a_proxy_of_the_environment_is_asked_for_a_server_elsewhere(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    model = OpenAIModel("m", base_url="http://model.example/v1", api_key="k")
    assert (await ask(model, "hi")).text == "HI"
    assert server.last.headers["host"] == "model.example"
    await model.aclose()


# Sizes


@pytest.mark.parametrize("asking", ASKING)
@pytest.mark.parametrize("packed", [False, True])
async def test_a_reply_that_is_too_large_is_given_up(
    packed: bool,
    asking: Callable[..., Any],
    model: Model,
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = 200_000
    monkeypatch.setattr(http, "LARGEST_REPLY", limit)
    body = json.dumps({"message": {"content": "a" * limit}}).encode()
    if packed:
        server.will(Reply((gzip.compress(body),), headers={"content-encoding": "gzip"}))
    else:
        server.will(Reply((body[:1000],), endless=b"a" * 50_000))
    with pytest.raises(MalformedResponseError, match="in one reply"):
        await asking(model)


async def test_a_refusal_without_end_is_given_up(model: Model, server: FakeServer) -> None:
    server.will(Reply((b"no",), status=400, endless=b"a" * 500_000))
    with pytest.raises(BadRequestError) as caught:
        await ask(model)
    assert len(str(caught.value)) < 600


async def test_a_packed_reply_is_read(model: Model, server: FakeServer) -> None:
    whole = replies.openai_reply() if model.provider == "openai" else replies.ollama_reply()
    packed = gzip.compress(b"".join(whole.parts))
    server.will(Reply((packed,), headers={"content-encoding": "gzip"}))
    assert (await ask(model)).text == "Paris"


@pytest.mark.parametrize("asking", ASKING)
async def test_what_cannot_be_unpacked_is_malformed(
    asking: Callable[..., Any], model: Model, server: FakeServer
) -> None:
    server.will(Reply((b"?" * 64,), headers={"content-encoding": "gzip"}))
    with pytest.raises(MalformedResponseError):
        await asking(model)


# Log-probabilities


@pytest.mark.parametrize("asking", ASKING)
async def test_a_server_that_refuses_log_probabilities_is_asked_without(
    asking: Callable[..., Any], model: Model, server: FakeServer
) -> None:
    server.will(replies.error(400, "logprobs is not supported with this model"))
    assert (await asking(model, "hi", logprobs=True)).text == "HI"
    assert not model.returns_logprobs
    assert [bool(r.body.get("logprobs")) for r in server.received] == [True, False]


@pytest.mark.parametrize("asking", ASKING)
async def test_what_is_refused_for_something_else_is_not_sent_again(
    asking: Callable[..., Any], model: Model, server: FakeServer
) -> None:
    server.will(replies.error(400, "bad"))
    with pytest.raises(BadRequestError):
        await asking(model, "hi", logprobs=True)
    assert len(server.received) == 1


# Making ready


async def test_a_connection_is_there_for_the_first_request(
    model: Model, server: FakeServer
) -> None:
    await model.warm()
    await ask(model)
    assert server.last.body["messages"]
    assert server.received[0].body.get("messages", []) == []


async def test_any_word_of_the_server_is_enough(
    openai_model: OpenAIModel, server: FakeServer
) -> None:
    server.will(replies.error(401, "no"), replies.HTML)
    await openai_model.warm()
    await openai_model.warm()


async def test_a_server_that_says_nothing_to_that_is_not_waited_for(
    openai_model: OpenAIModel, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "CONNECT_S", 0.05)
    server.will(replies.HANG)
    with pytest.raises(ModelTimeoutError):
        await openai_model.warm()


async def test_a_server_that_does_not_run_is_no_ready_one() -> None:
    for model in (
        OpenAIModel("m", base_url="http://127.0.0.1:9/v1"),
        OllamaModel("m", base_url=":9"),
    ):
        with pytest.raises(ModelUnavailableError):
            await model.warm()
        await model.aclose()


async def test_no_real_server_is_called_where_that_is_forbidden(
    model: Model, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "forbidden", True)
    for call in (model.warm, lambda: ask(model), lambda: ask_by_stream(model)):
        with pytest.raises(RealRequestForbiddenError, match="forbidden"):
            await call()  # type: ignore[operator]
    assert server.received == []


# What errors say


QUESTION = 'My name is "Anna Örtli"\nand I live in Zürich.'


@pytest.mark.parametrize(
    "quoted", [QUESTION, json.dumps(QUESTION), f"bad input: {QUESTION[3:30]}…"]
)
@pytest.mark.parametrize("asking", ASKING)
async def test_no_error_repeats_the_question_or_the_key(
    asking: Callable[..., Any], quoted: str, model: Model, server: FakeServer
) -> None:
    server.will(replies.error(400, f"refused {quoted} of sk-secret-key\x1b[2J\u202e"))
    with pytest.raises(BadRequestError) as caught:
        await asking(model, QUESTION)
    said = "".join(str(e) for e in (caught.value, caught.value.__cause__, caught.value.__context__))
    assert not {"Anna", "rtli", "secret", "\x1b", "\u202e"} & {w for w in said.split() if w}
    assert "name is" not in said
    assert "secret-key" not in said
    assert "\x1b" not in said
    assert "refused" in said


def test_a_cause_that_repeats_the_question_is_dropped() -> None:
    error = ModelError("failed", model="m")
    error.__cause__ = ValueError(f"no: {QUESTION}")
    conceal(error, [QUESTION], ())
    assert error.__cause__ is None
    error.__cause__ = harmless = ValueError("no")
    conceal(error, [QUESTION], ())
    assert error.__cause__ is harmless


def test_a_long_reason_is_cut() -> None:
    assert len(str(Caller("m", "here").refused(400, "x" * 10_000))) < 500


async def test_a_question_that_the_error_has_words_of_is_no_quote(
    openai_model: OpenAIModel, server: FakeServer
) -> None:
    server.will(replies.error(400, "the model is busy"))
    with pytest.raises(BadRequestError, match="the model is busy"):
        await openai_model.complete(Request((HumanMessage("Is the model big?"),)))
