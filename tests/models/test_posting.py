"""The short way to a server says and raises what the client would."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import aiohttp
import openai
import pytest
from pydantic import BaseModel

from cascade.models.failures import Caller
from cascade.models.openai import OpenAIModel
from cascade.models.posting import Post, read_json
from tests.models.asking import ask
from tests.servers import replies
from tests.servers.fake import FakeServer

PATH = "/chat/completions"
CALLER = Caller("openai:m", "http://here")
OF_ONE_CLIENT = {
    "connection",
    "x-stainless-retry-count",
    "x-stainless-read-timeout",
    "content-length",
}


@asynccontextmanager
async def both(url: str) -> AsyncGenerator[tuple[openai.AsyncOpenAI, Post]]:
    """The client, with its own errors, and the short way beside it."""
    client = openai.AsyncOpenAI(
        base_url=url,
        api_key="key",
        organization="org",
        project="project",
        max_retries=0,
        http_client=openai.DefaultAioHttpClient(),
    )
    post = Post.of(client, PATH, CALLER, trust_env=False)
    assert post is not None
    async with client:
        yield client, post
        await post.aclose()


async def test_the_server_sees_the_same_request(server: FakeServer) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Köln 🏛"}], "seed": None}
    async with both(server.openai_url) as (client, post):
        reply = await client.post(PATH, cast_to=object, body=body)
        first = server.last
        assert await post.send(body) == reply
        second = server.last
    assert first is not second
    assert (first.path, first.body) == (second.path, second.body)
    differ = {key for key, value in first.headers.items() if second.headers.get(key) != value}
    assert differ <= OF_ONE_CLIENT | {"accept-encoding"}
    assert second.headers["authorization"] == "Bearer key"
    assert second.headers["openai-organization"] == "org"


REFUSALS = {
    "in OpenAI's form": replies.error(400, "too long", code="context_length_exceeded"),
    "of a rate": replies.error(429, "slow", headers={"retry-after": "7"}),
    "in text": replies.text_reply("no such thing", status=404, content_type="text/plain"),
    "in a page": replies.Reply((b"<html>",), status=502, content_type="text/html"),
    "in a list": replies.json_reply(["no"], status=422),
    "in a word": replies.json_reply({"error": "down"}, status=503),
    "packed": replies.Reply(
        (gzip.compress(json.dumps({"error": {"message": "packed"}}).encode()),),
        status=401,
        headers={"content-encoding": "gzip"},
    ),
}


@pytest.mark.parametrize("reply", REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal_is_the_clients(reply: replies.Reply, server: FakeServer) -> None:
    async with both(server.openai_url) as (client, post):
        server.will(reply)
        with pytest.raises(openai.APIStatusError) as expected:
            await client.post(PATH, cast_to=object, body={})
        server.will(reply)
        with pytest.raises(openai.APIStatusError) as caught:
            await post.send({})
    for name in ("message", "code", "type", "body", "status_code"):
        assert getattr(caught.value, name) == getattr(expected.value, name), name
    after = [e.value.response.headers.get("retry-after") for e in (caught, expected)]
    assert after[0] == after[1]


async def test_times_and_records_are_written_as_the_client_writes_them(server: FakeServer) -> None:
    class Option(BaseModel):
        level: int
        unset: int = 3

    messages = [{"role": "user", "content": "?"}]
    body = {"messages": messages, "at": datetime(2026, 1, 2, tzinfo=UTC), "option": Option(level=1)}
    async with both(server.openai_url) as (client, post):
        await client.post(PATH, cast_to=object, body=body)
        first = server.last.body
        await post.send(body)
    assert server.last.body == first


async def test_a_request_of_megabytes_arrives_whole(server: FakeServer) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "🏛" * 2**20}]}
    async with both(server.openai_url) as (_, post):
        await post.send(body)
    assert server.last.body == body
    assert int(server.last.headers["content-length"]) > 4 * 2**20


@pytest.mark.parametrize("value", [float("nan"), object()])
async def test_what_is_no_json_is_not_sent(value: object, server: FakeServer) -> None:
    async with both(server.openai_url) as (_, post):
        with pytest.raises((ValueError, TypeError)):
            await post.send({"value": value})


async def test_a_broken_connection_is_of_the_transport(server: FakeServer) -> None:
    async with both(server.openai_url) as (_, post):
        server.will(replies.DROP)
        with pytest.raises(aiohttp.ClientError):
            await post.send({})


@pytest.mark.parametrize("url", ["https://h/v1?version=1", "https://name:word@h/v1"])
async def test_an_address_with_more_in_it_is_the_clients(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key="x") as client:
        assert Post.of(client, PATH, CALLER, trust_env=False) is None


async def test_a_proxy_of_the_environment_is_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    async with openai.AsyncOpenAI(base_url="https://h/v1", api_key="x") as client:
        assert Post.of(client, PATH, CALLER, trust_env=True) is None
        assert Post.of(client, PATH, CALLER, trust_env=False) is not None


EVENTS = {
    "plain": b'data: {"a": 1}\n\ndata: {"a": "\xc3\xa9"}\n\ndata: [DONE]\n\n',
    "with carriage returns": b'data: {"a": 1}\r\n\r\ndata: {"a": 2}\r\rdata: [DONE]\r\n\r\n',
    "over lines, with comments and names": (
        b': hello\n\nevent: x\nid: 7\ndata: {"a":\ndata: 1}\n\ndata: [DONE]\n\n'
    ),
    "without an end": b'data: {"a": 1}\n\n',
    "with an end that is cut": b'data: {"a": 1}\n\ndata: {"a": 2}\n',
    "with more after the end": b'data: {"a": 1}\n\ndata: [DONE]\n\ndata: {"a": 2}\n\n',
    "that are none": b'{"a": 1}',
    "with half a surrogate pair": b'data: {"a": "\\ud800"}\n\ndata: [DONE]\n\n',
    "an error": b'data: {"a": 1}\n\ndata: {"error": {"message": "full", "code": "x"}}\n\n',
    "an error in a word": b'data: {"error": "down"}\n\n',
    "no JSON": b'data: {"a": 1}\n\ndata: {"a":\n\n',
    "no text": b'data: {"a": "\xff"}\n\n',
}


async def gathered(events: AsyncIterable[object]) -> tuple[list[object], BaseException | None]:
    found: list[object] = []
    try:
        async for event in events:
            found.append(event)  # noqa: PERF401 - what came before an error is kept
    except (openai.APIError, ValueError) as error:
        return found, error
    return found, None


@pytest.mark.parametrize("raw", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_events_are_the_clients(raw: bytes, size: int, server: FakeServer) -> None:
    pieces = tuple(raw[at : at + size] for at in range(0, len(raw), size))
    kind = openai.AsyncStream[object]
    async with both(server.openai_url) as (client, post):
        server.will(replies.Reply(pieces, content_type="text/event-stream"))
        async with await client.post(
            PATH, cast_to=object, body={}, stream=True, stream_cls=kind
        ) as stream:
            expected, error = await gathered(stream)
        server.will(replies.Reply(pieces, content_type="text/event-stream"))
        found, caught = await gathered(post.stream({}))
    assert found == expected
    assert (type(caught), str(caught)) == (type(error), str(error))
    for name in ("message", "code", "type", "body"):
        assert getattr(caught, name, None) == getattr(error, name, None), name


@pytest.mark.parametrize("reply", REFUSALS.values(), ids=REFUSALS)
async def test_a_stream_that_is_refused_is_refused_as_by_the_client(
    reply: replies.Reply, server: FakeServer
) -> None:
    async with both(server.openai_url) as (_, post):
        server.will(reply, reply)
        with pytest.raises(openai.APIStatusError) as expected:
            await post.send({})
        with pytest.raises(openai.APIStatusError) as caught:
            await anext(post.stream({}))
    for name in ("message", "code", "type", "body", "status_code"):
        assert getattr(caught.value, name) == getattr(expected.value, name), name


async def test_a_connection_is_used_again_after_a_stream(server: FakeServer) -> None:
    raw = EVENTS["with more after the end"]
    async with both(server.openai_url) as (_, post):
        for _ in range(3):
            server.will(replies.Reply((raw,), content_type="text/event-stream"))
            assert await gathered(post.stream({})) == ([{"a": 1}], None)
        session = post._session
        assert session is not None
        assert len(session.connector._conns) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": NaN}',
        b'{"a": 123456789012345678901234567890}',
        b'{"a": "\\ud800"}',
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        b"[" * 300 + b"]" * 300,
    ],
)
def test_json_is_read_as_python_reads_it(raw: bytes) -> None:
    assert repr(read_json(raw)) == repr(json.loads(raw))


@pytest.mark.parametrize("raw", [b"", b'{"a": 1} {', b'{"a": "\xff"}', b'{"a": "x\ny"}'])
def test_what_python_does_not_read_is_no_json(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        json.loads(raw)
    with pytest.raises(ValueError, match=r"."):
        read_json(raw)


async def test_a_server_under_tls_is_checked(server: FakeServer) -> None:
    url = server.openai_url.replace("http:", "https:")
    model = OpenAIModel("m", base_url=url, api_key="x")
    with pytest.raises(Exception, match=r"nobody answers.*SSL"):
        await ask(model)
    await model.aclose()


async def test_it_can_be_used_again_after_it_was_closed(server: FakeServer) -> None:
    async with both(server.openai_url) as (_, post):
        await post.send({"messages": [{"role": "user", "content": "?"}]})
        await post.aclose()
        await post.send({"messages": [{"role": "user", "content": "?"}]})
