"""P(True) from the reply to a self-check."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage

from cascade.confidence import check_messages, p_true
from cascade.confidence.p_true import QUESTION
from cascade.state import Completion, TokenLogprob


def token(*alternatives: tuple[str, float], sampled: str | None = None) -> TokenLogprob:
    """A token whose alternatives have these probabilities; the first one is sampled."""
    top = tuple((text, math.log(chance)) for text, chance in alternatives)
    return TokenLogprob(sampled or top[0][0], top[0][1], top)


def check(*tokens: TokenLogprob, text: str = "") -> Completion:
    return Completion(text=text, model="m", logprobs=tokens or None)


def test_the_mass_is_taken_over_all_spellings_of_both_words() -> None:
    reply = check(
        token(
            ("True", 0.3),
            (" true", 0.2),
            ("TRUE", 0.1),
            ("False.", 0.15),
            (" no", 0.05),
            ("I", 0.2),
        )
    )
    assert p_true(reply) == pytest.approx(0.6 / 0.8)


def test_the_sampled_word_does_not_decide() -> None:
    reply = check(token(("True", 0.45), ("false", 0.3), ("False", 0.25)), text="True")
    assert p_true(reply) == pytest.approx(0.45)


@pytest.mark.parametrize(
    "word", ["True", " true", "TRUE", "True.", "**True**", "▁True", "ĠTrue", "Yes,"]
)
def test_spellings_of_true_are_read(word: str) -> None:
    assert p_true(check(token((word, 0.75), ("False", 0.25)))) == pytest.approx(0.75)


@pytest.mark.parametrize("word", ["False", " false", "FALSE", "False.", "'False'", "No", "Wrong"])
def test_spellings_of_false_are_read(word: str) -> None:
    assert p_true(check(token((word, 0.75), ("True", 0.25)))) == pytest.approx(0.25)


def test_the_answering_token_may_come_after_white_space() -> None:
    blank = token(("\n", 0.9), ("False", 0.05), ("x", 0.05))
    assert p_true(check(blank, token(("True", 0.9), ("False", 0.1)))) == pytest.approx(0.9)


def test_blank_tokens_count_where_nothing_follows() -> None:
    assert p_true(check(token(("\n", 0.2), ("True", 0.6), ("False", 0.2)))) == pytest.approx(0.75)


def test_an_unlisted_word_may_be_as_likely_as_the_least_likely_listed_one() -> None:
    """A reply that names one word alone is no certainty about it."""
    one = token(("True", 0.6), ("The", 0.2), ("Answer", 0.15))
    assert p_true(check(one)) == pytest.approx(0.6 / 0.65)
    against = token(("False", 0.6), ("The", 0.2), ("Answer", 0.15))
    assert p_true(check(against)) == pytest.approx(0.05 / 0.65)


@pytest.mark.parametrize("word", ["True", "False"])
def test_a_reply_that_only_brushes_against_the_words_is_missing(word: str) -> None:
    assert p_true(check(token(("The", 0.8), (word, 0.15), ("Answer", 0.05)))) is None
    assert p_true(check(token(("The", 0.9)), token((word, 0.9)))) is None


def test_a_clear_word_is_clear_although_the_other_is_not_listed() -> None:
    reply = check(token(("True", 0.98), ("Yes", 0.01), ("The", 0.001)))
    assert p_true(reply) == pytest.approx(0.99 / 0.991)


@pytest.mark.parametrize(("word", "expected"), [("True", 0.7), (" false", 0.3)])
def test_with_only_the_sampled_word_the_rest_speaks_against_it(word: str, expected: float) -> None:
    assert p_true(check(token((word, 0.7)))) == pytest.approx(expected)
    alone = TokenLogprob(word, math.log(0.7))
    assert p_true(check(alone)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("True", 1.0), (" **true**.", 1.0), (" False.\n", 0.0), ("No", 0.0)],
)
def test_without_log_probabilities_the_word_decides(text: str, expected: float) -> None:
    assert p_true(check(text=text)) == expected


@pytest.mark.parametrize(
    "text", ["", "   ", "Perhaps", "The answer is true", "Truest", "true, it is", "True\nFalse"]
)
def test_a_reply_that_says_neither_is_missing(text: str) -> None:
    assert p_true(check(text=text)) is None


def test_log_probabilities_without_either_word_are_missing_whatever_the_text() -> None:
    assert p_true(check(token(("I", 0.9), ("Well", 0.1)), text="True")) is None


@given(st.floats(0.001, 0.997), st.floats(0.001, 0.997))
def test_p_true_is_a_probability_and_complements_swap(true: float, false: float) -> None:
    total = true + false + 0.001
    true, false = true / total, false / total
    one = p_true(check(token(("True", true), ("False", false), ("x", 0.001))))
    other = p_true(check(token(("True", false), ("False", true), ("x", 0.001))))
    assert one is not None
    assert other is not None
    assert 0.0 <= one <= 1.0
    assert one + other == pytest.approx(1.0)


def test_the_check_follows_the_draft_in_the_same_conversation() -> None:
    question = HumanMessage("2 + 2?")
    asked = check_messages([question], "4")
    assert asked[0] is question
    assert isinstance(asked[1], AIMessage)
    assert str(asked[1].content).split("\n")[1] == "4"
    assert str(asked[2].content).startswith(QUESTION)
    assert "True" in str(asked[2].content)
