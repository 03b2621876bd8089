"""No reply leads elsewhere, goes on for ever, or mixes two answers."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import Any

import pytest

from cascade.errors import (
    MalformedResponseError,
    ModelError,
    ModelNotFoundError,
    ModelUnavailableError,
    RateLimitError,
)
from cascade.models import bounds, posting
from cascade.models.base import Model
from cascade.models.ollama import OllamaModel
from cascade.models.openai import OpenAIModel
from tests.models.asking import ask, ask_in_pieces
from tests.servers import replies
from tests.servers.fake import FakeServer
from tests.servers.replies import Reply

KINDS = ["openai", "openai without aiohttp", "ollama"]


@pytest.fixture(params=KINDS)
def model(
    request: pytest.FixtureRequest, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> Model:
    if request.param == "ollama":
        return OllamaModel("m", base_url=server.url, api_key="secret")
    if request.param.endswith("without aiohttp"):
        monkeypatch.setattr(posting, "has_aiohttp", lambda: False)
        monkeypatch.setattr("cascade.models.openai.has_aiohttp", lambda: False)
    return OpenAIModel("m", base_url=server.openai_url, api_key="secret")


def fitting(model: Model, streamed: bool) -> Reply:
    if isinstance(model, OllamaModel):
        return replies.ollama_stream() if streamed else replies.ollama_reply()
    return replies.openai_stream() if streamed else replies.openai_reply()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("asking", [ask, ask_in_pieces])
async def test_a_redirect_is_not_followed(
    asking: Any, status: int, model: Model, server: FakeServer
) -> None:
    to = f"http://user:password@localhost:{server.port}/v1/chat/completions?key=1"
    server.will(Reply((b"",), status=status, headers={"location": to}))
    with pytest.raises(ModelNotFoundError, match=r"localhost.*base_url") as error:
        await asking(model)
    assert error.value.billed is False
    assert "password" not in str(error.value)
    assert "key=1" not in str(error.value)
    assert len(server.received) == 1
    await model.aclose()


@pytest.mark.parametrize("headers", [{}, {"location": ""}, {"location": "http://[nowhere"}])
async def test_a_redirect_to_nowhere_is_named(
    headers: dict[str, str], model: Model, server: FakeServer
) -> None:
    server.will(Reply((b"",), status=307, headers=headers))
    with pytest.raises(ModelNotFoundError, match="elsewhere"):
        await ask(model)
    await model.aclose()


async def test_a_redirect_is_not_quoted_for_pages(model: Model, server: FakeServer) -> None:
    server.will(Reply((b"",), status=307, headers={"location": "http://a/" + "b" * 5000}))
    with pytest.raises(ModelNotFoundError) as error:
        await ask(model)
    assert len(str(error.value)) < 600
    await model.aclose()


@pytest.mark.parametrize("asking", [ask, ask_in_pieces])
@pytest.mark.parametrize("packed", [False, True])
async def test_a_reply_that_is_too_large_is_given_up(
    packed: bool, asking: Any, model: Model, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 200_000
    monkeypatch.setattr(bounds, "LARGEST_REPLY", limit)
    body = json.dumps({"message": {"content": "a" * limit}}).encode()
    if packed:
        server.will(Reply((gzip.compress(body),), headers={"content-encoding": "gzip"}))
    else:
        server.will(Reply((body[:1000],), endless=b"a" * 50_000))
    with pytest.raises(MalformedResponseError, match="in one reply"):
        await asking(model)
    await model.aclose()


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_packed_reply_is_read(streamed: bool, model: Model, server: FakeServer) -> None:
    given = fitting(model, streamed)
    packed = gzip.compress(b"".join(given.parts))
    how = {"content_type": given.content_type, "headers": {"content-encoding": "gzip"}}
    server.will(Reply((packed,), **how))
    answer = (await ask_in_pieces(model))[1] if streamed else await ask(model)
    assert answer is not None
    assert answer.text == "Paris"
    await model.aclose()


@pytest.mark.parametrize("asking", [ask, ask_in_pieces])
async def test_what_cannot_be_unpacked_is_malformed(
    asking: Any, model: Model, server: FakeServer
) -> None:
    server.will(Reply((b"?" * 64,), headers={"content-encoding": "gzip"}))
    with pytest.raises(MalformedResponseError):
        await asking(model)
    await model.aclose()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "slow down", "code": 429}, RateLimitError),
        ({"message": "slow down", "code": "429"}, RateLimitError),
        ({"message": "out of memory", "code": "oom"}, ModelUnavailableError),
        ({"code": 7}, ModelUnavailableError),
        ("out of memory", ModelUnavailableError),
    ],
)
async def test_an_error_in_a_good_reply_is_the_error(
    error: object, kind: type[ModelError], model: Model, server: FakeServer
) -> None:
    server.will(replies.json_reply({"error": error}))
    with pytest.raises(kind):
        await ask(model)
    await model.aclose()


async def test_the_pieces_of_a_second_choice_are_not_the_answers(server: FakeServer) -> None:
    def piece(text: str, place: int) -> dict[str, Any]:
        chunk = replies.openai_delta(content=text)
        return {**chunk, "choices": [{**chunk["choices"][0], "index": place}]}

    mixed = [piece("Lon", 1), piece("Pa", 0), piece("don", 1), piece("ris", 0)]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    server.will(replies.sse([*mixed, end]))
    model = OpenAIModel("m", base_url=server.openai_url)
    pieces, completion = await ask_in_pieces(model)
    assert pieces == ["Pa", "ris"]
    assert completion is not None
    assert completion.text == "Paris"
    await model.aclose()


@pytest.mark.parametrize(("ids", "mixed"), [("aab", False), ("abc", False), ("aba", True)])
async def test_a_stream_that_comes_back_to_another_answer_is_refused(
    ids: str, mixed: bool, server: FakeServer
) -> None:
    chunks = [{**replies.openai_delta(content=name), "id": name} for name in ids]
    server.will(replies.sse([*chunks, replies.openai_delta("stop")]))
    model = OpenAIModel("m", base_url=server.openai_url)
    if mixed:
        with pytest.raises(MalformedResponseError, match="two answers"):
            await ask_in_pieces(model)
    else:
        assert (await ask_in_pieces(model))[0] == list(ids)
    await model.aclose()


async def test_a_reply_without_choices_is_no_answer(server: FakeServer) -> None:
    server.will(replies.json_reply({"choices": [], "usage": {"prompt_tokens": 1}}))
    model = OpenAIModel("m", base_url=server.openai_url)
    with pytest.raises(MalformedResponseError, match="no choices"):
        await ask(model)
    await model.aclose()


async def test_a_complete_stream_is_not_waited_for(model: Model, server: FakeServer) -> None:
    given = fitting(model, streamed=True)
    server.will(replace(given, ending="hang"))
    _, completion = await ask_in_pieces(model, timeout_s=30)
    assert completion is not None
    assert completion.text == "Paris"
    await model.aclose()


async def test_who_computed_longer_than_was_waited_for_did_not_measure(server: FakeServer) -> None:
    server.will(replies.ollama_reply(eval_duration=10**13), replies.ollama_reply())
    model = OllamaModel("m", base_url=server.url)
    assert (await ask(model)).busy_ms is None
    assert (await ask(model)).busy_ms == 5.0
    await model.aclose()
