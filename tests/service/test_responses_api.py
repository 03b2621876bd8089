"""`/v1/responses` through the official client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from cascade.service.faults import ServiceError
from cascade.service.keys import Key
from cascade.service.protocols.stored import Conversations
from tests.servers import replies
from tests.service.talking import HELLO, as_key, talking

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
    "strict": False,
}
QUESTION = "How is it in 'Paris'?"


class City(BaseModel):
    """A city."""

    name: str
    people: int


async def events_of(talk: Any, **body: Any) -> list[Any]:
    stream = await talk.openai.responses.create(model="support", stream=True, **body)
    return [event async for event in stream]


async def test_an_answer_has_its_text_its_usage_and_the_report(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        answer: Any = await talk.openai.responses.create(
            model="support", input="hi", instructions="Be kind.", max_output_tokens=50
        )
        assert answer.output_text == HELLO
        assert (answer.status, answer.model) == ("completed", "support")
        assert (answer.instructions, answer.max_output_tokens) == ("Be kind.", 50)
        assert answer.usage.output_tokens == 8
        assert answer.cascade["tier"] == "large"
        sent = talk.upstream.last.body
        assert sent["messages"][0] == {"role": "system", "content": "Be kind."}
        assert sent["max_tokens"] == 50


async def test_events_come_in_openais_order(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        events = await events_of(talk, input="hi")
        kinds = [event.type for event in events]
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert [kind for kind in kinds if kind != "response.output_text.delta"] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert "".join(deltas) == HELLO
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[-1].response.output_text == HELLO
        assert events[-1].response.cascade["tier"] == "large"
        assert events[0].response.id == events[-1].response.id


async def test_the_clients_own_accumulation_of_a_stream_works(tmp_path: Path) -> None:
    async with (
        talking(tmp_path) as talk,
        talk.openai.responses.stream(model="support", input="hi") as stream,
    ):
        answer = await stream.get_final_response()
        assert answer.output_text == HELLO


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_is_called_and_its_result_answered(tmp_path: Path, stream: bool) -> None:
    async with talking(tmp_path) as talk:
        body: Any = {"input": QUESTION, "tools": [WEATHER], "tool_choice": "required"}
        if stream:
            events = await events_of(talk, **body)
            assert [event.type for event in events][2:] == [
                "response.output_item.added",
                "response.function_call_arguments.delta",
                "response.function_call_arguments.done",
                "response.output_item.done",
                "response.completed",
            ]
            answer = events[-1].response
        else:
            answer = await talk.openai.responses.create(model="support", **body)
        (call,) = answer.output
        assert (call.type, call.name) == ("function_call", "weather")
        assert json.loads(call.arguments) == {"city": "Paris"}
        again: Any = await talk.openai.responses.create(
            model="support",
            tools=[WEATHER],
            input=[
                {"role": "user", "content": QUESTION},
                call.model_dump(),
                {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
            ],
        )
        assert again.output_text == HELLO
        told = talk.upstream.last.body["messages"]
        assert [message["role"] for message in told] == ["user", "assistant", "tool"]
        assert told[1]["tool_calls"][0]["id"] == told[2]["tool_call_id"] == call.call_id


async def test_structured_output_is_parsed_by_the_client(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        answer = await talk.openai.responses.parse(
            model="support", input="'Paris' has 2 people", text_format=City
        )
        assert answer.output_parsed == City(name="Paris", people=2)
        answer_2 = await talk.openai.responses.create(
            model="support", input="JSON with 'animal'", text={"format": {"type": "json_object"}}
        )
        assert json.loads(answer_2.output_text) == {"animal": "a cat"}


async def test_a_conversation_goes_on_where_it_was(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        first = await talk.openai.responses.create(
            model="support", input="My name is Ada.", instructions="Be kind."
        )
        await talk.openai.responses.create(
            model="support", input="Who am I?", previous_response_id=first.id
        )
        assert talk.upstream.last.body["messages"] == [
            {"role": "user", "content": "My name is Ada."},
            {"role": "assistant", "content": HELLO},
            {"role": "user", "content": "Who am I?"},
        ]


async def test_an_answer_that_is_stored_may_be_shown_and_forgotten(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        first = await talk.openai.responses.create(model="support", input="hi")
        shown = await talk.openai.responses.retrieve(first.id)
        assert shown.output_text == HELLO
        await talk.openai.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await talk.openai.responses.retrieve(first.id)
        with pytest.raises(openai.BadRequestError) as gone:
            await talk.openai.responses.create(
                model="support", input="hi", previous_response_id=first.id
            )
        assert gone.value.code == "previous_response_not_found"


async def test_what_is_not_to_be_stored_is_not(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        first = await talk.openai.responses.create(model="support", input="hi", store=False)
        assert first.model_extra is not None
        assert first.model_extra["store"] is False
        with pytest.raises(openai.NotFoundError):
            await talk.openai.responses.retrieve(first.id)


async def test_another_keys_conversation_cannot_be_had(tmp_path: Path) -> None:
    async with talking(tmp_path, auth=True) as talk:
        ada, bob = [as_key(talk, await talk.gateway.key(name)) for name in ("ada", "bob")]
        first = await ada.responses.create(model="support", input="hi")
        assert (await ada.responses.retrieve(first.id)).id == first.id
        with pytest.raises(openai.NotFoundError):
            await bob.responses.retrieve(first.id)
        with pytest.raises(openai.BadRequestError):
            await bob.responses.create(model="support", input="?", previous_response_id=first.id)


def test_the_conversation_that_was_left_for_longest_is_forgotten_first() -> None:
    stored, key = Conversations(kept=2), Key(id="key_1", name="a", digest="d")
    for name in ("a", "b"):
        stored.put(name, key, [name], {})
    stored.get("a", key)
    stored.put("c", key, ["c"], {})
    assert len(stored) == 2
    assert stored.get("a", key).messages == ["a"]
    with pytest.raises(ServiceError, match="is forgotten"):
        stored.get("b", key)


def test_large_conversations_are_forgotten_sooner() -> None:
    stored = Conversations(kept=10, kept_bytes=100)
    for name in ("a", "b", "c"):
        stored.put(name, None, [name], {}, size=40)
    assert len(stored) == 2
    stored.drop("b", None)
    stored.put("d", None, ["d"], {}, size=60)
    assert [stored.get(name, None).messages for name in ("c", "d")] == [["c"], ["d"]]
    stored.put("e", None, ["e"], {}, size=101)
    assert len(stored) == 0


async def test_log_probs_come_where_they_are_included(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        answer = await talk.openai.responses.create(
            model="support", input="hi", include=["message.output_text.logprobs"]
        )
        (item,) = answer.output
        assert item.type == "message"
        (part,) = item.content
        assert part.type == "output_text"
        assert "".join(token.token for token in part.logprobs or ()) == HELLO


async def test_an_answer_that_is_cut_off_is_incomplete(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        cut = replies.openai_reply(
            "Par", finish="length", logprobs=[{"token": "Par", "logprob": -0.01}]
        )
        talk.upstream.will(cut, cut)
        answer = await talk.openai.responses.create(model="support", input="hi")
        assert (answer.status, answer.output_text) == ("incomplete", "Par")
        assert answer.incomplete_details is not None
        assert answer.incomplete_details.reason == "max_output_tokens"


async def test_what_breaks_off_is_an_error_event(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        unsure = replies.openai_reply("a", logprobs=[{"token": "a", "logprob": -3.0}])
        broken = replies.sse([replies.openai_delta(content="Par")], done=False, ending="drop")
        talk.upstream.will(unsure, broken)
        response = await talk.post("/v1/responses", input="hi", stream=True)
        kinds = [line[7:] for line in response.text.splitlines() if line.startswith("event: ")]
        assert kinds[-2:] == ["error", "response.failed"]


async def test_parts_go_to_the_tiers_in_their_form(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        url = "data:image/png;base64,iVBORw0KGgo="
        given: Any = [
            {"role": "developer", "content": "Be kind."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is this?"},
                    {"type": "input_image", "image_url": url, "detail": "low"},
                ],
            },
        ]
        await talk.openai.responses.create(model="support", input=given)
        assert talk.upstream.last.body["messages"] == [
            {"role": "developer", "content": "Be kind."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
                ],
            },
        ]


SETTINGS: dict[str, tuple[Any, str, Any]] = {
    "temperature": (0.5, "temperature", 0.5),
    "top_p": (0.9, "top_p", 0.9),
    "max_output_tokens": (12, "max_tokens", 12),
    "parallel_tool_calls": (False, "parallel_tool_calls", False),
    "metadata": ({"a": "b"}, "metadata", {"a": "b"}),
    "reasoning": ({"effort": "low"}, "reasoning_effort", "low"),
    "text": ({"verbosity": "low"}, "verbosity", "low"),
    "user": ("ada", "user", "ada"),
    "of_my_own": (1, "of_my_own", 1),
}


@pytest.mark.parametrize("name", SETTINGS)
async def test_every_parameter_reaches_both_tiers(tmp_path: Path, name: str) -> None:
    value, as_sent, sent = SETTINGS[name]
    async with talking(tmp_path) as talk:
        response = await talk.post("/v1/responses", input="hi", **{name: value})
        assert response.status_code == 200, response.text
        assert [request.body[as_sent] for request in talk.upstream.received] == [sent, sent]


REFUSED: dict[str, Any] = {
    "conversation": "conv_1",
    "prompt": {"id": "p"},
    "background": True,
    "truncation": "auto",
    "include": ["nothing.of.that.name"],
    "tools": [{"type": "web_search"}],
    "reasoning": {"summary": "detailed"},
    "max_tool_calls": 3,
    "n": 2,
    "messages": [],
    "max_tokens": 5,
    "response_format": {"type": "json_object"},
    "stream_options": {"include_obfuscation": True},
    "tool_choice": "required",
    "input": [{"type": "item_reference", "id": "x"}],
    "text": {"format": {"type": "json_schema", "name": "x"}},
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_obeyed_is_refused_by_name(tmp_path: Path, name: str) -> None:
    async with talking(tmp_path) as talk:
        response = await talk.post("/v1/responses", **{"input": "hi", name: REFUSED[name]})
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert name in f"{error['param']} {error['message']}"
        assert talk.upstream.received == []


async def test_a_history_with_calls_refusals_and_results_is_read_whole(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        given: Any = [
            {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
            {"type": "function_call", "call_id": "1", "name": "weather", "arguments": "{}"},
            {"type": "function_call", "call_id": "2", "name": "weather", "arguments": "{}"},
            {
                "type": "function_call_output",
                "call_id": "1",
                "output": [{"type": "input_text", "text": "sunny"}],
            },
            {"type": "function_call_output", "call_id": "2", "output": "rain"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {"role": "user", "content": "c"},
        ]
        choice = {"type": "function", "name": "weather"}
        response = await talk.post(
            "/v1/responses", input=given, tools=[WEATHER], tool_choice=choice
        )
        assert response.status_code == 200, response.text
        sent = talk.upstream.last.body
        assert [message["role"] for message in sent["messages"]] == [
            "user",
            "assistant",
            "tool",
            "tool",
            "assistant",
            "user",
        ]
        assert [call["id"] for call in sent["messages"][1]["tool_calls"]] == ["1", "2"]
        assert [m["content"] for m in sent["messages"][2:4]] == ["sunny", "rain"]
        assert sent["tool_choice"] == {"type": "function", "function": {"name": "weather"}}


async def test_plain_text_may_be_asked_for_by_its_format(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        response = await talk.post("/v1/responses", input="hi", text={"format": {"type": "text"}})
        assert response.json()["text"] == {"format": {"type": "text"}}
        assert "response_format" not in talk.upstream.last.body
