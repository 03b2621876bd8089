"""Which log-probabilities count, and which tokens are the answer's."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.models.logprobs import answer_logprobs, read_logprob


def items(*tokens: str, logprob: object = -0.5) -> list[dict[str, object]]:
    return [{"token": token, "logprob": logprob} for token in tokens]


def spelled(
    sent: object, text: str, *, thinking: str | None = None, tool_calls: bool = False
) -> list[str] | None:
    found = answer_logprobs(sent, text, thinking=thinking, tool_calls=tool_calls)
    return None if found is None else [token.token for token in found]


@pytest.mark.parametrize("value", [0, -0.0, -1, -0.5, -100.0])
def test_a_log_probability_is_kept(value: float) -> None:
    assert read_logprob(value) == value


@pytest.mark.parametrize(
    "value", [0.1, -100.1, -9999, math.nan, math.inf, -math.inf, "-0.5", None, True, False, [-1]]
)
def test_what_cannot_be_a_log_probability_is_missing(value: object) -> None:
    assert read_logprob(value) is None


def test_a_token_without_a_usable_value_is_dropped() -> None:
    sent = [*items("Par"), *items("is", logprob=-9999.0), *items("!", logprob=0.5)]
    assert spelled(sent, "Paris!") == ["Par"]


def test_none_is_left_when_no_value_is_usable() -> None:
    assert spelled(items("Paris", logprob=math.nan), "Paris") is None


@pytest.mark.parametrize("sent", [None, [], "text", 7, {"token": "Paris"}, ["Paris"]])
def test_what_is_no_list_of_tokens_is_none(sent: object) -> None:
    assert spelled(sent, "Paris") is None


def test_odd_alternatives_are_left_out() -> None:
    token = {"token": "a", "logprob": -1.0, "top_logprobs": [{"token": "b"}, 3, {"logprob": -2}]}
    found = answer_logprobs([token, {"token": "c", "logprob": -1, "top_logprobs": 5}], "ac")
    assert found is not None
    assert [t.top for t in found] == [(("", -2.0),), ()]


@pytest.mark.parametrize(
    ("tokens", "text", "thinking", "tool_calls", "kept"),
    [
        (["Par", "is"], "Paris", None, False, ["Par", "is"]),
        ([" Paris", "\n"], "Paris", None, False, [" Paris"]),
        (["Paris", "<|im_end|>"], "Paris", None, False, ["Paris"]),
        (["<pad>", "Paris"], "Paris", None, False, ["Paris"]),
        (["a", "b", "a"], "a", None, False, ["a"]),
        (["<think>", "x", "</think>", "Par", "is"], "Paris", "x", False, ["Par", "is"]),
        (["Paris", "?", "</think>", "Paris"], "Paris", "Paris?", False, ["Paris"]),
        (["Paris", "</think>", "Paris", "<end>"], "Paris", "Paris", False, ["Paris"]),
        (["other", "</think>", "Paris"], "Paris", "not spelled", False, None),
        (["Sure", "<tool>", "{}"], "Sure", None, True, ["Sure"]),
        (["Sure", "<tool>", '"Sure"'], "Sure", None, True, ["Sure"]),
        (["Sure", "<tool>", "Sure"], "Sure", None, True, None),
        (["<tool>", "{}"], "", None, True, None),
        (["Pari", "s!"], "Paris", None, False, None),
        (["x", "yParis"], "Paris", None, False, None),
        (["Lon", "don"], "Paris", None, False, None),
        (["x Paris y", "Paris"], "Paris", None, True, ["Paris"]),
    ],
)
def test_only_the_tokens_of_the_answer_are_kept(
    tokens: list[str], text: str, thinking: str | None, tool_calls: bool, kept: list[str] | None
) -> None:
    assert spelled(items(*tokens), text, thinking=thinking, tool_calls=tool_calls) == kept


def test_characters_cut_into_tokens_are_put_together_from_their_bytes() -> None:
    first, second = "é".encode()
    sent = [
        {"token": "�", "logprob": -1.0, "bytes": [first]},
        {"token": "�", "logprob": -2.0, "bytes": [second]},
        {"token": "!", "logprob": -3.0, "bytes": ["not", "bytes"]},
    ]
    assert spelled(sent, "é!") == ["�", "�", "!"]


@pytest.mark.parametrize(
    ("tokens", "text", "kept"),
    [
        (["caf", "��", "!"], "café!", ["caf", "��", "!"]),
        (["caf", "��", "?"], "café!", None),
        (["��"], "", None),
    ],
)
def test_characters_cut_into_tokens_without_bytes(
    tokens: list[str], text: str, kept: list[str] | None
) -> None:
    assert spelled(items(*tokens), text) == kept


def test_a_trusted_list_is_kept_when_it_spells_otherwise() -> None:
    sent = items("ĠPar", "is")
    assert answer_logprobs(sent, "Paris") is None
    found = answer_logprobs(sent, "Paris", trusted=True)
    assert found is not None
    assert len(found) == 2
    assert answer_logprobs(sent, "Paris", trusted=True, tool_calls=True) is None
    assert answer_logprobs(sent, "", trusted=True) is None


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=8))
def test_tokens_that_spell_the_text_are_all_kept_but_for_white_space(tokens: list[str]) -> None:
    text = "".join(tokens)
    found = answer_logprobs(items(*tokens), text)
    if text.encode().strip():
        assert found is not None
        assert "".join(token.token for token in found).strip() == text.strip()


@given(
    st.lists(st.text("ab ", min_size=1, max_size=3), min_size=1, max_size=6),
    st.lists(st.text("ab ", min_size=1, max_size=3), max_size=6),
)
def test_what_is_kept_always_spells_the_answer(answer: list[str], others: list[str]) -> None:
    text = "".join(answer)
    found = answer_logprobs(items(*others, *answer, *others), text, tool_calls=True)
    if found is not None:
        assert "".join(token.token for token in found).strip() == text.strip()
