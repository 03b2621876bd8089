"""The tokens of a tool call's name and argument values, among all that a provider sends."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolCall

from cascade.models import Request, ollama_wire, openai_wire
from cascade.models.called import call_logprobs, call_tokens
from cascade.models.langchain import LangChainModel
from cascade.models.logprobs import spelling
from cascade.models.recording import Header, answer_line, header_line, read_recording
from cascade.models.replay import ReplayModel
from cascade.state import Completion, TokenLogprob
from cascade.testing import reply


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


def test_a_value_with_very_many_unknown_places_is_found() -> None:
    text = '{"name": "search", "arguments": {"q": "' + "a\ufffd" * 60 + '"}}'
    assert kept(items(text), call(q="aé" * 60)) == [text]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (("\ufffd" * 1000 + "y") * 30, "x" * 30_000),
        ("{" * 20_000, "a"),
    ],
)
def test_a_call_that_fits_in_a_million_ways_is_given_up(text: str, value: str) -> None:
    said = '{"name": "search", "arguments": {"q": "' + text + '"}}'
    assert kept(items(said), call(q=value)) is None


def test_very_many_calls_are_given_up() -> None:
    calls = [call(q=str(number)) for number in range(101)]
    said = "".join(json.dumps({"name": "search", "arguments": c["args"]}) for c in calls)
    assert call_logprobs(items(said), calls) is None
    assert call_logprobs(items(said), calls[:100]) is not None


def test_a_very_long_call_does_not_hold_up_the_loop() -> None:
    """Some 10,000 values in 50,000 tokens: tokens and values are walked through once."""
    args = {"rows": [{"a": i, "b": "ü"} for i in range(5_000)]}
    text = json.dumps({"name": "search", "arguments": args}, ensure_ascii=False)
    found = kept(cut(text), call(**args))
    assert found is not None
    assert len(found) == 10_001


def test_values_that_are_nested_very_deeply_are_missing_and_no_error() -> None:
    deep: list[Any] = []
    for _ in range(600):
        deep = [deep]
    text = '{"name": "search", "arguments": {"q": ' + "[" * 601 + "]" * 601 + "}}"
    assert kept(items(text), call(q=deep)) in (None, [text])


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


# --- in the replies of providers

PIECES = (
    '<tool_call>\n{"name": "',
    "search",
    '", "arguments": {"q": "',
    "Rome",
    '"}}\n</tool_call>',
)


def named(completion: Completion) -> list[str] | None:
    found = completion.call_logprobs
    return None if found is None else [token.token for token in found]


@pytest.mark.parametrize("thinking", [None, "Let me search."])
def test_a_reply_in_openais_format_has_the_logprobs_of_its_call(thinking: str | None) -> None:
    function = {"name": "search", "arguments": '{"q": "Rome"}'}
    message = {"content": None, "tool_calls": [{"id": "1", "function": function}]}
    thought = [] if thinking is None else [thinking, "</think>"]
    choice = {
        "finish_reason": "tool_calls",
        "message": message | ({} if thinking is None else {"reasoning_content": thinking}),
        "logprobs": {"content": items(*thought, *PIECES)},
    }
    answer = openai_wire.Answer()
    answer.add({"choices": [choice], "usage": None})
    completion = answer.completion(asked_for="m")
    assert named(completion) == ["search", "Rome"]
    assert completion.logprobs is None
    assert completion.decisive_logprobs == completion.call_logprobs


def test_a_stream_of_ollamas_has_the_logprobs_of_its_call() -> None:
    answer = ollama_wire.Answer()
    for piece in PIECES:
        answer.add({"message": {"content": ""}, "logprobs": items(piece)})
    function = {"name": "search", "arguments": {"q": "Rome"}}
    answer.add({"message": {"content": "", "tool_calls": [{"function": function}]}, "done": True})
    assert named(answer.completion(asked_for="m")) == ["search", "Rome"]


@pytest.mark.parametrize("form", ["openai", "ollama"])
async def test_a_chat_model_of_langchains_hands_them_on(form: str) -> None:
    sent = items(*PIECES)
    metadata = {"logprobs": {"content": sent} if form == "openai" else sent}
    message = AIMessage("", tool_calls=[call(q="Rome")], response_metadata=metadata)
    model = LangChainModel(FakeMessagesListChatModel(responses=[message]))
    assert named(await model.complete(Request((HumanMessage("?"),)))) == ["search", "Rome"]


def test_an_answer_of_text_is_judged_by_its_text() -> None:
    completion = Completion("hi", "m", logprobs=(TokenLogprob("hi", -0.1),))
    assert completion.decisive_logprobs == completion.logprobs


def test_a_recording_keeps_them(tmp_path: Path) -> None:
    kept = reply("", tool_calls=[call(q="Rome")], call_probability=0.5)
    request = Request((HumanMessage("?"),))
    header = header_line(Header(model="scripted:m"))
    path = tmp_path / "calls.jsonl"
    path.write_text(header + answer_line(request, kept), encoding="utf-8")
    model = ReplayModel(path)
    assert model.returns_logprobs
    (answers,) = read_recording(path).answers.values()
    assert answers[0].call_logprobs == kept.call_logprobs
