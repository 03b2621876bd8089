"""Answers with a schema, and answers that call tools."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import ToolCall
from pydantic import BaseModel

from cascade import Cascade
from cascade.result import CascadeResult
from cascade.testing import ScriptedModel, reply


class City(BaseModel):
    city: str


GOOD, BAD = '{"city": "Canberra"}', '{"town": "Sydney"}'


def weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: which one.
    """
    return city


def call(name: str = "weather", **arguments: Any) -> ToolCall:
    return ToolCall(name=name, args=arguments, id="1", type="tool_call")


async def ask(small: ScriptedModel, large: str, **options: Any) -> CascadeResult:
    return await Cascade(small, ScriptedModel([large]), **options).ainvoke("Where?")


async def test_an_answer_is_read_by_a_pydantic_model() -> None:
    result = await ask(ScriptedModel([reply(GOOD, probability=0.9)]), "x", response_format=City)
    assert result.tier == "small"
    assert result.parsed == City(city="Canberra")
    assert result.answer == GOOD


async def test_an_answer_is_read_by_a_json_schema() -> None:
    schema = City.model_json_schema()
    result = await ask(ScriptedModel([reply(GOOD, probability=0.9)]), "x", response_format=schema)
    assert result.parsed == {"city": "Canberra"}


@pytest.mark.parametrize("draft", [BAD, "Sydney", ""])
async def test_a_draft_that_breaks_the_schema_is_escalated_however_sure_it_is(draft: str) -> None:
    small = ScriptedModel([reply(draft, probability=0.99)])
    result = await ask(small, GOOD, response_format=City)
    assert result.tier == "large"
    assert result.parsed == City(city="Canberra")
    assert result.decision.reason.startswith("the answer")


@pytest.mark.parametrize("response_format", [City, City.model_json_schema()])
async def test_a_large_model_that_breaks_the_format_gives_nothing_parsed(
    response_format: Any,
) -> None:
    small = ScriptedModel([reply("", probability=0.9)])
    result = await ask(small, "Canberra!", response_format=response_format)
    assert result.answer == "Canberra!"
    assert result.parsed is None


async def test_without_a_format_nothing_is_parsed() -> None:
    assert (await ask(ScriptedModel([reply(GOOD, probability=0.9)]), "x")).parsed is None


async def test_the_schema_and_the_tools_are_sent_along() -> None:
    small = ScriptedModel([reply(GOOD, probability=0.9)])
    await ask(small, "x", response_format=City, tools=[weather])
    request = small.requests[0]
    assert request.schema == City.model_json_schema()
    assert request.tools[0]["function"]["name"] == "weather"


async def test_a_tool_call_is_the_answer_of_the_draft_when_its_check_says_so() -> None:
    small = ScriptedModel([reply("", tool_calls=[call(city="Rome")]), "True"])
    result = await ask(small, "x", tools=[weather])
    assert result.tier == "small"
    assert result.message.tool_calls == [call(city="Rome")]


async def test_the_check_of_a_tool_call_shows_the_call() -> None:
    small = ScriptedModel([reply("", tool_calls=[call(city="Rome")]), "True"])
    await ask(small, "x", tools=[weather])
    tag, shown, end = str(small.requests[1].messages[1].content).splitlines()
    assert shown == 'weather({"city": "Rome"})'
    assert tag.replace("<", "</") == end


async def test_a_tool_call_has_no_log_probabilities_so_the_model_is_asked_about_it() -> None:
    """Those of the text around a call say nothing about the call."""
    top = [("True", 0.95), ("False", 0.05)]
    calling = reply("Let me see.", probability=0.99, tool_calls=[call(city="Rome")])
    small = ScriptedModel([calling, reply("True", probability=0.95, top=top)])
    result = await ask(small, "x", tools=[weather])
    assert result.confidence == pytest.approx(0.95)
    assert len(small.requests) == 2


@pytest.mark.parametrize("wrong", [call("wether", city="Rome"), call(town="Rome")])
async def test_a_tool_call_that_cannot_be_made_is_escalated_without_a_check(
    wrong: ToolCall,
) -> None:
    small = ScriptedModel([reply("", tool_calls=[wrong])])
    result = await ask(small, "x", tools=[weather])
    assert result.tier == "large"
    assert len(small.requests) == 1
