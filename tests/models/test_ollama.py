"""What the `ollama:` adapter sends and reads, with the official client."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from cascade.errors import UnsupportedContentError
from cascade.models.base import Request
from cascade.models.ollama import OllamaModel
from cascade.state import TokenLogprob, Usage
from tests.models.asking import ask, ask_in_pieces, question
from tests.servers import replies
from tests.servers.fake import FakeServer

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"where": {"type": "object", "properties": {"city": {"type": "string"}}}},
        },
    },
}


def tokens(*spelled: str) -> list[dict[str, object]]:
    return [{"token": token, "logprob": -0.5} for token in spelled]


async def test_a_plain_answer_with_everything_that_came_along(
    ollama_model: OllamaModel, server: FakeServer
) -> None:
    logprobs = [
        {"token": "Par", "logprob": -0.1, "top_logprobs": [{"token": "Lon", "logprob": -3.0}]},
        {"token": "is", "logprob": -0.2},
    ]
    server.will(replies.ollama_reply("Paris", logprobs=logprobs))
    answer = await ask(ollama_model, logprobs=True, top_logprobs=1)
    assert answer.text == "Paris"
    assert answer.model == "served"
    assert answer.usage == Usage(input_tokens=10, output_tokens=2)
    assert answer.logprobs == (
        TokenLogprob("Par", -0.1, (("Lon", -3.0),)),
        TokenLogprob("is", -0.2),
    )
    assert answer.finish_reason == "stop"
    assert answer.busy_ms == 5.0, "reading and writing; loading is not computing"
    assert answer.latency_ms > 0


async def test_every_setting_reaches_the_server(
    ollama_model: OllamaModel, server: FakeServer
) -> None:
    schema = {"type": "object"}
    await ask(
        ollama_model,
        max_tokens=5,
        temperature=0.0,
        stop=("\n",),
        seed=1,
        logprobs=True,
        top_logprobs=3,
        tools=(WEATHER,),
        schema=schema,
        extra={"think": False, "keep_alive": "5m", "num_ctx": 512, "options": {"top_k": 1}},
    )
    sent = dict(server.last.body)
    sent.pop("messages")
    assert sent == {
        "model": "qwen2.5:3b",
        "stream": False,
        "tools": [WEATHER],
        "format": schema,
        "logprobs": True,
        "top_logprobs": 3,
        "truncate": False,
        "think": False,
        "keep_alive": "5m",
        "options": {
            "num_predict": 5,
            "temperature": 0.0,
            "stop": ["\n"],
            "seed": 1,
            "num_ctx": 512,
            "top_k": 1,
        },
    }


async def test_options_of_the_model_go_with_every_request(server: FakeServer) -> None:
    model = OllamaModel("m", base_url=server.url, options={"keep_alive": 0, "num_ctx": 64})
    await ask(model, extra={"num_ctx": 128})
    assert server.last.body["keep_alive"] == 0
    assert server.last.body["options"] == {"num_ctx": 128}
    await model.aclose()


async def test_the_conversation_arrives_in_ollama_form(
    ollama_model: OllamaModel, server: FakeServer
) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,cG5n"}}
    call = {"name": "weather", "args": {"city": "Paris"}, "id": "c1", "type": "tool_call"}
    conversation = (
        HumanMessage([{"type": "text", "text": "Here?"}, image]),
        AIMessage("", tool_calls=[call]),
        ToolMessage("sunny", tool_call_id="c1", name="weather"),
    )
    server.will(replies.json_reply({"capabilities": ["vision"]}), replies.ollama_reply("ok"))
    await ollama_model.complete(Request(conversation))
    assert server.last.body["messages"] == [
        {"role": "user", "content": "Here?", "images": ["cG5n"]},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Paris"}}}],
        },
        {"role": "tool", "content": "sunny", "tool_name": "weather"},
    ]


async def test_an_image_behind_an_address_is_refused(ollama_model: OllamaModel) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    with pytest.raises(UnsupportedContentError, match="base64"):
        await ollama_model.complete(Request((HumanMessage([image]),)))


async def test_an_image_for_a_text_model_is_refused(
    ollama_model: OllamaModel, server: FakeServer
) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,cG5n"}}
    for _ in range(2):
        with pytest.raises(UnsupportedContentError, match="cannot see"):
            await ollama_model.complete(Request((HumanMessage([image]),)))
    assert [received.path for received in server.received] == ["/api/show"], "asked once"


async def test_a_server_that_does_not_tell_capabilities_is_trusted(
    ollama_model: OllamaModel, server: FakeServer
) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,cG5n"}}
    server.will(replies.json_reply({}), replies.ollama_reply("a cat"))
    assert (await ollama_model.complete(Request((HumanMessage([image]),)))).text == "a cat"


async def test_a_tool_cannot_be_forced_and_can_be_forbidden(
    ollama_model: OllamaModel, server: FakeServer
) -> None:
    with pytest.raises(UnsupportedContentError, match="tool_choice='required'"):
        await ask(ollama_model, tools=(WEATHER,), tool_choice="required")
    await ask(ollama_model, tools=(WEATHER,), tool_choice="none")
    assert "tools" not in server.last.body


async def test_tool_calls_get_ids(ollama_model: OllamaModel, server: FakeServer) -> None:
    call = {"function": {"name": "weather", "arguments": {"city": "Paris"}}}
    server.will(replies.ollama_reply("", tool_calls=[call, call]))
    answer = await ask(ollama_model, tools=(WEATHER,))
    first, second = answer.tool_calls
    assert first["args"] == {"city": "Paris"}
    assert first["id"] != second["id"]
    assert answer.finish_reason == "tool_calls"


async def test_tokens_of_thinking_are_cut_out(
    ollama_model: OllamaModel, server: FakeServer
) -> None:
    spelled = tokens("<think>", "Paris", "?", "</think>", "\n\n", "Paris")
    server.will(replies.ollama_reply("Paris", thinking="Paris?", logprobs=spelled))
    answer = await ask(ollama_model, logprobs=True)
    assert answer.thinking == "Paris?"
    assert answer.logprobs == (TokenLogprob("Paris", -0.5),)


async def test_tokens_that_do_not_spell_the_answer_are_no_logprobs(
    ollama_model: OllamaModel, server: FakeServer
) -> None:
    server.will(replies.ollama_reply("Paris", logprobs=tokens("some", "thing")))
    assert (await ask(ollama_model, logprobs=True)).logprobs is None


async def test_an_older_server_returns_none(ollama_model: OllamaModel, server: FakeServer) -> None:
    server.will(replies.ollama_reply("Paris"))
    assert (await ask(ollama_model, logprobs=True)).logprobs is None


async def test_missing_or_impossible_counts_are_unknown(
    ollama_model: OllamaModel, server: FakeServer
) -> None:
    server.will(
        replies.ollama_reply("Paris", prompt_eval_count=None, eval_count=-2),
        replies.ollama_reply("Paris", prompt_eval_duration=None, eval_duration="x"),
    )
    assert (await ask(ollama_model)).usage == Usage()
    assert (await ask(ollama_model)).busy_ms is None


async def test_a_stream_carries_the_whole_completion_at_its_end(
    ollama_model: OllamaModel, server: FakeServer
) -> None:
    server.will(replies.ollama_stream("Paris"))
    pieces, answer = await ask_in_pieces(ollama_model, logprobs=True)
    assert pieces == ["Par", "is"]
    assert answer is not None
    assert answer.text == "Paris"
    assert answer.usage == Usage(input_tokens=10, output_tokens=2)
    assert answer.logprobs == (TokenLogprob("Par", -0.1), TokenLogprob("is", -0.1))
    assert answer.busy_ms == 5.0


async def test_thinking_in_a_stream_is_no_answer(
    ollama_model: OllamaModel, server: FakeServer
) -> None:
    parts = [replies.ollama_body("", done=False, thinking="hm"), *replies.ollama_chunks("Paris")]
    server.will(replies.ndjson(parts))
    pieces, answer = await ask_in_pieces(ollama_model)
    assert pieces == ["Par", "is"]
    assert answer is not None
    assert answer.thinking == "hm"


@pytest.mark.parametrize(
    ("given", "environment", "address", "local"),
    [
        (None, None, "http://127.0.0.1:11434", True),
        (None, "0.0.0.0", "http://0.0.0.0:11434", True),
        (None, "box:1", "http://box:1", False),
        ("localhost:5", "box:1", "http://localhost:5", True),
        ("https://user:pw@box/ollama", None, "https://box:443/ollama", False),
        ("[::1]:5", None, "http://[::1]:5", True),
    ],
)
def test_where_the_server_is(
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
    environment: str | None,
    address: str,
    local: bool,
) -> None:
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    if environment:
        monkeypatch.setenv("OLLAMA_HOST", environment)
    model = OllamaModel("m", base_url=given)
    assert model._caller.address == address
    assert model.local is local


async def test_a_key_is_sent_as_bearer_token(server: FakeServer) -> None:
    model = OllamaModel("m", base_url=server.url, api_key="secret")
    await model.complete(question())
    assert server.last.headers["authorization"] == "Bearer secret"
    await model.aclose()
