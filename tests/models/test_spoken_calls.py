"""Tool calls that a model writes as text, and tools that it is told of as text."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolCall, ToolMessage

from cascade.models.spoken_calls import Holding, call_schema, read_calls, told


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER = tool("weather", city={"type": "string"})
TOOLS = (WEATHER, tool("clock"))
ROME = '{"name": "weather", "arguments": {"city": "Rome"}}'
PARIS = '{"name": "weather", "arguments": {"city": "Paris"}}'


@pytest.mark.parametrize(
    ("text", "cities"),
    [
        pytest.param(ROME, ["Rome"], id="bare"),
        pytest.param(f"\n```json\n{ROME}\n```\n", ["Rome"], id="in a code block"),
        pytest.param(f"<tool_call>\n{ROME}\n</tool_call>", ["Rome"], id="between marks"),
        pytest.param(f"{ROME}\n{PARIS}", ["Rome", "Paris"], id="one after the other"),
        pytest.param(f"[{ROME}, {PARIS}]", ["Rome", "Paris"], id="in a list"),
        pytest.param(ROME.replace("arguments", "parameters"), ["Rome"], id="as Llama writes it"),
    ],
)
def test_a_text_that_is_nothing_but_calls_is_read_as_calls(text: str, cities: list[str]) -> None:
    calls = read_calls(text, TOOLS)
    assert [call["args"] for call in calls] == [{"city": city} for city in cities]
    assert {call["name"] for call in calls} == {"weather"}
    assert len({call["id"] for call in calls}) == len(cities)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("Rome is sunny.", id="words"),
        pytest.param(f"I will call {ROME}", id="words before it"),
        pytest.param(f"{ROME} is what I called", id="words after it"),
        pytest.param(ROME[:-1], id="cut off"),
        pytest.param('{"name": "bank", "arguments": {}}', id="a tool that was not offered"),
        pytest.param('{"name": ["weather"], "arguments": {}}', id="no name"),
        pytest.param('{"name": "weather", "arguments": "Rome"}', id="arguments that are no object"),
        pytest.param('{"city": "Rome"}', id="another object"),
        pytest.param("[]", id="an empty list"),
        pytest.param("42", id="a number"),
        pytest.param(ROME.replace('"Rome"', "NaN"), id="no JSON"),
        pytest.param("[" * 100_000, id="deeper than Python reads"),
    ],
)
def test_every_other_text_stays_a_text(text: str) -> None:
    assert read_calls(text, TOOLS) == ()


def test_a_call_without_arguments_has_none() -> None:
    (call,) = read_calls('{"name": "clock"}', TOOLS)
    assert call["args"] == {}


def shown(*pieces: str) -> tuple[list[str], str]:
    holding = Holding()
    return [holding.add(piece) for piece in pieces], holding.release()


def test_what_may_become_a_call_is_held_back() -> None:
    assert shown("\n", "{", '"name":') == (["", "", ""], '\n{"name":')
    assert shown("<tool", "_call>") == (["", ""], "<tool_call>")


def test_a_text_goes_on_as_it_comes_once_it_cannot_be_a_call() -> None:
    assert shown("<", "b>", " bold {", "x") == (["", "<b>", " bold {", "x"], "")


def called(*cities: str, text: str = "") -> AIMessage:
    calls = [
        ToolCall(name="weather", args={"city": city}, id=city, type="tool_call") for city in cities
    ]
    return AIMessage(text, tool_calls=calls)


def test_tools_are_told_in_the_system_message() -> None:
    system, asked = told((SystemMessage("Be brief."), HumanMessage("Rome?")), TOOLS)
    assert isinstance(system, SystemMessage)
    assert system.text.startswith("Be brief.\n\n# Tools")
    assert json.dumps(WEATHER) in system.text
    assert asked == HumanMessage("Rome?")


def test_without_a_system_message_there_is_one_for_the_tools() -> None:
    system, _ = told((HumanMessage("Rome?"),), TOOLS)
    assert isinstance(system, SystemMessage)
    assert json.dumps(WEATHER) in system.text


def test_without_tools_nothing_is_told_of_them() -> None:
    assert told((HumanMessage("Rome?"),), ()) == (HumanMessage("Rome?"),)


def test_calls_and_their_results_are_told_as_turns() -> None:
    messages = (
        HumanMessage("Rome and Paris?"),
        called("Rome", "Paris", text="Let me see."),
        ToolMessage("sunny", tool_call_id="Rome"),
        ToolMessage("rainy", tool_call_id="Paris"),
        AIMessage("Sunny and rainy."),
        HumanMessage("Thanks."),
    )
    worded = told(messages, ())
    assert [message.type for message in worded] == ["human", "ai", "human", "ai", "human"]
    assert all(not isinstance(m, AIMessage) or not m.tool_calls for m in worded)
    assert worded[1].text == (
        f"Let me see.\n<tool_call>\n{ROME}\n</tool_call>\n<tool_call>\n{PARIS}\n</tool_call>"
    )
    assert worded[2].text == (
        "<tool_response>\nsunny\n</tool_response>\n<tool_response>\nrainy\n</tool_response>"
    )
    assert type(worded[2]) is HumanMessage


def test_a_result_and_a_persons_word_after_it_are_two_turns() -> None:
    worded = told((called("Rome"), ToolMessage("x", tool_call_id="Rome"), HumanMessage("?")), ())
    assert [message.type for message in worded] == ["ai", "human", "human"]


def holds(schema: Any, text: str) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(json.loads(text))


def test_the_schema_of_a_forced_call_lets_through_calls_of_the_tools_alone() -> None:
    schema = call_schema(TOOLS, "required")
    assert holds(schema, ROME)
    assert holds(schema, '{"name": "clock", "arguments": {}}')
    assert not holds(schema, '{"name": "bank", "arguments": {}}')
    assert not holds(schema, '{"name": "weather", "arguments": {}}')
    assert not holds(schema, '"Rome is sunny."')


def test_the_schema_of_a_named_tool_lets_through_no_other() -> None:
    schema = call_schema(TOOLS, "clock")
    assert holds(schema, '{"name": "clock", "arguments": {}}')
    assert not holds(schema, ROME)


def test_a_tool_that_is_not_there_has_no_schema() -> None:
    assert call_schema(TOOLS, "bank") is None


def with_place(kind: str) -> dict[str, Any]:
    made = tool(f"look_{kind}", place={"$ref": "#/$defs/Place"})
    made["function"]["parameters"]["$defs"] = {"Place": {"type": kind}}
    return made


def test_definitions_that_a_tool_refers_to_are_found_in_the_schema() -> None:
    schema = call_schema((with_place("string"), WEATHER), "required")
    assert holds(schema, '{"name": "look_string", "arguments": {"place": "Rome"}}')
    assert not holds(schema, '{"name": "look_string", "arguments": {"place": 1}}')


def test_two_definitions_of_one_name_have_no_common_schema() -> None:
    assert call_schema((with_place("string"), with_place("integer")), "required") is None


def test_a_tool_without_parameters_may_be_forced() -> None:
    bare = {"type": "function", "function": {"name": "ping"}}
    assert holds(call_schema((bare,), "ping"), '{"name": "ping", "arguments": {}}')
