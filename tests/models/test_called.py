"""The tokens of a tool call's name and argument values, among all that a provider sends."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import ToolCall

from cascade.models.called import call_logprobs, call_tokens
from cascade.models.logprobs import spelling
from cascade.state import TokenLogprob


def call(name: str = "search", /, **args: Any) -> ToolCall:
    return ToolCall(name=name, args=args, id="1", type="tool_call")


def items(*tokens: str, logprob: object = -0.5) -> list[dict[str, object]]:
    return [{"token": token, "logprob": logprob} for token in tokens]


def cut(text: str) -> list[dict[str, object]]:
    """Tokens as models have them: words, single marks, white space before a word."""
    return items(*re.findall(r"\s*\w+|\s*[^\w\s]|\s+$", text))


def kept(sent: object, *calls: ToolCall, thinking: str | None = None) -> list[str] | None:
    found = call_logprobs(sent, calls, thinking=thinking)
    return None if found is None else [token.token for token in found]


ROME = call(q="Rome", n=3)


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "search", "arguments": {"q": "Rome", "n": 3}}\n</tool_call>',
        '{"name": "search", "arguments": {"q": "Rome", "n": 3}}',
        '{"name":"search","parameters":{"n":3,"q":"Rome"}}',
        '[TOOL_CALLS][{"name": "search", "arguments": {"q": "Rome", "n": 3}, "id": "a"}]',
        '{"tool_call": {"name": "search", "arguments": {"q": "Rome", "n": 3}}}',
        '```json\n{\n "name": "search",\n "arguments": {\n  "q": "Rome",\n  "n": 3\n }\n}\n```',
        '<function=search>{"q": "Rome", "n": 3}</function>',
        'to=functions.search <|constrain|>json<|message|>{"q": "Rome", "n": 3}',
        'I shall search. <tool_call>{"name": "search", "arguments": {"q": "Rome", "n": 3}}',
    ],
)
def test_name_and_values_are_found_in_the_forms_of_many_models(text: str) -> None:
    found = kept(cut(text), ROME)
    assert found is not None
    assert sorted(token.strip() for token in found) == ["3", "Rome", "search"]


def test_quotes_braces_and_keys_do_not_count() -> None:
    sent = items('{"', "name", '":', ' "', "search", '",', ' "', "arguments", '":', ' {"', "q")
    sent += items('":', ' "', "Ro", "me", '",', ' "', "n", '":', " ", "3", "}}", logprob=-2.0)
    found = call_logprobs(sent, [ROME])
    assert found is not None
    assert [(t.token, t.logprob) for t in found] == [
        ("search", -0.5),
        ("Ro", -2.0),
        ("me", -2.0),
        ("3", -2.0),
    ]


def test_a_token_that_spells_value_and_punctuation_counts() -> None:
    sent = items('{"name": "search", "arguments": {', '"q": ', '"Rome"', ', "n": 3}}')
    assert kept(sent, ROME) == [
        '{"name": "search", "arguments": {',
        '"Rome"',
        ', "n": 3}}',
    ]


def test_values_of_every_kind_and_depth_count() -> None:
    args = {
        "path": 'a\\b "c".txt',
        "empty": "",
        "none": None,
        "yes": True,
        "list": ["x", 1.5, []],
        "object": {"key": {"deep": -2}, "nothing": {}},
    }
    text = json.dumps({"name": "search", "arguments": args})
    found = "".join(kept(items(*text), call(**args)) or ())
    assert found == r"search" + r"a\\b \"c\".txt" + '""' + "null" + "true" + "x1.5[]" + "-2{}"


def test_a_call_without_arguments_is_judged_by_its_name() -> None:
    text = '{"name": "now", "arguments": {}}'
    assert kept(cut(text), call("now")) == ["now"]


def test_two_calls_are_both_found() -> None:
    first, second = call(q="Rome"), call("now")
    text = '{"name": "search", "arguments": {"q": "Rome"}}{"name": "now", "arguments": {}}'
    assert kept(cut(text), first, second) == ["search", "Rome", "now"]


def test_the_same_call_twice_is_found_twice() -> None:
    text = '{"name": "search", "arguments": {"q": "Rome"}}' * 2
    assert kept(cut(text), call(q="Rome"), call(q="Rome")) == ["search", "Rome"] * 2


def test_thinking_about_a_call_is_no_call() -> None:
    thought = '{"name": "search", "arguments": {"q": "Rome"}}'
    sent = [*cut(thought), *items("</think>"), *cut(thought)[:-1], *items("}", logprob=-1.0)]
    assert kept(sent, call(q="Rome"), thinking=thought) == ["search", "Rome"]
    assert kept(sent, call(q="Rome"), thinking="another thought") is None


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('{"name": "search", "arguments": {"q": "Oslo"}}', [call(q="Rome")]),
        ('{"name": "find", "arguments": {"q": "Rome"}}', [call(q="Rome")]),
        ('{"name": "research", "arguments": {"q": "Rome"}}', [call(q="Rome")]),
        ('{"search": {"q": "Rome"}}', [call(q="Rome")]),
        ('{"name": "search", "arguments": {"q": "Rome"}}' * 2, [call(q="Rome")]),
        ('{"name": "search", "arguments": {"q": "Rome"}}', [call(q="Rome"), call("now")]),
        ("search, since " + "x " * 60 + '{"q": "Rome"}', [call(q="Rome")]),
        ('{"name": "search", "arguments": {"q": "Rome"', [call(q="Rome")]),
        ("<function=search><parameter=q>Rome</parameter></function>", [call(q="Rome")]),
        ('{"name": "search", "arguments": {"n": true}}', [call(n=1)]),
        ('{"name": "search", "arguments": {"n": [1]}}', [call(n=[1, 2])]),
        ("{" * 2000, [call(q="Rome")]),
        ('{"a":' * 5000, [call(q="Rome")]),
        ('{"name": "search", "arguments": {"q": "Rome"}}', []),
    ],
)
def test_what_is_not_found_in_one_way_is_missing(text: str, calls: list[ToolCall]) -> None:
    assert kept(cut(text), *calls) is None


@pytest.mark.parametrize("sent", [None, [], "search", 7, {"token": "search"}, ["search"]])
def test_what_is_no_list_of_tokens_is_missing(sent: object) -> None:
    assert kept(sent, ROME) is None


def test_tokens_without_a_usable_value_are_dropped() -> None:
    text = '{"name": "now", "arguments": {}}'
    assert kept(items(*text, logprob=-9999), call("now")) is None


def test_characters_cut_into_tokens_are_found_by_their_bytes() -> None:
    first, second = "é".encode()
    sent = [
        *items('{"name": "search", "arguments": {"q": "', "caf"),
        {"token": "\ufffd", "logprob": -1.0, "bytes": [first]},
        {"token": "\ufffd", "logprob": -2.0, "bytes": [second]},
        *items('"}}'),
    ]
    found = call_logprobs(sent, [call(q="café")])
    assert found is not None
    assert [token.logprob for token in found][-2:] == [-1.0, -2.0]


@pytest.mark.parametrize(("value", "there"), [("café!", True), ("cafe?", False)])
def test_characters_cut_into_tokens_without_bytes_are_found_nearly(value: str, there: bool) -> None:
    sent = items('{"name": "search", "arguments": {"q": "', "caf", "\ufffd", "\ufffd", '!"}}')
    assert (kept(sent, call(q=value)) is not None) == there


def test_calls_that_were_written_as_text_are_found_in_its_tokens() -> None:
    pieces = ('{"name": "', "search", '", "arguments": {"q": "', "Rome", '"}}')
    tokens = [TokenLogprob(piece, -0.5) for piece in pieces]
    assert call_tokens(tokens, [call(q="Rome")]) == (tokens[1], tokens[3])
    assert call_tokens(tokens, [call(q="Oslo")]) is None
    assert call_tokens(None, [call(q="Rome")]) is None


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    texts | st.integers(-9, 99) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(texts, values, max_size=3), st.data())
def test_however_a_call_is_cut_into_tokens_its_name_and_values_are_covered(
    args: dict[str, Any], data: st.DataObject
) -> None:
    text = json.dumps({"name": "a_tool", "arguments": args}, ensure_ascii=False)
    raw, sent, place = text.encode(), [], 0
    while place < len(raw):
        size = data.draw(st.integers(1, 5))
        piece = raw[place : place + size]
        sent.append(
            {"token": piece.decode(errors="replace"), "logprob": -1.0, "bytes": list(piece)}
        )
        place += size
    found = call_logprobs(sent, [call("a_tool", **args)])
    assert found is not None
    assert len(found) <= len(sent)
    covered = b"".join(spelling({"token": token.token}) for token in found).decode()
    assert len(covered) >= len("a_tool")
