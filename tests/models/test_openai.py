"""What the `openai:` adapter sends and reads, with the official client."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from cascade.errors import MissingKeyError
from cascade.models.base import Request
from cascade.models.openai import OpenAIModel
from cascade.models.posting import Post
from cascade.state import TokenLogprob, Usage
from tests.models.asking import ask, ask_in_pieces
from tests.servers import replies
from tests.servers.fake import FakeServer

WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
CLOSED = {
    "title": "City name",
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


async def test_a_plain_answer_with_everything_that_came_along(
    openai_model: OpenAIModel, server: FakeServer
) -> None:
    usage = {
        "prompt_tokens": 20,
        "completion_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 16},
        "completion_tokens_details": {"reasoning_tokens": 7},
    }
    logprobs = [
        {
            "token": "Par",
            "logprob": -0.1,
            "top_logprobs": [
                {"token": "Par", "logprob": -0.1},
                {"token": "x", "logprob": -9999.0},
            ],
        },
        {"token": "is", "logprob": -0.2, "bytes": [105, 115], "top_logprobs": []},
    ]
    server.will(replies.openai_reply("Paris", usage=usage, logprobs=logprobs))
    answer = await ask(openai_model, logprobs=True, top_logprobs=2)
    assert answer.text == "Paris"
    assert answer.model == "served"
    assert answer.usage == Usage(
        input_tokens=20, output_tokens=9, cached_tokens=16, reasoning_tokens=7
    )
    assert answer.logprobs == (
        TokenLogprob("Par", -0.1, (("Par", -0.1),)),
        TokenLogprob("is", -0.2),
    )
    assert answer.finish_reason == "stop"
    assert answer.latency_ms > 0
    assert answer.busy_ms is None


@pytest.mark.parametrize(
    ("details", "written"),
    [
        ({"cached_tokens": 0, "cache_write_tokens": 1100}, 1100),  # OpenAI, OpenRouter
        ({"cached_tokens": 0, "cache_creation_tokens": 1100}, 1100),  # LiteLLM
        ({"cached_tokens": 0}, None),
        ({"cached_tokens": 0, "cache_write_tokens": "many"}, None),
        (None, None),
    ],
)
async def test_tokens_written_to_the_cache_are_read(
    openai_model: OpenAIModel, server: FakeServer, details: object, written: int | None
) -> None:
    usage = {"prompt_tokens": 1200, "completion_tokens": 9, "prompt_tokens_details": details}
    server.will(replies.openai_reply("Paris", usage=usage))
    assert (await ask(openai_model)).usage.cache_write_tokens == written


async def test_every_setting_reaches_the_server(
    openai_model: OpenAIModel, server: FakeServer
) -> None:
    await ask(
        openai_model,
        max_tokens=5,
        temperature=0.0,
        stop=("\n",),
        seed=1,
        logprobs=True,
        top_logprobs=3,
        tools=(WEATHER,),
        tool_choice="weather",
        schema=CLOSED,
        extra={"top_p": 0.5},
    )
    sent = dict(server.last.body)
    assert sent.pop("messages") == [{"role": "user", "content": "Capital of France?"}]
    assert sent == {
        "model": "small-1",
        "max_tokens": 5,
        "temperature": 0.0,
        "stop": ["\n"],
        "seed": 1,
        "logprobs": True,
        "top_logprobs": 3,
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "City_name", "schema": CLOSED, "strict": True},
        },
        "top_p": 0.5,
    }


async def test_an_open_schema_is_not_sent_as_strict(
    openai_model: OpenAIModel, server: FakeServer
) -> None:
    await ask(openai_model, schema={"type": "object", "properties": {"a": {"type": "string"}}})
    assert "strict" not in server.last.body["response_format"]["json_schema"]


async def test_nothing_is_sent_that_was_not_asked_for(
    openai_model: OpenAIModel, server: FakeServer
) -> None:
    await ask(openai_model)
    assert set(server.last.body) == {"model", "messages"}


async def test_a_reasoning_model_has_another_limit_and_no_logprobs(server: FakeServer) -> None:
    model = OpenAIModel("gpt-5.1", base_url=server.openai_url, api_key="k")
    assert not model.returns_logprobs
    await ask(model, max_tokens=7, logprobs=True, top_logprobs=2)
    assert set(server.last.body) == {"model", "messages", "max_completion_tokens"}
    await model.aclose()


async def test_the_conversation_arrives_in_openai_form(
    openai_model: OpenAIModel, server: FakeServer
) -> None:
    image = "data:image/png;base64," + base64.b64encode(b"png").decode()
    call = {"name": "weather", "args": {"city": "Paris"}, "id": "call_1", "type": "tool_call"}
    conversation = (
        SystemMessage("Be short."),
        HumanMessage(
            [{"type": "text", "text": "Here?"}, {"type": "image_url", "image_url": {"url": image}}]
        ),
        AIMessage("", tool_calls=[call]),
        ToolMessage("sunny", tool_call_id="call_1"),
    )
    server.will(replies.openai_reply("ok"))
    await openai_model.complete(Request(conversation))
    system, human, assistant, tool = server.last.body["messages"]
    assert system == {"role": "system", "content": "Be short."}
    assert human["content"][1]["image_url"]["url"] == image
    assert json.loads(assistant["tool_calls"][0]["function"]["arguments"]) == {"city": "Paris"}
    assert tool == {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}


async def test_tool_calls(openai_model: OpenAIModel, server: FakeServer) -> None:
    call = {"id": "c1", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    server.will(replies.openai_reply(None, finish="tool_calls", tool_calls=[call]))
    answer = await ask(openai_model, tools=(WEATHER,))
    assert answer.text == ""
    assert answer.finish_reason == "tool_calls"
    assert answer.tool_calls[0]["name"] == "weather"
    assert answer.tool_calls[0]["args"] == {"city": "Paris"}
    assert answer.tool_calls[0]["id"] == "c1"


async def test_tool_calls_in_pieces(openai_model: OpenAIModel, server: FakeServer) -> None:
    def part(**function: str) -> dict[str, object]:
        return replies.openai_delta(tool_calls=[{"index": 0, "function": function}])

    chunks = [part(name="weather"), part(arguments='{"city":'), part(arguments='"Paris"}')]
    server.will(replies.sse([*chunks, replies.openai_delta("tool_calls")]))
    pieces, answer = await ask_in_pieces(openai_model)
    assert pieces == []
    assert answer is not None
    assert answer.tool_calls[0]["args"] == {"city": "Paris"}
    assert answer.tool_calls[0]["id"].startswith("call_")


async def test_arguments_that_come_as_an_object(
    openai_model: OpenAIModel, server: FakeServer
) -> None:
    call = {"function": {"name": "weather", "arguments": {"city": "Paris"}}}
    server.will(replies.openai_reply(None, tool_calls=[call]))
    assert (await ask(openai_model)).tool_calls[0]["args"] == {"city": "Paris"}


async def test_a_stream_carries_the_whole_completion_at_its_end(
    openai_model: OpenAIModel, server: FakeServer
) -> None:
    server.will(replies.openai_stream("Paris"))
    pieces, answer = await ask_in_pieces(openai_model, logprobs=True)
    assert pieces == ["Par", "is"]
    assert answer is not None
    assert answer.text == "Paris"
    assert answer.usage == Usage(input_tokens=10, output_tokens=2)
    assert answer.logprobs == (TokenLogprob("Par", -0.1), TokenLogprob("is", -0.1))
    assert answer.latency_ms > 0
    assert server.last.body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "usage",
    [None, {}, "much", {"prompt_tokens": -1, "completion_tokens": 2.5}, {"prompt_tokens": True}],
)
async def test_impossible_usage_is_unknown(
    openai_model: OpenAIModel, server: FakeServer, usage: object
) -> None:
    server.will(replies.openai_reply("Paris", usage=usage))
    assert (await ask(openai_model)).usage == Usage()


async def test_thinking_is_kept_apart(openai_model: OpenAIModel, server: FakeServer) -> None:
    tokens = [{"token": t, "logprob": -0.5} for t in ("hm", "m", "</think>", "Paris")]
    server.will(replies.openai_reply("Paris", reasoning_content="hmm", logprobs=tokens))
    answer = await ask(openai_model, logprobs=True)
    assert (answer.text, answer.thinking) == ("Paris", "hmm")
    assert answer.logprobs == (TokenLogprob("Paris", -0.5),)


async def test_json_that_is_not_declared_as_json_is_read(
    openai_model: OpenAIModel, server: FakeServer
) -> None:
    body = json.dumps(replies.openai_body("Paris"))
    server.will(replies.text_reply(body, content_type="text/plain"))
    assert (await ask(openai_model)).text == "Paris"


async def test_the_key_is_sent(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from-environment")
    for given, sent in (("given", "given"), (None, "from-environment")):
        model = OpenAIModel("m", base_url=server.openai_url, api_key=given)
        await ask(model)
        assert server.last.headers["authorization"] == f"Bearer {sent}"
        await model.aclose()


def test_a_missing_key_is_an_error_before_the_first_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY"):
        OpenAIModel("gpt-4o")
    with pytest.raises(MissingKeyError, match=r"api\.example\.com"):
        OpenAIModel("m", base_url="https://api.example.com/v1")


async def test_without_aiohttp_the_default_transport_is_used(
    openai_model: OpenAIModel, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade.models.posting.find_spec", lambda _: None)
    assert (await ask(openai_model, "hi")).text == "HI"
    server.will(replies.DROP)
    with pytest.raises(Exception, match="broke before an answer") as caught:
        await ask(openai_model)
    assert caught.value.billed is None  # type: ignore[attr-defined]


async def test_what_is_no_http_at_all(server: FakeServer) -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello, who is there?\r\n\r\n")
        await writer.drain()
        writer.close()

    babbler = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = babbler.sockets[0].getsockname()[1]
    model = OpenAIModel("m", base_url=f"http://127.0.0.1:{port}/v1")
    with pytest.raises(Exception, match="connection broke"):
        await ask(model)
    await model.aclose()
    babbler.close()
    await babbler.wait_closed()


async def _raising(error: Exception) -> AsyncGenerator[object]:
    raise error
    yield


async def test_other_failures_of_the_client_are_not_hidden(
    openai_model: OpenAIModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(openai.AsyncOpenAI, "post", broken)
    monkeypatch.setattr(Post, "send", broken)
    monkeypatch.setattr(Post, "stream", lambda *_: _raising(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        await ask(openai_model)
    with pytest.raises(RuntimeError, match="a bug"):
        await anext(openai_model.stream(Request(messages=(HumanMessage("?"),))))
