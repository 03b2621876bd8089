"""The questions that the demo ships, and the recorded answers to them."""

from __future__ import annotations

from collections import Counter

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from cascade.demo.large import recorded_path
from cascade.demo.prompts import EXAMPLES, MAX_TOKENS
from cascade.demo.questions import Question, load_questions, take
from cascade.errors import ConfigurationError
from cascade.models import ReplayModel, Request

QUESTIONS = load_questions()


def test_there_are_many_questions_of_many_kinds_and_no_two_are_alike() -> None:
    assert len(QUESTIONS) >= 200
    assert len({question.kind for question in QUESTIONS}) >= 6
    assert len({question.id for question in QUESTIONS}) == len(QUESTIONS)
    assert len({question.question for question in QUESTIONS}) == len(QUESTIONS)


def test_no_example_of_a_prompt_is_also_a_question() -> None:
    shown = {asked for examples in EXAMPLES.values() for asked, _ in examples}
    assert shown.isdisjoint(question.question for question in QUESTIONS)


def test_each_kind_is_split_in_two_halves() -> None:
    counts = Counter((question.kind, question.split) for question in QUESTIONS)
    for kind in EXAMPLES:
        assert abs(counts[kind, "calibration"] - counts[kind, "test"]) <= 1


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.id)
def test_the_given_answers_are_counted_as_right(question: Question) -> None:
    assert all(question.is_right(right) for right in (question.answer, *question.accepted))


def test_the_right_answers_of_a_choice_are_balanced() -> None:
    counts = Counter(q.answer for q in QUESTIONS if q.kind == "sentiment")
    assert counts == {"happy": 15, "angry": 15}


def test_the_prompt_shows_examples_before_the_question() -> None:
    messages = QUESTIONS[0].messages
    assert isinstance(messages[-1], HumanMessage)
    assert messages[-1].content == QUESTIONS[0].question
    assert [type(m) for m in messages[:2]] == [HumanMessage, AIMessage]


async def test_every_question_has_a_recorded_answer() -> None:
    model = ReplayModel(recorded_path())
    right = 0
    for question in QUESTIONS:
        request = Request(tuple(question.messages), max_tokens=MAX_TOKENS, temperature=0.0)
        answer = await model.complete(request)
        assert answer.usage.known
        assert answer.latency_ms > 0
        right += question.is_right(answer.text)
    assert 0.7 < right / len(QUESTIONS) < 0.95


def test_the_recording_says_whose_answers_it_holds_and_how_they_were_made() -> None:
    header = ReplayModel(recorded_path()).header
    assert "qwen2.5-coder-0.5b-instruct" in header.model
    assert header.weights_sha256 is not None
    assert len(header.weights_sha256) == 64
    assert {"temperature", "max_tokens", "library", "machine"} <= set(header.settings)


def test_fewer_questions_are_spread_over_the_kinds_and_stay_sorted() -> None:
    chosen = take(16)
    assert Counter(q.kind for q in chosen) == dict.fromkeys(EXAMPLES, 2)
    places = [QUESTIONS.index(question) for question in chosen]
    assert places == sorted(places)


def test_all_questions_are_taken_without_a_number() -> None:
    assert take() == QUESTIONS


@pytest.mark.parametrize("n", [0, -1, len(QUESTIONS) + 1])
def test_an_impossible_number_of_questions_is_refused(n: int) -> None:
    with pytest.raises(ConfigurationError, match=f"n={n}"):
        take(n)
