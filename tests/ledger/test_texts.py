"""Hashes tell equal texts from others."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from cascade.ledger import Pending, Texts, tagged, texts_of
from cascade.ledger.texts import EXAMPLE, text_hash, with_hashes
from cascade.state import Completion, LedgerEntry

ENTRY = LedgerEntry(run_id="r", node="draft")


def test_ids_and_metadata_do_not_change_a_text() -> None:
    one = [SystemMessage("Be brief.", id="1"), HumanMessage("Hi", id="2", name="ada")]
    two = [SystemMessage("Be brief."), HumanMessage("Hi", response_metadata={"x": 1})]
    assert texts_of(one) == texts_of(two)
    assert texts_of(one) != texts_of(one[::-1])


def test_the_order_of_a_part_s_keys_does_not_either() -> None:
    one = [HumanMessage([{"type": "text", "text": "Hi"}])]
    two = [HumanMessage([{"text": "Hi", "type": "text"}])]
    assert texts_of(one) == texts_of(two)


def test_a_role_a_tool_call_and_its_result_do() -> None:
    def calls(city: str, result: str, call_id: str = "1") -> Texts:
        call: Any = {"name": "weather", "args": {"city": city}, "id": call_id}
        return texts_of(
            [
                AIMessage("", tool_calls=[call]),
                ToolMessage(result, tool_call_id="1", name="weather"),
            ]
        )

    assert calls("Rome", "sunny") == calls("Rome", "sunny", call_id="2")
    assert len({calls("Rome", "sunny"), calls("Oslo", "sunny"), calls("Rome", "rain")}) == 3
    assert texts_of([HumanMessage("x")]) != texts_of([AIMessage("x")])


def test_the_prompt_is_readable_json_and_the_answer_has_its_tool_calls() -> None:
    call: Any = {"name": "add", "args": {"a": 1}, "id": "1"}
    completion = Completion("Größe", "m", tool_calls=(call,))
    texts = texts_of([HumanMessage("Größe?")], completion)
    assert json.loads(texts.prompt) == [{"role": "human", "content": "Größe?"}]
    assert "Größe" in texts.prompt
    assert texts.answer == 'Größe\nadd({"a": 1})'
    assert texts_of([]).answer is None


def test_content_that_is_no_json_still_has_a_text() -> None:
    endless: list[Any] = ["x"]
    endless.append({"self": endless})
    odd: Any = [{"type": "text", 1: "mixed", "when": object}]
    for content in (endless, odd):
        message = HumanMessage("")
        message.content = content
        assert json.loads(texts_of([message]).prompt)


@given(st.text(), st.text())
def test_two_texts_share_a_hash_only_if_they_are_equal(one: str, two: str) -> None:
    assert (text_hash(one) == text_hash(two)) == (one == two)
    assert (text_hash(one, b"k") == text_hash(two, b"k")) == (one == two)


def test_the_plain_hash_is_the_beginning_of_sha_256() -> None:
    assert text_hash("yes") == hashlib.sha256(b"yes").hexdigest()[:32]
    assert text_hash("half \ud800")


def test_with_a_key_nobody_finds_a_short_text_by_trying() -> None:
    tried = {text_hash(word) for word in ("yes", "no")}
    keyed = {text_hash("yes", key) for key in (b"one", b"two")}
    assert len(keyed) == 2
    assert not tried & keyed


def test_an_answer_that_never_came_has_no_hash_and_an_empty_one_has() -> None:
    never, empty = (with_hashes(ENTRY, Texts("[]", answer)) for answer in (None, ""))
    assert never.prompt_hash == empty.prompt_hash == text_hash("[]")
    assert never.answer_hash is None
    assert empty.answer_hash == text_hash("")


@pytest.mark.parametrize("kept", [Texts("secret", "secret"), Pending(run_id="r", payload="secret")])
def test_no_log_shows_a_text(kept: object) -> None:
    assert "secret" not in repr(kept)


def test_a_pending_audit_has_the_tags_of_its_run() -> None:
    with tagged(user="1"):
        pending = Pending(run_id="r", payload="{}")
    assert pending.tags == {"user": "1"}


def test_examples_of_a_memory_are_in_no_text_that_is_kept() -> None:
    shown = [HumanMessage("hers", id=f"{EXAMPLE}r"), AIMessage("7", id=f"{EXAMPLE}r-answer")]
    asked = HumanMessage("his")
    assert texts_of([*shown, asked]) == texts_of([asked])
