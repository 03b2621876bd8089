"""Conversations in every form that LangChain allows, and options in any combination."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from cascade import Audits, Cascade, Price, Tier
from cascade.errors import ConfigurationError, InputError, PersonNeededError
from cascade.ledger import MemoryLedger
from cascade.models import ollama_wire, openai_wire
from cascade.models.base import Request
from cascade.models.recording import answer_line, request_key
from cascade.questions import to_messages
from cascade.testing import ScriptedModel, reply
from tests.laws import made

ANY_TEXT = st.text(max_size=8) | st.sampled_from(
    ["", " ", "\0", "\ud83d", "\ufeffa", "a\u202eb", "🧪"]
)
URL = st.sampled_from(["data:image/png;base64,AAAA", "https://example.org/a.png", "", "nonsense"])
PARTS = st.one_of(
    ANY_TEXT,
    st.builds(lambda text: {"type": "text", "text": text}, ANY_TEXT),
    st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, URL),
    st.builds(lambda url: {"type": "image_url", "image_url": url}, URL),
    st.builds(lambda url: {"type": "image", "url": url}, URL),
    st.just({"type": "image", "base64": "AAAA", "mime_type": "image/png"}),
    st.just({"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"}),
    st.just(
        {"type": "file", "base64": "AAAA", "mime_type": "application/pdf", "filename": "a.pdf"}
    ),
    st.just({"type": "reasoning", "reasoning": "hm"}),
    st.just({"type": "thinking", "thinking": "hm", "signature": "s"}),
    st.just({"type": "tool_use", "id": "c", "name": "f", "input": {}}),
    st.just({"type": "non_standard", "value": {"a": 1}}),
    st.just({"type": "unheard_of"}),
    st.just({}),
)
CONTENT = ANY_TEXT | st.lists(PARTS, max_size=3)
IDS = st.sampled_from(["c", "d", ""])
CALLS = st.lists(
    st.builds(
        lambda name, args, call_id: {"name": name, "args": args, "id": call_id},
        ANY_TEXT,
        st.dictionaries(ANY_TEXT, made.JSON, max_size=1),
        st.none() | IDS,
    ),
    max_size=2,
)
OBJECTS: st.SearchStrategy[BaseMessage] = st.one_of(
    st.builds(HumanMessage, content=CONTENT),
    st.builds(SystemMessage, content=CONTENT),
    st.builds(AIMessage, content=CONTENT, tool_calls=CALLS),
    st.builds(ToolMessage, content=CONTENT, tool_call_id=IDS),
    st.builds(ChatMessage, content=ANY_TEXT, role=st.sampled_from(["user", "critic", ""])),
    st.builds(FunctionMessage, content=ANY_TEXT, name=st.just("f")),
)
ROLES = st.sampled_from(["user", "human", "system", "assistant", "ai", "tool", "developer", "odd"])
MESSAGES = st.one_of(
    OBJECTS,
    ANY_TEXT,
    st.tuples(ROLES, CONTENT),
    st.fixed_dictionaries(
        {"role": ROLES, "content": CONTENT | st.none()},
        optional={"tool_call_id": IDS, "name": ANY_TEXT, "tool_calls": CALLS},
    ),
)
LISTS = st.lists(MESSAGES, max_size=5)
QUESTIONS = st.one_of(
    ANY_TEXT,
    LISTS,
    st.builds(lambda messages: {"messages": messages}, LISTS),
    st.sampled_from([None, 5, b"bytes", {}, {"messages": None}, {"question": "a"}]),
)
PRICE = Price(input=1, output=2)


@pytest.fixture(scope="module")
def answering() -> Cascade:
    small = Tier(ScriptedModel("yes", logprobs=0.9), price=PRICE)
    return Cascade(small, Tier(ScriptedModel("no"), price=PRICE), ledger=MemoryLedger())


@settings(max_examples=60)
@given(QUESTIONS)
def test_a_question_in_any_form_is_answered_or_refused_as_input(
    answering: Cascade, question: Any
) -> None:
    try:
        result = answering.invoke(question)
    except InputError:
        return
    assert result.answer == "yes"
    assert len([entry for entry in result.ledger if entry.model]) == 1


@settings(max_examples=60)
@given(QUESTIONS)
def test_what_was_taken_as_a_question_can_be_sent_to_every_provider(question: Any) -> None:
    try:
        request = Request(messages=tuple(to_messages(question)))
        payload = openai_wire.chat_payload(request)
        assert len(request_key(request)) == 32
    except InputError:
        return
    json.dumps(payload, ensure_ascii=False, allow_nan=False).encode()
    answer_line(request, reply("yes")).encode()
    try:
        payload = ollama_wire.chat_payload(request, {})
    except ollama_wire.UnreadableContentError:
        return
    json.dumps(payload, ensure_ascii=False, allow_nan=False).encode()


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "price_of_error": st.sampled_from([None, 0, 0.05, -1, "x", float("nan")]),
        "max_harm": st.sampled_from([None, 0.1, 2]),
        "escalation_budget": st.sampled_from([None, 0.2, 0, 1, 2]),
        "deadline": st.sampled_from([None, 30, 0, -1]),
        "hedge": st.sampled_from([False, True, 2.0, -1]),
        "audit_rate": st.sampled_from([None, 0, 0.5, 2, Audits(rate=0.1)]),
        "local_only": st.booleans(),
        "drift": st.sampled_from([None, "warn", "tighten", "odd"]),
        "ledger": st.sampled_from([None, "memory"]),
        "signals": st.sampled_from([None, (), ["logprobs"], ["odd"], ["p_true"]]),
        "name": st.sampled_from(["a", "", "a b"]),
        "mode": st.sampled_from(["live", "shadow", "canary", "odd"]),
        "latch": st.booleans(),
        "response_format": st.sampled_from([None, {"type": "object"}, 5]),
        "tags": st.sampled_from([None, {"a": "b"}, {"a": 1}]),
    },
)


@settings(max_examples=60)
@given(OPTIONS)
def test_options_in_any_combination_answer_or_are_refused_by_name(options: dict[str, Any]) -> None:
    if options.get("ledger") == "memory":
        options["ledger"] = MemoryLedger()
    small = Tier(ScriptedModel("{}", logprobs=0.9), price=PRICE)
    large = Tier(ScriptedModel("{}"), price=PRICE)
    try:
        cascade = Cascade(small, large, **options)
    except ConfigurationError:
        return
    with cascade:
        try:
            result = cascade.invoke("2 + 2?")
        except PersonNeededError:
            return
    assert result.answer == "{}"
    figures = [entry.cost_usd for entry in result.ledger]
    assert None in figures or result.ledger.cost_usd == sum(figures)  # type: ignore[arg-type]
