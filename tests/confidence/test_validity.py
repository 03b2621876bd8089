"""Facts that rule a draft out, and schemas of strangers that take bounded time."""

import json
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolCall, ToolMessage

from cascade.confidence import schemas
from cascade.confidence.schemas import check_schema, check_tools
from cascade.confidence.validity import objection, repetition
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
    made = tuple(ToolCall(name=name, args=args, id="1") for name, args in calls)
    return Completion(text=text, model="m", tool_calls=made)


def against(value: Any, schema: dict[str, Any]) -> str:
    """What is said against a value; nothing where it keeps to the schema."""
    return objection(answer(json.dumps(value)), schema=schema) or ""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (" \n\t", "the answer is empty"),
        ("Canberra", "not JSON"),
        ('```json\n{"city": "Canberra"}\n```', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"town": "Canberra"}', "does not match"),
        ('{"city": 3}', "at $.city"),
        ("[]", "does not match"),
    ],
)
def test_text_that_breaks_the_schema_is_ruled_out(text: str, complaint: str) -> None:
    assert complaint in (objection(answer(text), schema=SCHEMA) or "")
    assert (objection(answer(text)) == "the answer is empty") == (not text.strip())
    assert objection(answer('{"city": "Canberra"}'), schema=SCHEMA) is None


@pytest.mark.parametrize(
    ("name", "args", "complaint"),
    [
        ("wether", {"city": "Rome"}, "tool that does not exist: wether"),
        ("weather", {}, "the call of weather does not match"),
        ("weather", {"city": 1}, "at $.city"),
    ],
)
def test_an_impossible_call_is_ruled_out(name: str, args: dict[str, Any], complaint: str) -> None:
    assert complaint in (objection(answer("", (name, args)), tools=TOOLS) or "")
    both = answer("", ("weather", {"city": "Rome"}), (name, args))
    assert complaint in (objection(both, tools=TOOLS) or "")
    assert objection(answer("", ("now", {})), tools=TOOLS, schema=SCHEMA) is None


@pytest.mark.parametrize(
    ("choice", "called", "complaint"),
    [
        ("required", (), "does not call a tool, though it has to call one"),
        ("weather", (), "does not call a tool, though it has to call weather"),
        ("weather", ("time",), "calls time, though it has to call weather"),
        ("none", ("time",), "calls time, though it has to call none"),
        *((choice, ("time", "weather"), None) for choice in ("required", "weather", "auto", None)),
        ("none", (), None),
    ],
)
def test_the_choice_of_a_tool_is_kept(
    choice: str | None, called: tuple[str, ...], complaint: str | None
) -> None:
    tools = [{"function": {"name": name, "parameters": {}}} for name in ("weather", "time")]
    given = answer("fine", *((name, {}) for name in called))
    found = objection(given, tools=tools, tool_choice=choice)
    assert found is None if complaint is None else complaint in (found or "")


def test_a_step_that_makes_the_calls_of_the_one_before_leads_nowhere() -> None:
    call = ToolCall(name="look", args={"at": 1}, id="1", type="tool_call")
    asked = [HumanMessage("Where?"), AIMessage("", tool_calls=[call])]
    after, again = [*asked, ToolMessage("dark", tool_call_id="1")], answer("", ("look", {"at": 1}))
    assert "repeats the call of the step before it: look" in (repetition(after, again) or "")
    for other in (answer("", ("look", {"at": 2})), answer("done")):
        assert repetition(after, other) is None
    assert repetition(asked, again) is None, "its calls have no results yet"
    assert repetition([], again) is None


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "no such type"}, r"\$.type: Input should be 'array', 'boolean'"),
        ({"type": []}, r"\$.type: Input should be"),
        ({"properties": {"a": 3}}, r"\$.properties.a: Input should be a valid dictionary"),
        ({"items": [{"anyOf": {}}]}, r"\$.items.0.anyOf: "),
        ({"required": [3]}, "required.0: "),
        ({"multipleOf": 0}, "multipleOf: "),
        ({"uniqueItems": "yes"}, "uniqueItems: "),
        ({"$schema": []}, "no text"),
        ({"not": {"$schema": "http://x"}}, "below the top"),
        ({"$ref": "#/nowhere"}, "leads nowhere"),
        ({"items": {"$ref": "#/items/prefixItems/3"}, "x": 1}, "leads nowhere"),
        ({"$ref": "http://127.0.0.1:1/schema.json"}, "'#/\\$defs/name'"),
        ({"$ref": "#/default", "default": 3}, "#/default: Input should be"),
        ({"$ref": "#"}, "refers to itself"),
        ({"default": {1, 2}}, "not JSON"),
        ({"default": float("nan")}, "not JSON"),
        ({"pattern": "(?=a)b"}, "look-around"),
        ({"patternProperties": {"(a{1000}){1000}": {}}}, "size limit"),
        ({"patternProperties": {"a": {}}, "unevaluatedProperties": False}, "together"),
        ({"description": "x" * 300_000}, "characters"),
    ],
)
def test_a_schema_that_is_none_is_refused_with_place(schema: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigurationError, match=place):
        check_schema(schema)


