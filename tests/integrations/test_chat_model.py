"""The chat model as an app calls it: answers, streams, settings, and what a message says."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage

from cascade import Cascade, Price, Tier
from cascade.errors import (
    ConfigurationError,
    InputError,
    ModelUnavailableError,
    StreamInterruptedError,
)
from cascade.graph import DEFAULT_RETRY
from cascade.integrations.chat_model import CascadeChatModel
from cascade.ledger import MemoryLedger
from cascade.models import Chunk
from cascade.state import Completion, Usage
from cascade.testing import ScriptedModel, reply
from tests.servers.obliging import ObligingServer

FAST = DEFAULT_RETRY._replace(initial_interval=0.0, jitter=False)
PRICE = Price(input=1, output=2)
DRAFT, LARGE = "It is Sydney", "It is Canberra of course"


def drafted(probability: float, text: str = DRAFT, **more: Any) -> ScriptedModel:
    return ScriptedModel([reply(text, probability=probability, **more)], name="little")


def chat(probability: float, *, settings: Any = None, **options: Any) -> CascadeChatModel:
    small = Tier(drafted(probability), price=PRICE)
    large = Tier(ScriptedModel([LARGE], name="big"), price=PRICE)
    return Cascade(small, large, **options).as_chat_model(**(settings or {}))


def whole(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    message = chunks[0]
    for chunk in chunks[1:]:
        message += chunk
    return message


# --- answers


async def test_every_way_to_ask_gives_the_same_answer() -> None:
    for probability, answer in ((0.9, DRAFT), (0.3, LARGE)):
        model = chat(probability)
        answers: list[BaseMessage] = [
            model.invoke("?"),
            await model.ainvoke("?"),
            whole(list(model.stream("?"))),
            whole([chunk async for chunk in model.astream("?")]),
            *model.batch(["?", "!"]),
            *await model.abatch(["?", "!"]),
        ]
        assert {message.text for message in answers} == {answer}
        assert len({message.response_metadata["run_id"] for message in answers}) == len(answers)


def test_an_accepted_draft_says_who_gave_it_how_sure_and_at_what_cost() -> None:
    store = MemoryLedger()
    message = chat(0.9, ledger=store).invoke("?")
    said = message.response_metadata
    assert (said["tier"], said["escalated"], said["degraded"]) == ("small", False, False)
    assert (said["confidence"], said["calibrated"]) == (pytest.approx(0.9), False)
    assert said["reason"] == "uncalibrated score 0.900 ≥ 0.800"
    assert said["cost_usd"] == pytest.approx(10e-6 + 3 * 2e-6)
    assert (said["cost_basis"], said["saved_basis"]) == ("measured", "estimated")
    assert {entry.run_id for entry in store.entries} == {said["run_id"]}


def test_usage_is_that_of_all_calls_of_the_run() -> None:
    message = chat(0.3).invoke("?")
    assert message.usage_metadata == {
        "input_tokens": 20,
        "output_tokens": 8,
        "total_tokens": 28,
    }
    tiers = message.response_metadata["tiers"]
    assert {name: (tier["model"], tier["calls"]) for name, tier in tiers.items()} == {
        "small": ("scripted:little", 1),
        "large": ("scripted:big", 1),
    }
    assert tiers["small"]["usage"]["output_tokens"] == 3
    assert tiers["large"]["cost_usd"] == pytest.approx(10e-6 + 5 * 2e-6)
    assert message.response_metadata["model_name"] == "big"


def test_usage_that_nobody_reported_is_left_out_and_counted() -> None:
    silent = Tier(drafted(0.3, input_tokens=None), price=PRICE)
    message = Cascade(silent, ScriptedModel([LARGE])).as_chat_model().invoke("?")
    assert message.usage_metadata is not None
    assert message.usage_metadata["input_tokens"] == 10
    assert message.response_metadata["unknown_usage"] == 1
    assert message.response_metadata["tiers"]["small"]["usage"] is None
    assert message.response_metadata["cost_usd"] is None


def test_without_any_usage_there_is_none() -> None:
    model = Cascade(drafted(0.9, input_tokens=None), ScriptedModel("x")).as_chat_model()
    assert model.invoke("?").usage_metadata is None


def test_details_of_usage_are_given_where_a_provider_gave_them() -> None:
    usage = Usage(
        input_tokens=9,
        output_tokens=5,
        cached_tokens=4,
        cache_write_tokens=2,
        reasoning_tokens=3,
    )
    large = ScriptedModel([Completion("a", "m", usage)])
    message = Cascade(tiers=[large]).as_chat_model().invoke("?")
    assert message.usage_metadata == {
        "input_tokens": 9,
        "output_tokens": 5,
        "total_tokens": 14,
        "input_token_details": {"cache_read": 4, "cache_creation": 2},
        "output_token_details": {"reasoning": 3},
    }


def test_a_draft_that_stands_in_for_the_large_model_is_marked() -> None:
    down = ScriptedModel([ModelUnavailableError("down", model="m", billed=False)])
    model = Cascade(drafted(0.3), down, retry_policy=FAST).as_chat_model()
    message = model.invoke("?")
    assert (message.text, message.response_metadata["degraded"]) == (DRAFT, True)


def test_a_message_that_is_in_the_conversation_twice_stays_in_it_twice() -> None:
    """As an example that is shown again; LangGraph tells messages apart by their ids."""
    example = HumanMessage("An example", id="1")
    model = chat(0.9)
    model.invoke([example, AIMessage("Its answer", id="2"), example])
    small: Any = model.cascade.tiers[0].model
    asked = [message.text for message in small.requests[0].messages]
    assert asked == ["An example", "Its answer", "An example"]
    assert example.id == "1"


def test_tags_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="ledger_tags"):
        chat(0.9).invoke("?", config={"metadata": {"ledger_tags": "me"}})


def test_an_empty_question_is_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        chat(0.9).invoke(" ")


# --- streams


@pytest.mark.parametrize(("probability", "words"), [(0.9, 3), (0.3, 5)])
def test_an_answer_streams_word_by_word_and_a_rejected_draft_never(
    probability: float, words: int
) -> None:
    chunks = list(chat(probability).stream("?"))
    assert len(chunks) == words + 1
    assert "Sydney" not in str(chunks) or probability == 0.9
    assert chunks[-1].chunk_position == "last"
    assert whole(chunks).response_metadata["tier"] == ("small" if probability == 0.9 else "large")
    assert [bool(chunk.response_metadata) for chunk in chunks] == [False] * words + [True]


async def test_the_large_models_words_are_shown_while_it_writes() -> None:
    going = asyncio.Event()

    class Slow(ScriptedModel):
        async def _stream(self, request: Any) -> Any:
            yield Chunk("It is")
            await going.wait()
            yield Chunk(" Canberra", completion=reply("It is Canberra"))

    stream = Cascade(drafted(0.3), Slow("x")).as_chat_model().astream("?")
    assert (await anext(stream)).text == "It is"
    going.set()
    assert "".join([chunk.text async for chunk in stream]) == " Canberra"


async def test_the_answer_comes_in_one_piece_where_streaming_is_off() -> None:
    model = chat(0.3, settings={"disable_streaming": True})
    assert [chunk.text async for chunk in model.astream("?")] == [LARGE]
    assert [chunk.text for chunk in model.stream("?")] == [LARGE]


def test_streaming_can_be_asked_for_where_the_whole_answer_is() -> None:
    message = chat(0.3, settings={"streaming": True}).invoke("?")
    assert (message.text, message.response_metadata["tier"]) == (LARGE, "large")


class Breaking(ScriptedModel):
    """Shows a word, breaks off once, and answers something else the next time."""

    async def _stream(self, request: Any) -> Any:
        self.requests.append(request)
        if len(self.requests) == 1:
            yield Chunk("Perhaps")
            raise StreamInterruptedError("the line broke", model="m", billed=None)
        yield Chunk("Canberra", completion=reply("Canberra"))


async def test_a_stream_that_breaks_after_a_word_was_shown_ends_with_an_error() -> None:
    """A chat model cannot take back what it has shown, and must not go on with another answer."""
    large = Breaking("x")
    stream = Cascade(drafted(0.3), large, retry_policy=FAST).as_chat_model().astream("?")
    assert (await anext(stream)).text == "Perhaps"
    with pytest.raises(StreamInterruptedError, match="disable_streaming"):
        await anext(stream)


# --- settings


async def test_what_a_call_brings_along_reaches_every_model() -> None:
    model = chat(0.3)
    settings = {"temperature": 0.5, "max_tokens": 7, "seed": 3, "timeout": 9, "top_p": 0.1}
    await model.ainvoke("?", stop=["\n"], **settings)
    for tier in model.cascade.tiers:
        request = tier.model.requests[-1]  # type: ignore[attr-defined]
        assert (request.temperature, request.max_tokens, request.seed) == (0.5, 7, 3)
        assert (request.stop, request.timeout_s, request.extra) == (("\n",), 9, {"top_p": 0.1})


def test_settings_of_the_model_hold_until_a_call_brings_its_own() -> None:
    model = chat(0.3, settings={"temperature": 0.5, "stop": ["a"], "max_tokens": 5})
    model.invoke("?", temperature=0.0, stop=["b"])
    large: Any = model.cascade.tiers[-1].model
    request = large.requests[-1]
    assert (request.temperature, request.stop, request.max_tokens) == (0.0, ("b",), 5)
    model.invoke("?")
    assert (large.requests[-1].temperature, large.requests[-1].stop) == (0.5, ("a",))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"model": "gpt-5.1"}, "asks its own models"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"timeout": "soon"}, "timeout='soon'"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"seed": True}, "seed=True"),
        ({"tool_choice": "any"}, "there are no tools"),
        ({"tools": [{"type": "web_search"}]}, "one provider's own"),
        ({"tools": [3]}, "a tool cannot be read"),
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
        ({"response_format": 3}, "response_format=3"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        chat(0.9).invoke("?", **settings)


def test_a_picture_goes_to_the_models_as_it_is(obliging: ObligingServer) -> None:
    tiers = [
        Tier("openai:" + name, base_url=obliging.openai_url, api_key="k")
        for name in ("small", "large")
    ]
    picture = base64.b64encode(b"a picture").decode()
    block = {"type": "image", "base64": picture, "mime_type": "image/png"}
    question = HumanMessage(content=[{"type": "text", "text": "What is it?"}, block])
    Cascade(*tiers).as_chat_model().invoke([question])
    for received in obliging.received:
        content = received.body["messages"][-1]["content"]
        assert content[1]["image_url"]["url"] == f"data:image/png;base64,{picture}"
    assert {received.body["model"] for received in obliging.received} == {"small", "large"}
