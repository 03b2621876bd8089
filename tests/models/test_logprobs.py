"""Which log-probabilities count, and which tokens are the answer's."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.models.logprobs import Growing, _bytes_of_letters, answer_logprobs, read_logprob


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


@pytest.mark.parametrize("value", [-9999.0, 0.5, math.nan, None])
def test_an_answer_with_a_token_of_no_value_has_none(value: object) -> None:
    assert spelled([*items("Par"), *items("is", logprob=value), *items("!")], "Paris!") is None


def test_tokens_beside_the_answer_need_no_value() -> None:
    sent = [*items("Paris"), *items("<|im_end|>", logprob=-9999.0)]
    assert spelled(sent, "Paris") == ["Paris"]


def test_a_certain_token_may_be_a_rounding_above_zero() -> None:
    assert read_logprob(1e-7) == 0.0


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


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["ĠPar", "is"], "Paris"),
        (["caf", "Ã©", "Ċ", "Ġnoir"], "café\n noir"),
        (["▁Par", "is", "▁is", "▁<", "0x", ">"], "Paris is <0x>"),
        (["▁caf", "<0xC3>", "<0xA9>"], "café"),
        (["Paris", "is", "big"], "Paris is big"),
    ],
)
def test_a_trusted_list_may_spell_in_the_alphabet_of_its_vocabulary(
    tokens: list[str], text: str
) -> None:
    found = answer_logprobs(items(*tokens), text, trusted=True)
    assert found is not None
    assert [token.token for token in found] == tokens
    assert answer_logprobs(items(*tokens), text, trusted=True, tool_calls=True) is None


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["Lon", "don"], "Paris"),
        (["Paris", "is"], "Paris is big"),
        (["None", "None"], "Paris is"),
        (["ĠPar", "is"], ""),
    ],
)
def test_a_trusted_list_of_another_text_is_none(tokens: list[str], text: str) -> None:
    assert answer_logprobs(items(*tokens), text, trusted=True) is None


@given(st.text(min_size=1))
def test_byte_level_tokens_spell_any_text(text: str) -> None:
    letters = {byte: letter for letter, byte in _bytes_of_letters().items()}
    raw = "".join(letters[byte] for byte in text.encode(errors="replace"))
    found = answer_logprobs(items(raw), text, trusted=True)
    assert (found is None) == (not text.strip())


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["a"] * 200_000, "ba"),
        (["b", *["a"] * 100_000, "b"], "a" * 20_000),
        (["x\ufffd\ufffd\ufffd"] * 1000, "x" * 3000 + "y"),
        (["\ufffd" * 1000, "y"] * 30, "x" * 30_000),
    ],
)
def test_tokens_that_fit_in_a_million_ways_are_given_up(tokens: list[str], text: str) -> None:
    assert answer_logprobs(items(*tokens), text) is None


def test_a_stream_whose_tokens_run_far_ahead_of_its_text_is_not_followed() -> None:
    near, far = Growing(), Growing()
    assert near.add(items(*"Paris"), "P", plain=True) == ()
    assert len(near.add([], "aris", plain=True)) == 5
    assert far.add(items(*["a"] * 1000), "a", plain=True) == ()
    assert far.add([], "a" * 999, plain=True) == ()


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
