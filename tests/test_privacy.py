"""The rule for what is personal."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from cascade.privacy import looks_personal


@pytest.mark.parametrize(
    "text",
    [
        "write to bob@example.org",
        "my card is 4111 1111 1111 1111",
        "call 030-1234 5678",
        "the key is sk-abcdefghijkl",
        "Authorization: Bearer abc",
    ],
)
def test_addresses_keys_and_long_numbers_are_personal(text: str) -> None:
    assert looks_personal([HumanMessage(text)])
    assert looks_personal([SystemMessage("Be brief."), HumanMessage(text), HumanMessage("Well?")])
    assert looks_personal([HumanMessage([{"type": "text", "text": text}])])
    assert looks_personal([ToolMessage(text, tool_call_id="1")])


@pytest.mark.parametrize("text", ["", "What is 12345 times 3?", "Since 2024-01-31, pi is 3.14159"])
def test_plain_questions_are_not(text: str) -> None:
    assert not looks_personal([HumanMessage(text)])
    assert not looks_personal([HumanMessage(["Well: ", {"type": "text", "text": text}])])


def call(to: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "send", "args": {"to": to}, "id": "1"}])


def test_tool_calls_are_read() -> None:
    assert looks_personal([call("bob@example.org")])
    assert not looks_personal([call("everybody")])
    block: Any = {"type": "tool_use", "id": "1", "name": "send", "input": {"to": "everybody"}}
    assert not looks_personal([AIMessage([block])])
    assert looks_personal([AIMessage([{**block, "input": {"to": "bob@example.org"}}])])


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image_url", "image_url": {"url": "https://example.org/me.png"}},
        {"type": "image", "base64": "aGk=", "mime_type": "image/png"},
        {"type": "text", "text": None},
    ],
)
def test_what_cannot_be_read_counts_as_personal(block: Any) -> None:
    assert looks_personal([HumanMessage([{"type": "text", "text": "Who is this?"}, block])])
