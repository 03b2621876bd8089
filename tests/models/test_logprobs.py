"""Which log-probabilities count, and which tokens are the answer's and its calls'."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import ToolCall

from cascade.models.logprobs import Tokens, read_logprob
from cascade.models.openai import OpenAIModel
from tests.acceptance.upstream import Upstream
from tests.models.asking import question
from tests.models.asking import tokens as items
from tests.servers import replies


def in_bytes(*parts: bytes) -> list[dict[str, object]]:
    return [
        {"token": part.decode(errors="replace"), "logprob": -1.0, "bytes": list(part)}
        for part in parts
    ]


def spelled(
    sent: object, text: str, *, thinking: str | None = None, tool_calls: bool = False
) -> list[str] | None:
    found = Tokens(sent).of_answer(text, thinking, tool_calls=tool_calls)
    return None if found is None else [token.token for token in found]


# Values


@pytest.mark.parametrize(
    "value", [0.1, -100.1, -9999, math.nan, math.inf, -math.inf, "-0.5", None, True, False, [-1]]
)
def test_what_cannot_be_a_log_probability_is_missing(value: object) -> None:
    assert read_logprob(value) is None


# Tokens of the answer


@pytest.mark.parametrize(
    ("tokens", "text", "thinking", "tool_calls", "kept"),
    [
        (["Par", "is"], "Paris", None, False, ["Par", "is"]),
        ([" Paris", "\n"], "Paris", None, False, [" Paris"]),
        (["Paris", "<|im_end|>"], "Paris", None, False, ["Paris"]),
        (["<pad>", "Paris"], "Paris", None, False, ["Paris"]),
        (["a", "b", "a"], "a", None, False, ["a"]),
        (["a", "b", "a", "c"], "a", None, False, None),
        (["<think>", "x", "</think>", "Par", "is"], "Paris", "x", False, ["Par", "is"]),
        (["Paris", "?", "</think>", "Paris"], "Paris", "Paris?", False, ["Paris"]),
        (["Paris", "</think>", "Paris", "<end>"], "Paris", "Paris", False, ["Paris"]),
        (["other", "</think>", "Paris"], "Paris", "not spelled", False, None),
        (["Sure", "<tool>", "{}"], "Sure", None, True, ["Sure"]),
        (["Sure", "<tool>", "Sure"], "Sure", None, True, None),
        (["<tool>", "{}"], "", None, True, None),
        (["Pari", "s!"], "Paris", None, False, None),
        (["x", "yParis"], "Paris", None, False, None),
        (["Lon", "don"], "Paris", None, False, None),
        ([" "], "", None, False, None),
    ],
)
def test_only_the_tokens_of_the_answer_are_kept(
    tokens: list[str], text: str, thinking: str | None, tool_calls: bool, kept: list[str] | None
) -> None:
    assert spelled(items(*tokens), text, thinking=thinking, tool_calls=tool_calls) == kept


def test_characters_cut_into_tokens_are_put_together_from_their_bytes() -> None:
    odd = {"token": "!", "logprob": -3.0, "bytes": ["not", "bytes"]}
    assert spelled([*in_bytes(*(bytes([b]) for b in "é".encode())), odd], "é!") == ["�", "�", "!"]


@pytest.mark.parametrize(
    ("tokens", "text"), [(["a"] * 200_000, "ba"), (["x", *["a"] * 100_000, "b"], "a" * 20_000)]
)
def test_tokens_that_fit_in_very_many_ways_are_given_up(tokens: list[str], text: str) -> None:
    assert Tokens(items(*tokens)).of_answer(text) is None


@given(
    st.lists(st.text("ab ", min_size=1, max_size=3) | st.text(min_size=1, max_size=5), min_size=1),
    st.lists(st.text("ab ", min_size=1, max_size=3), max_size=6),
)
def test_what_is_kept_always_spells_the_answer(answer: list[str], others: list[str]) -> None:
    text = "".join(answer)
    found = Tokens(items(*others, *answer, *others)).of_answer(text, tool_calls=True)
    if found is not None:
        assert "".join(token.token for token in found).strip() == text.strip()
    alone = Tokens(items(*answer)).of_answer(text)
    assert (alone is not None) == bool(text.encode(errors="replace").strip())


# Tokens of a stream


async def heard(model: Any) -> list[tuple[str, tuple[str, ...]]]:
    """Each piece with the tokens that came with it."""
    return [
        (chunk.text, tuple(token.token for token in chunk.logprobs))
        async for chunk in model.stream(question(logprobs=True))
        if chunk.text
    ]


async def test_a_character_of_several_tokens_waits_for_the_last(
    openai_model: OpenAIModel, server: Upstream
) -> None:
    first, second = (bytes([byte]) for byte in "é".encode())
    deltas = [
        replies.openai_delta(content="", logprobs=in_bytes(first)),
        replies.openai_delta(content="é", logprobs=in_bytes(second)),
        replies.openai_delta(content="t", logprobs=items("t")),
    ]
    server.will(replies.sse([*deltas, replies.openai_delta("stop")]))
    assert await heard(openai_model) == [("é", ("�", "�")), ("t", ("t",))]


CALLED = [{"function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    "strange",
    [
        replies.openai_delta(content="b", logprobs=items("other")),
        replies.openai_delta(content="b"),
        replies.openai_delta(content="b", logprobs=items("b", logprob=-9999)),
        replies.openai_delta(content="b", logprobs=items("b"), reasoning_content="hm"),
        replies.openai_delta(logprobs=items("{"), tool_calls=CALLED),
    ],
    ids=["other text", "none", "placeholder", "thinking", "tool call"],
)
async def test_after_what_cannot_be_trusted_nothing_more_comes(
    strange: dict[str, Any], openai_model: OpenAIModel, server: Upstream
) -> None:
    before = replies.openai_delta(content="a", logprobs=items("a"))
    after = replies.openai_delta(content="c", logprobs=items("c"))
    server.will(replies.sse([before, strange, after, replies.openai_delta("stop")]))
    assert [tokens for _, tokens in await heard(openai_model) if tokens] == [("a",)]


# Tokens of tool calls


def call(name: str = "search", /, **args: Any) -> ToolCall:
    return ToolCall(name=name, args=args, id="1", type="tool_call")


def cut(text: str) -> list[dict[str, object]]:
    """Tokens as models have them: words, single marks, white space before a word."""
    return items(*re.findall(r"\s*\w+|\s*[^\w\s]|\s+$", text))


def kept(sent: object, *calls: ToolCall, thinking: str | None = None) -> list[str] | None:
    found = Tokens(sent).of_calls(calls, thinking)
    return None if found is None else [token.token.strip() for token in found]


ROME = call(q="Rome", n=3)
WRITTEN = '{"name": "search", "arguments": {"q": "Rome"}}'
NOW = '{"name": "now", "arguments": {}}'


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "search", "arguments": {"q": "Rome", "n": 3}}\n</tool_call>',
        '{"name":"search","parameters":{"n":3,"q":"Rome"}}',
        '[TOOL_CALLS][{"name": "search", "arguments": {"q": "Rome", "n": 3}, "id": "a"}]',
        '```json\n{\n "name": "search",\n "arguments": {\n  "q": "Rome",\n  "n": 3\n }\n}\n```',
        '<function=search>{"q": "Rome", "n": 3}</function>',
        'to=functions.search <|constrain|>json<|message|>{"q": "Rome", "n": 3}',
        'I shall search. <tool_call>{"name": "search", "arguments": {"q": "Rome", "n": 3}}',
    ],
)
def test_name_and_values_are_found_in_the_forms_of_many_models(text: str) -> None:
    assert sorted(kept(cut(text), ROME) or ()) == ["3", "Rome", "search"]


@pytest.mark.parametrize(
    ("text", "calls", "found"),
    [
        (NOW, [call("now")], ["now"]),
        (WRITTEN * 2, [call(q="Rome"), call(q="Rome")], ["search", "Rome"] * 2),
        (WRITTEN + NOW, [call(q="Rome"), call("now")], ["search", "Rome", "now"]),
    ],
)
def test_all_calls_of_an_answer_are_found(
    text: str, calls: list[ToolCall], found: list[str]
) -> None:
    assert kept(cut(text), *calls) == found


def test_thinking_about_a_call_is_no_call() -> None:
    sent = [*cut(WRITTEN), *items("</think>"), *cut(WRITTEN)]
    assert kept(sent, call(q="Rome"), thinking=WRITTEN) == ["search", "Rome"]
    assert kept(sent, call(q="Rome"), thinking="another thought") is None


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('{"name": "search", "arguments": {"q": "Oslo"}}', [call(q="Rome")]),
        ('{"name": "research", "arguments": {"q": "Rome"}}', [call(q="Rome")]),
        ('{"search": {"q": "Rome"}}', [call(q="Rome")]),
        (WRITTEN, [call(q="Rome"), call("now")]),
        ("search, since " + "x " * 60 + '{"q": "Rome"}', [call(q="Rome")]),
        ('{"name": "search", "arguments": {"q": "Rome"', [call(q="Rome")]),
        ("<function=search><parameter=q>Rome</parameter></function>", [call(q="Rome")]),
        ("{" * 20_000, [call(q="Rome")]),
        ('{"a":' * 5000, [call(q="Rome")]),
        ("x" * 2_000_000 + WRITTEN, [call(q="Rome")]),
        (WRITTEN, []),
    ],
)
def test_what_is_not_found_is_missing(text: str, calls: list[ToolCall]) -> None:
    assert kept(cut(text), *calls) is None


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
    raw = json.dumps({"name": "a_tool", "arguments": args}, ensure_ascii=False).encode()
    sent, place = [], 0
    while place < len(raw):
        size = data.draw(st.integers(1, 5))
        sent += in_bytes(raw[place : place + size])
        place += size
    found = Tokens(sent).of_calls([call("a_tool", **args)])
    assert found is not None
    assert "a_tool" in "".join(token.token for token in found).replace('"', "")
