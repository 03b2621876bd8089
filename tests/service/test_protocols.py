"""The three protocols, with their official clients."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import ollama
import openai
import pytest
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from cascade.service import wire
from cascade.service.anthropic import CountRequest, conversation
from tests.acceptance.upstream import Answer, Held, Upstream, failure
from tests.service.conftest import ASKED, Serve, Served

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
CALL = Answer("", calls=(("weather", {"city": "Canberra"}),), tokens=(100, 10))

PNG = "data:image/png;base64,aaaa"
CHOICE = {"type": "function", "function": {"name": "weather"}}
MARK = {"cache_control": {"type": "ephemeral"}}

CHAT: Any = ("/v1/chat/completions", {"messages": ASKED})
RESPONSE: Any = ("/v1/responses", {"input": "Capital?"})
MESSAGE: Any = ("/v1/messages", {"messages": ASKED, "max_tokens": 9})
OLLAMA: Any = ("/api/chat", {"messages": ASKED})


def client_of(kind: Any, url: str, served: Served, http: Any) -> Any:
    client = http.AsyncClient(transport=http.ASGITransport(served.app))
    return kind(base_url=url, api_key=served.secret, http_client=client, max_retries=0)


def openai_of(served: Served) -> openai.AsyncOpenAI:
    return client_of(openai.AsyncOpenAI, "http://127.0.0.1/v1", served, httpx)


def anthropic_of(served: Served) -> anthropic.AsyncAnthropic:
    return client_of(anthropic.AsyncAnthropic, "http://127.0.0.1", served, httpx2)


# --- OpenAI


async def test_an_answer_says_which_model_gave_it(served: Served, upstream: Upstream) -> None:
    answer = await served.ask()
    assert answer.status_code == 200
    body, told = answer.json(), answer.headers
    assert body["choices"][0]["message"]["content"] == "Canberra"
    assert (told["x-cascade-tier"], told["x-cascade-escalated"]) == ("small", "false")
    assert told["x-cascade-reason"].startswith("uncalibrated score 0.95")
    assert told["x-cascade-cost-usd"] == "0.00011"
    assert told["x-cascade-run-id"] == body["cascade"]["run_id"]
    assert "≥" in body["cascade"]["reason"]


async def test_an_answer_names_no_folder_of_a_model(serve: Serve, upstream: Upstream) -> None:
    access = {"base_url": upstream.openai_url, "api_key_env": "UPSTREAM_KEY"}
    tiers = [{"model": f"openai:{name}", **access} for name in ("/srv/models/small.gguf", "large")]
    async with serve(cascades={"support": {"tiers": tiers}}) as served:
        answer, shown = await served.ask(), await served.post(("/api/show", {}))
    assert answer.headers["x-cascade-model"] == "openai:small.gguf"
    assert "/srv" not in shown.text


async def test_a_fallbacks_answer_names_its_model(serve: Serve, upstream: Upstream) -> None:
    upstream.says("small", Answer("draft", p=0.3))
    upstream.says("large", failure(503))
    access = {"base_url": upstream.openai_url, "api_key_env": "UPSTREAM_KEY"}
    other = {"model": "openai:other", **access}
    async with serve(cascades={"support": {"fallback": other}}) as served:
        told = (await served.ask()).headers
    assert (told["x-cascade-tier"], told["x-cascade-model"]) == ("fallback", "openai:other")


async def test_a_stream_has_its_headers_once_decided(served: Served, upstream: Upstream) -> None:
    upstream.says("small", Answer("draft", p=0.3))
    answer = await served.ask(stream=True, stream_options={"include_usage": True})
    assert answer.headers["x-cascade-tier"] == "large"
    assert answer.headers["x-cascade-escalated"] == "true"
    lines = [line for line in answer.text.splitlines() if line.startswith("data: {")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    text = "".join(e["choices"][0]["delta"].get("content") or "" for e in events if e["choices"])
    assert text == "It is Canberra"
    assert events[-1]["usage"]["completion_tokens"] == 10
    assert events[-2]["cascade"]["tier"] == "large"


async def test_log_probs_and_alternatives_come_back(served: Served) -> None:
    answer = await openai_of(served).chat.completions.create(
        model="support", messages=ASKED, logprobs=True, top_logprobs=1
    )
    content = answer.choices[0].logprobs and answer.choices[0].logprobs.content
    assert content
    assert content[0].logprob == pytest.approx(-0.0513, abs=1e-3)


async def test_json_that_is_no_object_is_escalated(served: Served, upstream: Upstream) -> None:
    upstream.says("small", Answer("[1]", p=0.99))
    upstream.says("large", Answer('{"city": 1}'))
    answer = await served.ask(response_format={"type": "json_object"})
    assert answer.headers["x-cascade-tier"] == "large"


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"model": NaN}', b'{"model": "\\ud800"}', b'{"x": 1e999}']
)
async def test_a_body_that_is_no_json_object_is_refused(served: Served, raw: bytes) -> None:
    answer = await served.client.post("/v1/chat/completions", content=raw)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_wishes_in_headers_go_over_the_body(served: Served, upstream: Upstream) -> None:
    headers = {"X-Cascade-Price-Of-Error": "10", "X-Cascade-Tags": '{"user": "ada"}'}
    answer = await served.ask(headers, cascade={"price_of_error": 1e-9})
    rows = await served.gateway.store.rows(columns=["tags"])
    assert answer.headers["x-cascade-tier"] == "large"
    assert rows[0][0]["user"] == "ada"
    for name, value in (("Tags", "ada"), ("Local-Only", "perhaps"), ("Colour", "red")):
        bad = await served.ask({f"X-Cascade-{name}": value})
        assert bad.status_code == 400
        assert f"cascade.{name.lower().replace('-', '_')}" in bad.json()["error"]["message"]


async def test_models_are_listed(served: Served) -> None:
    (model,) = [model async for model in openai_of(served).models.list()]
    assert model == await openai_of(served).models.retrieve("support")
    assert (model.id, model.owned_by) == ("support", "cascade")
    (other,) = [model async for model in anthropic_of(served).models.list()]
    assert other == await anthropic_of(served).models.retrieve("support")
    with pytest.raises(openai.NotFoundError, match="gone"):
        await openai_of(served).models.retrieve("gone")


# --- OpenAI's responses


async def test_items_of_an_agents_loop_keep_their_order(served: Served, upstream: Upstream) -> None:
    items: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "a", "name": "weather", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "sun"},
        {"type": "function_call_output", "call_id": "b", "output": "rain"},
        {"role": "user", "content": [{"type": "input_image", "image_url": PNG, "detail": "low"}]},
    ]
    tool: Any = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}
    await openai_of(served).responses.create(model="support", input=items, tools=[tool])
    sent = upstream.asked("small")[0].body["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool", "user"]
    assert len(sent[1]["tool_calls"]) == 2
    assert sent[4]["content"][0]["image_url"] == {"url": PNG, "detail": "low"}


async def test_a_responses_stream_is_in_order(served: Served, upstream: Upstream) -> None:
    upstream.says("small", CALL)
    upstream.says("large", CALL)
    tool: Any = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}
    asked: Any = {"model": "support", "input": "Weather?", "stream": True}
    create = openai_of(served).responses.create
    events = [event async for event in await create(**asked, tools=[tool])]
    kinds = [event.type async for event in await create(**asked, tools=[])]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    assert events[-1].response.output[0].name == "weather"
    assert kinds[-1] == "response.completed"


# --- Anthropic


async def test_a_message_is_answered_with_its_usage(served: Served, upstream: Upstream) -> None:
    cached = {"prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 20}}
    upstream.says("small", Answer("Canberra", p=0.95, tokens=(100, 10), details=cached))
    answer = await anthropic_of(served).messages.create(
        model="support", max_tokens=50, messages=ASKED, system="Be short."
    )
    assert answer.content[0].text == "Canberra"  # type: ignore[union-attr]
    usage = answer.usage
    assert (usage.input_tokens, usage.output_tokens) == (40, 10)
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (40, 20)
    assert answer.stop_reason == "end_turn"
    sent = upstream.asked("small")[0].body
    assert sent["max_tokens"] == 50
    assert sent["messages"][0] == {"role": "system", "content": "Be short."}


async def test_a_coding_agents_twenty_calls_go_through(served: Served, upstream: Upstream) -> None:
    tool: Any = {"name": "weather", "description": "It.", "input_schema": SCHEMA, **MARK}
    rules = {"type": "text", "text": "Rules.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    asked: Any = {
        "model": "support",
        "max_tokens": 50,
        "system": [{"type": "text", "text": "You help. " * 50}, rules],
        "tools": [tool],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "metadata": {"user_id": "u"},
        "messages": list(ASKED),
    }
    two = (("weather", {"city": "Perth"}), ("weather", {"city": "Sydney"}))
    client = anthropic_of(served)
    for turn in range(10):
        upstream.says("small", Answer("", calls=two))
        upstream.says("large", Answer("", calls=two))
        async with client.messages.stream(**asked) as stream:
            answer = await stream.get_final_message()
        calls = [block for block in answer.content if block.type == "tool_use"]
        assert answer.stop_reason == "tool_use"
        assert [call.input for call in calls] == [{"city": "Perth"}, {"city": "Sydney"}]
        result = {"type": "tool_result", "content": f"sun {turn}"}
        results = [{**result, "tool_use_id": call.id} for call in calls]
        asked["messages"].append({"role": "assistant", "content": answer.content})
        asked["messages"].append({"role": "user", "content": results})
    sent = upstream.asked("large")[-1].body["messages"]
    assert [m["role"] for m in sent[:5]] == ["system", "user", "assistant", "tool", "tool"]
    assert sent[3]["tool_call_id"] == sent[2]["tool_calls"][0]["id"]


PAGES = {"type": "base64", "media_type": "application/pdf", "data": "aaaa"}
PDF = {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aaaa"}
PIXELS = {"type": "base64", "media_type": "image/png", "data": "aaaa"}
RESULT = {"type": "tool_result", "tool_use_id": "t"}
CALLED = {"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "x"}}


@pytest.mark.parametrize(
    ("block", "sent"),
    [
        ({"type": "image", "source": PIXELS}, [{"type": "image_url", "image_url": {"url": PNG}}]),
        (
            {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}},
            [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}],
        ),
        ({"type": "document", "source": {"type": "text", "data": "s"}}, "s"),
        ({"type": "document", "source": PAGES, "title": "a.pdf"}, [{"type": "file", "file": PDF}]),
        ({"type": "text", "text": "s", **MARK}, [{"type": "text", "text": "s", **MARK}]),
        ({**RESULT, "content": "no"}, "no"),
        ({**RESULT, "content": "no", "is_error": True}, "Error: no"),
    ],
)
def test_blocks_of_messages_become_parts_of_ours(block: dict[str, Any], sent: Any) -> None:
    said = [{"type": "thinking", "thinking": "…"}, {"type": "text", "text": "Well."}, CALLED]
    turns = [{"role": "assistant", "content": said}, {"role": "user", "content": [block]}]
    body = {"model": "x", "messages": [*ASKED, *turns]}
    asked, answered, last = conversation(CountRequest.model_validate(body))
    assert (asked.type, answered.content, last.content) == ("human", "Well.", sent)


async def test_tokens_are_counted_roughly_and_say_so(served: Served, upstream: Upstream) -> None:
    counted = await anthropic_of(served).messages.count_tokens(model="support", messages=ASKED)
    assert 5 < counted.input_tokens < 40
    assert upstream.seen == []


# --- Ollama


async def test_ollamas_api_generates_lists_and_shows(served: Served, upstream: Upstream) -> None:
    body = {"prompt": "Capital?", "system": "Be short.", "model": "support:latest"}
    pieces = (await served.post(("/api/generate", body))).text.splitlines()
    there = (await served.client.get("/api/tags")).json()
    shown = await served.post(("/api/show", {}))
    assert "".join(json.loads(piece)["response"] for piece in pieces) == "Canberra"
    assert json.loads(pieces[-1])["done_reason"] == "stop"
    assert ollama.ListResponse.model_validate(there).models[0].model == "support"
    assert ollama.ShowResponse.model_validate(shown.json()).capabilities == ["completion", "tools"]
    assert upstream.asked("small")[0].body["messages"][0]["role"] == "system"


@pytest.mark.parametrize("asked", ["/api/generate", "/api/chat"])
async def test_a_model_is_loaded_by_asking_nothing(
    served: Served, upstream: Upstream, asked: str
) -> None:
    answer = await served.post((asked, {}))
    assert (answer.status_code, answer.json()["done_reason"]) == (200, "load")
    assert upstream.seen == []


async def test_a_body_without_a_content_type_is_json(served: Served) -> None:
    raw = json.dumps({"model": "support", "messages": ASKED, "stream": False}).encode()
    answer = await served.client.post("/api/chat", content=raw)
    version = await served.client.get("/api/version")
    assert answer.json()["message"]["content"] == "Canberra"
    assert tuple(map(int, version.json()["version"].split("."))) >= (0, 5, 0)


async def test_results_of_tools_find_their_calls(served: Served, upstream: Upstream) -> None:
    call = {"function": {"name": "weather", "arguments": {"city": "Perth"}}}
    messages = [
        *ASKED,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_name": "weather", "content": "sun"},
        {"role": "user", "content": "And this?", "images": ["/9j/aaaa"]},
    ]
    body = {"model": "support", "messages": messages, "stream": False}
    answer = await served.client.post("/api/chat", json=body)
    sent = upstream.asked("small")[0].body["messages"]
    assert answer.status_code == 200
    assert sent[2]["tool_call_id"] == sent[1]["tool_calls"][0]["id"]
    assert sent[3]["content"][1]["image_url"]["url"].startswith("data:image/jpeg;base64,")


# --- what goes on to the tiers

OPEN = {**SCHEMA, "required": []}
FORM = {"type": "json_schema", "schema": OPEN}
NAMED_FORM = {"name": "town", "description": "A town.", "strict": True, "schema": OPEN}
UNNAMED_FORM = {"name": "answer", "schema": OPEN}
OBJECT = {"type": "json_object"}


@pytest.mark.parametrize(
    ("asked", "given", "sent"),
    [
        (CHAT, {"response_format": OBJECT}, OBJECT),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": NAMED_FORM}}, NAMED_FORM),
        (RESPONSE, {"text": {"format": {"type": "json_schema", **NAMED_FORM}}}, NAMED_FORM),
        (MESSAGE, {"output_config": {"format": FORM, "effort": "low"}}, UNNAMED_FORM),
        (OLLAMA, {"format": OPEN}, UNNAMED_FORM),
        (OLLAMA, {"format": "json"}, OBJECT),
    ],
)
async def test_a_response_format_goes_on_as_it_came(
    served: Served, upstream: Upstream, asked: Any, given: Any, sent: dict[str, Any]
) -> None:
    upstream.says("small", Answer('{"city": "Canberra"}', p=0.95))
    assert (await served.post(asked, **given)).status_code == 200
    form = upstream.asked("small")[0].body["response_format"]
    assert form == (sent if sent is OBJECT else {"type": "json_schema", "json_schema": sent})


COMMON = {"temperature": 0.5, "top_p": 0.2}
NAMED = {"name": "weather", "parameters": SCHEMA}
CHATS = {**COMMON, "seed": 7, "frequency_penalty": 0.5, "max_tokens": 9, "tools": [TOOL]}
CHATS["tool_choice"] = CHOICE
MARKED = {"name": "weather", "input_schema": SCHEMA, **MARK}
TOLD = {**COMMON, "stop_sequences": ["END"], "tools": [MARKED]}
HEARD = {
    **COMMON,
    "stop": ["END"],
    "max_tokens": 9,
    "tools": [{"type": "function", "function": NAMED}],
}


@pytest.mark.parametrize(
    ("asked", "given", "sent"),
    [
        (CHAT, {**CHATS, "stop": "END", "user": "ada"}, {**CHATS, "stop": ["END"], "user": None}),
        (
            RESPONSE,
            {
                **COMMON,
                "max_output_tokens": 9,
                "truncation": "disabled",
                "reasoning": {"effort": "low"},
                "tools": [{"type": "function", **NAMED, "strict": True}],
                "tool_choice": {"type": "function", "name": "weather"},
            },
            {
                **COMMON,
                "max_tokens": 9,
                "reasoning_effort": "low",
                "tool_choice": CHOICE,
                "tools": [{"type": "function", "function": {**NAMED, "strict": True}}],
            },
        ),
        *(
            (MESSAGE, {**TOLD, "tool_choice": choice}, {**HEARD, "tool_choice": sent})
            for choice, sent in (
                ({"type": "tool", "name": "weather"}, CHOICE),
                ({"type": "any"}, "required"),
                ({"type": "none"}, "none"),
            )
        ),
        (
            OLLAMA,
            {"options": {**COMMON, "num_predict": 7, "seed": 3, "stop": ["END"]}, "tools": [TOOL]},
            {**COMMON, "max_tokens": 7, "seed": 3, "stop": ["END"], "tools": [TOOL]},
        ),
    ],
)
async def test_settings_become_those_of_the_tiers(
    served: Served, upstream: Upstream, asked: Any, given: dict[str, Any], sent: dict[str, Any]
) -> None:
    upstream.says("small", CALL)
    upstream.says("large", CALL)
    answer = await served.post(asked, **given)
    body = upstream.asked("small")[0].body
    assert {name: body.get(name) for name in sent} == sent
    assert "weather" in answer.text


async def test_a_chats_messages_may_be_of_all_kinds(served: Served, upstream: Upstream) -> None:
    messages = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}], "name": "ada"},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "user", "content": [{"type": "refusal", "refusal": "Why?"}]},
    ]
    await served.ask(messages=messages)
    sent = upstream.asked("small")[0].body["messages"]
    told = [(message["role"], message["content"]) for message in sent]
    assert told == [
        ("system", "Be short."), ("user", "Weather?"), ("assistant", "No."), ("user", "Why?"),
    ]  # fmt: skip


BAD_CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}


def _says(content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content}]}


@pytest.mark.parametrize(
    ("asked", "body", "said"),
    [
        (CHAT, {"messages": []}, "messages"),
        (CHAT, _says("x", "king"), "messages.0.role"),
        (CHAT, _says("x", "tool"), "tool_call_id"),
        (CHAT, {"messages": [*ASKED, {"role": "assistant", "tool_calls": [BAD_CALL]}]}, "a JSON"),
        (CHAT, _says([{"type": "video"}]), "messages.0.content.0: of type 'video'"),
        (CHAT, _says("  "), "empty"),
        (CHAT, {"n": 2}, "n"),
        (CHAT, {"stop": 5}, "stop: Input should be a valid string"),
        (CHAT, {"base_url": "http://evil"}, "base_url: not supported"),
        (CHAT, {"functions": []}, "functions: not supported"),
        (CHAT, {"keep_alive": 5}, "has no such parameter"),
        (CHAT, {"response_format": {"type": "xml"}}, "response_format: Input tag 'xml' found"),
        (CHAT, {"cascade": {"deadline": 5e-324}}, "cascade.deadline"),
        (CHAT, {"cascade": {"price_of_error": -1}}, "cascade.price_of_error"),
        (CHAT, {"cascade": "x"}, "cascade"),
        (RESPONSE, {"input": [{"type": "file_search_call"}]}, "file_search_call"),
        (RESPONSE, {"input": [{"role": "user"}]}, "input.0"),
        (RESPONSE, {"input": [{"role": "user", "content": [{"type": "audio"}]}]}, "audio"),
        (RESPONSE, {"background": True}, "background"),
        (RESPONSE, {"previous_response_id": "c"}, "give the whole conversation"),
        (RESPONSE, {"text": {"format": {"type": "json_schema"}}}, "text.format.name"),
        (MESSAGE, {"max_tokens": None}, "max_tokens"),
        (MESSAGE, {"tools": [{"type": "bash_20250124", "name": "bash"}]}, "bash_20250124"),
        (MESSAGE, _says([{}]), "messages.0.content.0"),
        (MESSAGE, _says([{"type": "document", "source": {"file_id": "x"}}]), "of type 'document'"),
        *((MESSAGE, _says([{**RESULT, "content": odd}]), "messages.0") for odd in ([1], 5)),
        (OLLAMA, {"options": {"num_predict": "x"}}, "options.num_predict"),
        (OLLAMA, {"messages": [{"role": "tool", "content": "x"}]}, "has no call before it"),
        (("/api/generate", {"prompt": "x"}), {"raw": True}, "raw: not supported"),
    ],
)
async def test_what_cannot_be_obeyed_is_refused_with_its_name(
    served: Served, upstream: Upstream, asked: Any, body: dict[str, Any], said: str
) -> None:
    answer = await served.post(asked, **body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert said in (error if isinstance(error, str) else error["message"])
    assert upstream.seen == []


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [({}, 404, "not_found_error"), ({"Authorization": "x"}, 401, "authentication_error")],
)
async def test_errors_have_anthropics_form(
    served: Served, headers: dict[str, str], status: int, kind: str
) -> None:
    body = {**MESSAGE[1], "model": "gone"}
    answer = await served.client.post("/v1/messages", json=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)


# --- failures


@pytest.mark.parametrize("asked", [CHAT, MESSAGE, OLLAMA])
async def test_each_protocol_has_its_errors(served: Served, upstream: Upstream, asked: Any) -> None:
    for name in ("small", "large"):
        upstream.says(name, failure(503, "http://10.1.2.3/secret"))
    for stream in (False, True):
        answer = await served.post(asked, stream=stream)
        said = answer.json()["error"]
        assert answer.status_code == 502
        assert "unavailable" in (said if asked is OLLAMA else said["message"])
        assert "10.1.2.3" not in answer.text


@pytest.mark.parametrize(
    "path",
    ["/v1/embeddings", "/v1/images/generations", "/v1/files", "/v1/completions", "/api/ps",
     "/api/pull", "/v1/messages/batches", "/nothing"],
)  # fmt: skip
async def test_what_is_not_served_says_what_is_by_protocol(served: Served, path: str) -> None:
    answer = await served.client.post(path, json={})
    assert answer.status_code == 404
    said = answer.json()["error"]
    message = said if isinstance(said, str) else said["message"]
    assert "is not served here; there are" in message
    assert ("/api/chat" if path.startswith("/api") else "/v1/chat/completions") in message


# --- no answer on purpose, half an answer, and several at once


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (CHAT, '"refusal":"No answer: '),
        (RESPONSE, '"type":"refusal","refusal":"No answer: '),
        (MESSAGE, '"stop_reason":"refusal"'),
        (OLLAMA, '"content":"No answer: '),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_where_there_is_no_answer_on_purpose_each_protocol_says_so(
    tmp_path: Path, serve: Serve, upstream: Upstream, asked: Any, told: str, stream: bool
) -> None:
    upstream.says("small", Answer("draft", p=0.3))
    async with serve() as served:
        path = tmp_path / "cascade.yaml"
        head, large = path.read_text().split("openai:large")
        path.write_text(f"{head}openai:large{large.replace('max_', 'local: false, max_', 1)}")
        assert (await served.gateway.reload())["problems"] == []
        answer = await served.post(asked, stream=stream, cascade={"local_only": "abstain"})
    assert answer.status_code == 200
    assert told in answer.text
    assert "draft" not in answer.text.replace("drafts", "").partition('"cascade"')[0]
    assert upstream.asked("large") == []


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (CHAT, '"finish_reason":"length"'),
        (RESPONSE, '"reason":"max_output_tokens"'),
        (MESSAGE, '"stop_reason":"max_tokens"'),
        (OLLAMA, '"done_reason":"length"'),
    ],
)
async def test_an_answer_that_was_cut_short_says_so(
    served: Served, upstream: Upstream, asked: Any, told: str
) -> None:
    upstream.says("small", Answer("Canb", p=0.99, finish="length"))
    upstream.says("large", Answer("Canb", p=0.99, finish="length"))
    for stream in (False, True):
        assert told in (await served.post(asked, stream=stream)).text


async def streamed(served: Served, upstream: Upstream, held: Held, asked: Any) -> httpx.Response:
    """The answer to a stream whose large model waits until it was asked for a while."""
    asking = asyncio.create_task(served.post(asked, stream=True))
    await upstream.has_asked(1, "large")
    await asyncio.sleep(0.05)
    held.release()
    return await asking


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (RESPONSE, "event: response.failed"),
        (MESSAGE, "event: error"),
        (OLLAMA, '{"error":"'),
        (CHAT, 'data: {"error":'),
    ],
)
async def test_a_large_model_that_dies_in_mid_stream_is_counted_and_told(
    served: Served, upstream: Upstream, asked: Any, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    held = Held()
    upstream.says("small", failure(503))
    upstream.says("large", Answer("one two three four", held=held, first=2, broken_after=3))
    answer = await streamed(served, upstream, held, asked)
    (way,) = served.gateway.ways
    metrics = (await served.client.get("/metrics")).text
    entries = await served.gateway.store.entries()
    assert answer.status_code == 200
    assert told in answer.text
    assert "127.0.0.1" not in answer.text
    assert way.error in ("broke off", "unavailable")
    assert {entry.outcome for entry in entries if entry.node == "expert"} == {"failed"}
    assert {entry.run_id for entry in entries} == {way.run_id}
    assert 'cascade_requests_total{cascade="support"' in metrics
    assert any(way.run_id in record.message for record in caplog.records)


async def test_many_calls_are_read_in_a_time_that_grows_with_them_alone(served: Served) -> None:
    """With their squares it would be minutes, in which nobody is answered."""
    numbers = range(1_200)
    calls = [{"function": {"name": f"f{n}", "arguments": {}}} for n in numbers]
    results = [{"role": "tool", "tool_name": f"f{n}", "content": "x"} for n in reversed(numbers)]
    messages = [{"role": "assistant", "content": "", "tool_calls": calls}, *results]
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
    began = time.thread_time()
    for asked in (
        ("/api/chat", {"messages": messages}),
        ("/v1/responses", {"input": [call] * 3_500}),
    ):
        assert (await served.post(asked)).status_code == 200
    assert time.thread_time() - began < 5


@pytest.mark.parametrize("retries", [1, 2])
@pytest.mark.parametrize("asked", [RESPONSE, MESSAGE, OLLAMA, CHAT])
async def test_words_that_were_sent_are_not_followed_by_another_answer(
    serve: Serve, upstream: Upstream, asked: Any, retries: int
) -> None:
    """A large model breaks off and is asked again, or the draft is taken in its place."""
    held = Held()
    upstream.echoes("small", 0.3, "a rejected draft")
    upstream.next("large", Answer("one two three", held=held, first=2, broken_after=3))
    async with serve(cascades={"support": {"retries": retries}}) as served:
        answer = await streamed(served, upstream, held, asked)
        (way,) = served.gateway.ways
    assert "one" in answer.text
    assert "ask again, or without stream" in answer.text
    assert "draft" not in answer.text
    assert "Canberra" not in answer.text
    assert way.error == "broke off"


async def test_a_client_that_leaves_while_it_reads_nothing_ends_its_run(
    served: Served, upstream: Upstream
) -> None:
    upstream.says("small", Answer("draft", p=0.3))
    upstream.says("large", Answer("one two three four", held=Held(), first=2))
    reading = asyncio.Event()
    body = json.dumps({"model": "support", "messages": ASKED, "stream": True}).encode()
    told = [{"type": "http.request", "body": body}]

    async def receive() -> Any:
        if not told:
            await reading.wait()
        return told.pop() if told else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message.get("body"):
            reading.set()
            await asyncio.Event().wait()

    path, key = "/v1/chat/completions", f"Bearer {served.secret}".encode()
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b""}
    await served.app({**scope, "headers": [(b"authorization", key)]}, receive, send)
    left = [(way.error, way.reason) for way in served.gateway.ways]
    assert left == [("the client left", "large: stopped")]


async def test_a_stream_that_waits_says_that_it_lives(
    served: Served, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, waits = Held(), itertools.count()

    async def heard(news: asyncio.Event, real: Any = wire._heard) -> None:
        await upstream.has_asked(1, "large")
        await real(news)
        if next(waits) > 1:
            held.release()

    monkeypatch.setattr(wire, "PING_S", 0.02)
    monkeypatch.setattr(wire, "_heard", heard)
    upstream.says("small", Answer("draft", p=0.3))
    upstream.says("large", Answer("Canberra", held=held))
    answer = await served.ask(stream=True)
    assert answer.headers["x-cascade-reason"].startswith("uncalibrated score 0.3")
    assert answer.text.startswith('data: {"id"')
    assert ": waiting for the decision" in answer.text
    assert "[DONE]" in answer.text


@pytest.mark.parametrize("stream", [True, False])
async def test_work_that_cancels_itself_ends_with_an_error(
    served: Served, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    async def cancelled(*_: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(served.gateway, "ask", cancelled)
    answer = await served.ask(stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")


@pytest.mark.parametrize("call", [False, True])
async def test_answers_have_official_types(served: Served, upstream: Upstream, call: bool) -> None:
    if call:
        upstream.says("small", CALL)
        upstream.says("large", CALL)
    kinds: Any = {
        CHAT[0]: ChatCompletion,
        RESPONSE[0]: Response,
        MESSAGE[0]: anthropic.types.Message,
    }
    for asked in (CHAT, RESPONSE, MESSAGE):
        answer = (await served.post(asked)).json()
        kinds[asked[0]].model_validate(answer, strict=True)
        assert answer["cascade"]["tier"] == ("large" if call else "small")
