"""What can go wrong on the way, by both protocols and both HTTP clients.

`tests/faults` sends every fault of a server through whole cascades; here are the names that errors
get, and what they say.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from cascade.errors import (
    BadRequestError,
    ContextLengthError,
    MalformedResponseError,
    ModelError,
    ModelNotFoundError,
    ModelTimeoutError,
    ModelUnavailableError,
    RateLimitError,
    UnsupportedContentError,
)
from cascade.models import Model
from cascade.models.http import conceal
from cascade.models.openai import OpenAIModel
from tests.acceptance.upstream import Upstream
from tests.models.asking import ASKING, ask
from tests.servers import replies
from tests.servers.replies import Reply

NO_TEXT = {"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]}
error, json_reply = replies.error, replies.json_reply
REFUSALS: dict[str, tuple[Reply, type[ModelError], bool | None]] = {
    "409": (error(409, "conflict"), ModelUnavailableError, False),
    "413": (error(413, "large"), ContextLengthError, False),
    "code": (error(400, "big", code="context_length_exceeded"), ContextLengthError, False),
    "500": (error(500, "image input is not supported"), UnsupportedContentError, False),
    "FastAPI": (json_reply({"detail": "too many tokens"}, status=400), ContextLengthError, False),
    "no text": (json_reply(NO_TEXT), MalformedResponseError, None),
    "text": (replies.text_reply("oops", status=502), ModelUnavailableError, None),
    "200": (json_reply({"error": {"message": "slow", "code": 429}}), RateLimitError, False),
    "200, text": (json_reply({"error": "out of memory"}), ModelUnavailableError, None),
    "no HTTP": (Reply((b"hello?\r\n\r\n",), raw=True), ModelUnavailableError, None),
}


@pytest.mark.parametrize("asking", ASKING)
@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal_is_a_named_error(
    case: Any, asking: Callable[..., Any], model: Model, server: Upstream
) -> None:
    behaviour, kind, billed = case
    server.will(behaviour)
    with pytest.raises(kind) as caught:
        await asking(model)
    assert type(caught.value) is kind
    assert (caught.value.billed, caught.value.model) == (billed, model.name)
    assert "127.0.0.1" in str(caught.value)
    assert len(server.seen) <= 1, "nothing is sent twice"
    assert (await ask(model, "next")).text == "NEXT"


# Time


@pytest.mark.parametrize("asking", ASKING)
async def test_a_server_that_never_answers_times_out(
    asking: Callable[..., Any], model: Model, server: Upstream
) -> None:
    server.will(replies.HANG)
    with pytest.raises(ModelTimeoutError, match=r"0\.5 s") as caught:
        await asking(model, timeout_s=0.5)
    assert (caught.value.billed, caught.value.__cause__) == (None, None)
    for received in server.seen:
        assert await asyncio.to_thread(received.left.wait, 300), "the connection was not closed"


# Places


async def test_a_redirect_is_not_followed(model: Model, server: Upstream) -> None:
    to = f"http://user:password@localhost:{server.port}/v1/chat/completions?key=1"
    server.will(Reply((b"",), status=307, headers={"location": to}))
    with pytest.raises(ModelNotFoundError, match=r"localhost.*base_url") as caught:
        await ask(model)
    assert caught.value.billed is False
    assert not {"password", "key=1"} & set(str(caught.value).replace("@", " ").split())
    assert len(server.seen) == 1


async def test_a_proxy_of_the_environment_is_asked_for_servers_elsewhere_alone(
    opened: Callable[[str], Model], server: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    elsewhere = OpenAIModel("m", base_url="http://model.example/v1", api_key="k")
    assert (await ask(elsewhere, "hi")).text == "HI"
    assert server.last.headers["host"] == "model.example"
    await elsewhere.aclose()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for kind in ("openai", "openai without aiohttp"):
        model = opened(kind)
        assert (await ask(model, "hi")).text == "HI"
        await model.aclose()


async def test_a_refusal_without_end_is_given_up(model: Model, server: Upstream) -> None:
    server.will(Reply((b"no",), status=400, endless=b"a" * 500_000))
    with pytest.raises(BadRequestError) as caught:
        await ask(model)
    assert len(str(caught.value)) < 600


# Log-probabilities, and where requests are forbidden


@pytest.mark.parametrize("asking", ASKING)
async def test_a_server_that_refuses_log_probabilities_is_asked_without(
    asking: Callable[..., Any], model: Model, server: Upstream
) -> None:
    server.will(replies.error(400, "bad"))
    with pytest.raises(BadRequestError):
        await asking(model, "hi", logprobs=True)
    assert len(server.seen) == 1, "refused for something else"
    server.will(replies.error(400, "logprobs is not supported with this model"))
    assert (await asking(model, "hi", logprobs=True)).text == "HI"
    assert not model.returns_logprobs
    assert [bool(r.body.get("logprobs")) for r in server.seen] == [True, True, False]


# What errors say

QUESTION = 'My name is "Anna Örtli"\nand I live in Zürich.'


@pytest.mark.parametrize(
    "quoted", [QUESTION, json.dumps(QUESTION), f"bad input: {QUESTION[3:30]}…"]
)
@pytest.mark.parametrize("asking", ASKING)
async def test_no_error_repeats_the_question_or_the_key(
    asking: Callable[..., Any], quoted: str, model: Model, server: Upstream
) -> None:
    server.will(replies.error(400, f"refused {quoted} of sk-secret-key\x1b[2J\u202e"))
    with pytest.raises(BadRequestError) as caught:
        await asking(model, QUESTION)
    said = "".join(str(e) for e in (caught.value, caught.value.__cause__, caught.value.__context__))
    for word in ("Anna", "rtli", "name is", "secret-key", "\x1b", "\u202e"):
        assert word not in said
    assert "refused" in said


def test_a_cause_that_repeats_the_question_is_dropped() -> None:
    error = ModelError("failed", model="m")
    error.__cause__ = ValueError(f"no: {QUESTION}")
    conceal(error, [QUESTION], ())
    assert error.__cause__ is None
    error.__cause__ = harmless = ValueError("no")
    conceal(error, [QUESTION], ())
    assert error.__cause__ is harmless
