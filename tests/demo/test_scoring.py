"""What counts as a right answer."""

from __future__ import annotations

from decimal import Decimal

import pytest

from cascade.demo.scoring import is_right, number_said, said

RIGHT = [
    ("Rome", "Rome"),
    ("rome.", "Rome"),
    ("It is Rome", "Rome"),
    ("It is **Rome**.", "Rome"),
    ("The capital of Italy is Rome, in Europe.", "Rome"),
    ("It is Rome (Roma)", "Rome"),
    ("Rome\nIt was founded long ago.", "Rome"),
    ('The opposite of big is "small".', "small"),
    ("The opposite of rich is poor or needy.", "poor"),
    ("cow does not belong", "cow"),
    ("cow doesn't belong", "cow"),
    ("piano, violin, cow: cow does not belong", "cow"),
    ("The answer is the Pacific Ocean.", "Pacific Ocean"),
    ("The customer is happy", "happy"),
    ("= 42", "42"),
    ("6 x 7 = 42", "42"),
    ("3 hours is 180 minutes.", "180"),
    ("There are 1,000 metres in it", "1000"),
    ("42.0", "42"),
    ("−3", "-3"),
]

WRONG = [
    ("", "Rome"),
    ("Milan", "Rome"),
    ("It is not Rome", "Rome"),
    ("Romeo", "Rome"),
    ("unhappy", "happy"),
    ("It is a cowbell", "cow"),
    ("six", "6"),
    ("= 142", "42"),
    ("3 hours is 18 minutes.", "180"),
    ("3 hours", "180"),
    ("2 + 3", "5"),
]


@pytest.mark.parametrize(("answer", "accepted"), RIGHT)
def test_a_right_answer_is_right_in_any_wording(answer: str, accepted: str) -> None:
    assert is_right(answer, [accepted])


@pytest.mark.parametrize(("answer", "accepted"), WRONG)
def test_a_wrong_answer_is_wrong(answer: str, accepted: str) -> None:
    assert not is_right(answer, [accepted])


def test_any_of_the_accepted_answers_will_do() -> None:
    assert is_right("It is eight", ["8", "eight"])
    assert not is_right("It is eight", [])


def test_what_is_said_is_read_without_the_sentence() -> None:
    assert said("It is The Hague, the Netherlands.") == "hague"


@pytest.mark.parametrize(
    ("answer", "number"),
    [("none", None), ("5 dozen is 60", Decimal(60)), ("60 minutes", Decimal(60))],
)
def test_the_number_that_is_given_is_read(answer: str, number: Decimal | None) -> None:
    assert number_said(answer) == number
