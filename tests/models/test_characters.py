"""Halves of characters do not spoil a conversation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage

from cascade.models import Request
from cascade.models.base import Model
from cascade.models.characters import sendable, whole
from cascade.models.ollama import OllamaModel
from cascade.models.openai import OpenAIModel
from tests.servers.fake import FakeServer


@given(st.text())
def test_whole_characters_are_left_alone(text: str) -> None:
    assert whole(text) == text


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("a\ud83d", "a\ufffd"),
        ("\ude00b", "\ufffdb"),
        ("\ud83d\ude00", "😀"),
        ("é\ud83d!", "é\ufffd!"),
    ],
)
def test_halves_are_put_together_or_replaced(text: str, made: str) -> None:
    assert whole(text) == made


def test_every_text_of_a_conversation_is_of_whole_characters() -> None:
    call = {"name": "search", "args": {"q": "\ud83d"}, "id": "1", "type": "tool_call"}
    text = {"type": "text", "text": "see \ud83d"}
    messages = [
        HumanMessage([text, {"type": "image_url", "image_url": {"url": "data:,"}}]),
        AIMessage("it is \ud83d", tool_calls=[call]),
    ]
    sent: list[dict[str, Any]] = sendable(messages)
    assert sent[0]["content"][0] == {"type": "text", "text": "see \ufffd"}
    assert sent[1]["content"] == "it is \ufffd"
    str(sent).encode()


@pytest.mark.parametrize("kind", [OpenAIModel, OllamaModel])
async def test_a_conversation_with_half_a_character_goes_on(
    kind: type[OpenAIModel] | type[OllamaModel], server: FakeServer
) -> None:
    url = server.openai_url if kind is OpenAIModel else server.url
    model: Model = kind("m", base_url=url)
    turns = (HumanMessage("?"), AIMessage("Canberra \ud83d"), HumanMessage("really?"))
    assert (await model.complete(Request(turns))).text == "REALLY?"
    assert server.last.body["messages"][1]["content"] == "Canberra \ufffd"
    await model.aclose()
