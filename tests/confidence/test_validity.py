"""Facts that rule a draft out."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import ToolCall

from cascade.confidence import check_schema, objection
from cascade.errors import ConfigurationError
from cascade.state import Completion

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now"}},
]


def answer(text: str = "", *calls: tuple[str, dict[str, Any]]) -> Completion:
    return Completion(
        text=text,
        model="m",
        tool_calls=tuple(ToolCall(name=name, args=args, id="1") for name, args in calls),
    )


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_an_empty_answer_is_ruled_out(text: str) -> None:
    assert objection(answer(text)) == "the answer is empty"


def test_any_text_will_do_without_a_schema() -> None:
    assert objection(answer("{not json")) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Canberra", "not JSON"),
        ('{"city": "Canberra"', "not JSON"),
        ('```json\n{"city": "Canberra"}\n```', "not JSON"),
        ('{"town": "Canberra"}', "does not match"),
        ('{"city": 3}', "at $.city"),
        ("[]", "does not match"),
    ],
)
def test_text_that_breaks_the_schema_is_ruled_out(text: str, complaint: str) -> None:
    assert complaint in (objection(answer(text), schema=SCHEMA) or "")


def test_text_that_keeps_to_the_schema_passes() -> None:
    assert objection(answer('{"city": "Canberra"}'), schema=SCHEMA) is None


@pytest.mark.parametrize(
    ("name", "args", "complaint"),
    [
        ("wether", {"city": "Rome"}, "tool that does not exist: wether"),
        ("weather", {}, "the call of weather does not match"),
        ("weather", {"city": 1}, "at $.city"),
    ],
)
def test_a_tool_call_that_cannot_be_made_is_ruled_out(
    name: str, args: dict[str, Any], complaint: str
) -> None:
    assert complaint in (objection(answer("", (name, args)), tools=TOOLS) or "")


def test_every_tool_call_has_to_be_possible() -> None:
    calls = answer("", ("weather", {"city": "Rome"}), ("nothing", {}))
    assert objection(calls, tools=TOOLS) is not None


def test_possible_tool_calls_need_no_text_and_no_schema() -> None:
    calls = answer("", ("weather", {"city": "Rome"}), ("now", {}))
    assert objection(calls, tools=TOOLS, schema=SCHEMA) is None


def test_a_schema_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no valid JSON schema"):
        check_schema({"type": "no such type"})


@pytest.mark.parametrize(
    ("choice", "called", "complaint"),
    [
        ("required", (), "does not call a tool, though it has to"),
        ("weather", (), "does not call the tool weather, though it has to"),
        ("weather", ("time",), "calls time, though it has to call weather"),
        ("none", ("time",), "calls time, though it must call no tool"),
        ("required", ("time",), None),
        ("weather", ("time", "weather"), None),
        ("none", (), None),
        ("auto", (), None),
        ("auto", ("time",), None),
        (None, ("time",), None),
    ],
)
def test_the_choice_of_a_tool_is_kept(
    choice: str | None, called: tuple[str, ...], complaint: str | None
) -> None:
    tools = [{"function": {"name": name, "parameters": {}}} for name in ("weather", "time")]
    given = answer("fine", *((name, {}) for name in called))
    against = objection(given, tools=tools, tool_choice=choice)
    assert against is None if complaint is None else complaint in (against or "")


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/nowhere"},
        {"properties": {"x": {"items": [{"$ref": "#/$defs/y"}]}}},
        {"$ref": "http://127.0.0.1:1/schema.json"},
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
    ],
)
def test_a_schema_that_does_not_stand_for_itself_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="no valid JSON schema"):
        check_schema(schema)


def test_a_schema_may_refer_to_its_own_parts_and_hold_what_looks_like_it() -> None:
    check_schema({"properties": {"child": {"$ref": "#"}}})
    check_schema({"$defs": {"a": {"type": "string"}}, "properties": {"x": {"$ref": "#/$defs/a"}}})
    check_schema({"properties": {"$ref": {"default": {"$ref": "#/nowhere"}}}})
