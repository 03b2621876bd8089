"""Facts that rule a draft out."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import ToolCall

from cascade.confidence import bounded, check_schema, objection
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


HARMFUL = "^(a+)+$"
HARMED = "a" * 5000 + "!"


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"pattern": HARMFUL}, f'"{HARMED}"'),
        ({"patternProperties": {HARMFUL: False}}, f'{{"{HARMED}": 1, "aa": 1}}'),
        (
            {"patternProperties": {HARMFUL: True}, "additionalProperties": False},
            f'{{"{HARMED}": 1}}',
        ),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "pattern": HARMFUL}, f'"{HARMED}"'),
    ],
)
def test_no_pattern_takes_exponential_time(schema: dict[str, Any], text: str) -> None:
    check_schema(schema)
    assert "does not match its schema" in (objection(answer(text), schema=schema) or "")


def test_references_that_multiply_are_not_followed_to_their_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounded, "REFERENCES", 50)
    twice = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)}
    schema: dict[str, Any] = {"$ref": "#/$defs/d0", "$defs": twice | {"d30": {}}}
    with pytest.raises(ConfigurationError, match="more than 50 references"):
        check_schema(schema)
    assert "more than 50 references" in (objection(answer("{}"), schema=schema) or "")


def test_patterns_tell_what_matches() -> None:
    schema = {
        "patternProperties": {"^x-": {"pattern": "^[a-z]+$"}},
        "properties": {"id": {"type": "integer"}},
        "additionalProperties": {"type": "integer"},
    }
    check_schema(schema)
    assert objection(answer('{"x-a": "b", "id": 1, "c": 2}'), schema=schema) is None
    for wrong in ('{"x-a": "B"}', '{"id": "1"}', '{"c": "d"}'):
        assert "does not match its schema" in (objection(answer(wrong), schema=schema) or "")


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ({"pattern": "(?=a)b"}, "look-around"),
        ({"items": {"pattern": r"(a)\1"}}, "backreferences"),
        ({"pattern": "(a{1000}){1000}"}, "size limit"),
        ({"$ref": "#/default", "default": {"$schema": "http://x"}}, "below the top"),
        ({"patternProperties": {"a": {}}, "unevaluatedProperties": False}, "together"),
    ],
)
def test_patterns_that_cannot_be_matched_in_linear_time_are_refused(
    schema: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        check_schema(schema)