def test_a_schema_may_refer_to_its_own_parts_and_hold_data_that_looks_like_a_reference() -> None:
    tree = {"type": "object", "properties": {"child": {"$ref": "#"}}}
    check_schema(tree)
    assert against({"child": {"child": {}}}, tree) == ""
    assert "at $.child.child" in against({"child": {"child": 3}}, tree)
    escaped = {"$defs": {"a/b~c": {"type": "string"}}, "items": {"$ref": "#/$defs/a~1b~0c"}}
    assert "at $[0]" in against([3], escaped)
    check_schema({"allOf": [{"$ref": "#/allOf/1"}, {"type": "string"}]})
    check_schema({"properties": {"$ref": {"default": {"$ref": "#/nowhere"}}}})
    check_schema({"properties": {"any": True}, "dependencies": {"a": ["b"], "c": {}}})


@pytest.mark.parametrize(
    ("schema", "value", "said"),
    [
        ({"properties": {"n": {"type": "integer"}}}, {"n": "a secret"}, '$.n: {"type": "integer"}'),
        ({"required": ["n"]}, {"m": "a secret"}, "$: 'n' is a required property"),
        ({"properties": {"n": False}}, {"n": "a secret"}, "$: false"),
    ],
)
def test_an_objection_names_the_rule_and_quotes_no_answer(
    schema: dict[str, Any], value: Any, said: str
) -> None:
    assert against(value, schema) == f"the answer does not match its schema at {said}"


def test_deep_values_and_references_that_multiply_are_given_up() -> None:
    value: Any = {}
    for _ in range(900):
        value = {"child": value}
    tree = {"type": "object", "properties": {"child": {"$ref": "#"}}}
    assert "not checked against its schema" in against(value, tree)  # too deep, or too long
    twice = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)}
    schema: dict[str, Any] = {"$ref": "#/$defs/d0", "$defs": twice | {"d30": {}}}
    with pytest.raises(ConfigurationError, match="takes too long to read"):
        check_schema(schema)


HARMFUL = "^(a+)+$"
HARMED = "a" * 5000 + "!"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"pattern": HARMFUL}, HARMED),
        ({"patternProperties": {HARMFUL: False}}, {HARMED: 1, "aa": 1}),
        ({"patternProperties": {HARMFUL: True}, "additionalProperties": False}, {HARMED: 1}),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "pattern": HARMFUL}, HARMED),
        ({"uniqueItems": True}, [{"a": n % 9_999} for n in range(10_000)]),
    ],
)
def test_no_check_takes_more_than_linear_time(schema: dict[str, Any], value: Any) -> None:
    check_schema(schema)
    found = against(value, schema)
    assert "does not match its schema" in found
    assert len(found) < 500


def test_a_check_ends_when_its_time_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    check_schema({"items": {}})
    monkeypatch.setattr(schemas, "LONGEST_CHECK_S", 0.0)
    assert "not checked against its schema: it takes too long" in against([1], {"items": {}})
    with pytest.raises(ConfigurationError, match="takes too long to read"):
        check_schema({"title": "a schema that was not read before"})


def test_patterns_and_names_tell_what_matches() -> None:
    schema = {
        "patternProperties": {"^x-": {"pattern": "^[a-z]+$"}},
        "properties": {"id": {"type": "integer"}},
        "additionalProperties": {"type": "integer"},
    }
    check_schema(schema)
    assert against({"x-a": "b", "id": 1, "c": 2}, schema) == ""
    assert against(3, schema) == ""
    for wrong in ({"x-a": "B"}, {"id": "1"}, {"c": "d"}):
        assert "does not match its schema" in against(wrong, schema)


@pytest.mark.parametrize(
    ("items", "unique"), [([1, True, "1"], True), ([[1], [1]], False), ([{"a": 1}, {"a": 2}], True)]
)
def test_unique_items_differ_as_json_does(items: list[Any], unique: bool) -> None:
    assert (against(items, {"uniqueItems": True}) == "") == unique


def tool(number: int, **parameters: Any) -> dict[str, Any]:
    return {"function": {"name": f"t{number}", "parameters": parameters}}


@pytest.mark.parametrize(
    ("tools", "complaint"),
    [
        ([tool(n) for n in range(schemas.MOST_TOOLS + 1)], "513 tools"),
        ([tool(n, description="x" * 250_000) for n in range(9)], "characters together"),
        ([tool(7, type="text")], "the tool t7 has no valid JSON schema"),
    ],
)
def test_tools_are_limited_in_number_and_size(tools: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        check_tools(tools)
