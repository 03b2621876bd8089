"""What `ollama:` models send and read."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from cascade.errors import ConfigurationError, UnsupportedContentError
from cascade.models import Request
from cascade.models.ollama import OllamaModel
from tests.acceptance.upstream import Upstream
from tests.models.asking import ask, ask_in_pieces
from tests.servers import replies

CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"where": CITY}}}
CALL = {"function": {"name": "weather", "arguments": {"city": "Paris"}}}


async def test_every_setting_reaches_the_server(
    ollama_model: OllamaModel, server: Upstream
) -> None:
    plain: dict[str, Any] = {"temperature": 0.0, "seed": 1}
    asked: dict[str, Any] = {"logprobs": True, "top_logprobs": 3}
    extra = {"think": False, "num_ctx": 512, "options": {"top_k": 1}}
    more: dict[str, Any] = {"tools": (WEATHER,), "schema": CITY, "stop": ("\n",), "extra": extra}
    await ask(ollama_model, max_tokens=5, **plain, **asked, **more)
    sent = dict(server.last.body)
    assert sent.pop("messages") == [{"role": "user", "content": "Capital of France?"}]
    options = {**plain, "num_predict": 5, "stop": ["\n"], "num_ctx": 512, "top_k": 1}
    named = {"model": "qwen2.5:3b", "stream": False, "truncate": False, "think": False}
    assert sent == {**asked, **named, "tools": [WEATHER], "format": CITY, "options": options}


async def test_what_a_request_sets_goes_over_the_options_of_its_tier(server: Upstream) -> None:
    model = OllamaModel("m", base_url=server.url, options={"temperature": 1, "num_ctx": 64})
    await ask(model, temperature=0.0, max_tokens=9, extra={"num_predict": 5})
    assert server.last.body["options"] == {"temperature": 0.0, "num_ctx": 64, "num_predict": 5}
    await model.aclose()


async def test_the_conversation_arrives_in_ollama_form(
    ollama_model: OllamaModel, server: Upstream
) -> None:
    call = {"name": "weather", "args": {"city": "Paris"}, "id": "c1", "type": "tool_call"}
    conversation = (
        HumanMessage([{"type": "text", "text": text} for text in ("Here?", "Or there?")]),
        AIMessage("", tool_calls=[call]),
        ToolMessage("sunny", tool_call_id="c1", name="weather"),
    )
    await ollama_model.complete(Request(conversation))
    assert server.last.body["messages"] == [
        {"role": "user", "content": "Here?\nOr there?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "sunny", "tool_name": "weather"},
    ]


async def test_what_is_no_text_is_refused(ollama_model: OllamaModel, server: Upstream) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,cG5n"}}
    with pytest.raises(UnsupportedContentError, match=r"text alone.*Tier\('openai:qwen2.5:3b'"):
        await ollama_model.complete(Request((HumanMessage([image]),)))
    assert server.seen == []


async def test_tool_calls_in_several_parts_get_ids(
    ollama_model: OllamaModel, server: Upstream
) -> None:
    parts = [
        replies.ollama_body(tool_calls=[CALL]),
        replies.ollama_body(tool_calls=[CALL, CALL]),
        {**replies.ollama_body(), "done": True},
    ]
    server.will(replies.ndjson(parts))
    _, answer = await ask_in_pieces(ollama_model, tools=(WEATHER,))
    assert [call["args"] for call in answer.tool_calls] == [{"city": "Paris"}] * 3
    assert len({call["id"] for call in answer.tool_calls}) == 3
    assert answer.finish_reason == "tool_calls"


async def test_warming_has_the_server_load_the_model(
    ollama_model: OllamaModel, server: Upstream
) -> None:
    await ollama_model.warm()
    assert server.elsewhere == ["/api/chat"]


async def test_the_digest_is_the_servers(server: Upstream) -> None:
    listed = {"models": [{"model": "a:latest", "digest": "d1"}, {"model": "b:3b", "digest": "d2"}]}
    for name, digest in (("a", "d1"), ("b:3b", "d2"), ("c", None)):
        model = OllamaModel(name, base_url=server.url)
        server.will(replies.json_reply(listed))
        assert await model.digest() == digest
        await model.aclose()


@pytest.mark.parametrize(
    ("given", "environment", "address", "local"),
    [
        (None, None, "http://127.0.0.1:11434", True),
        (None, "0.0.0.0", "http://0.0.0.0:11434", True),
        ("localhost:5", "box:1", "http://localhost:5", True),
        (":5", None, "http://127.0.0.1:5", True),
        ("https://box/ollama", None, "https://box/ollama", False),
        ("[::1]:5", None, "http://[::1]:5", True),
    ],
)
def test_the_address_is_read_as_ollama_reads_it(
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
    environment: str | None,
    address: str,
    local: bool,
) -> None:
    if environment:
        monkeypatch.setenv("OLLAMA_HOST", environment)
    model = OllamaModel("m", base_url=given)
    assert (model.server, model.local) == (address, local)


@pytest.mark.parametrize("given", ["ftp://box", "box:port", "http://:1:2"])
def test_an_address_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(ConfigurationError, match=r"http://127\.0\.0\.1:11434"):
        OllamaModel("m", base_url=given)
