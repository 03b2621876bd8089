from __future__ import annotations

import logging
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from cascade.errors import ConfigurationError, ModelUnavailableError
from cascade.ledger import tagged
from cascade.ledger.base import UnavailableError
from cascade.middleware import Audits, Shadow
from cascade.models.base import Request
from cascade.state import Completion
from cascade.teaching import Lesson, Lessons, LessonStore, Memory
from cascade.testing import reply
from tests.teaching.conftest import FREE, QUESTION, all_of, pair


async def kept_of(store: LessonStore, *stack: Any, asked: Any = QUESTION, **options: Any) -> Any:
    """The lessons of one question."""
    async with pair(Lessons(store), *stack, **options) as cascade:
        await cascade.ainvoke(asked)
    return await all_of(store)


async def test_a_lesson_has_models_terms_and_the_place_of_its_question(store: LessonStore) -> None:
    async with pair(Lessons(store, terms=FREE), name="mine") as cascade:
        with tagged(user="ada", key="k1"):
            await cascade.graph.ainvoke({"messages": [HumanMessage(QUESTION)]})
    (kept,) = await all_of(store)
    assert (kept.draft, kept.draft_model, kept.answer) == ("Sydney", "scripted:small", "Canberra")
    assert kept.answer_model == "scripted:large"
    assert (kept.task, kept.user, kept.tenant) == ("mine", "ada", "k1")
    assert kept.terms.may_train is True


def test_what_is_no_store_is_refused() -> None:
    no_store: Any = "sqlite:///lessons.db"
    for made in (Lessons, Memory):
        with pytest.raises(ConfigurationError, match=r"give a store, open_lessons\("):
            made(no_store)


async def test_an_audit_that_fails_makes_no_lesson(store: LessonStore) -> None:
    away = ModelUnavailableError("away", model="large")
    assert await kept_of(store, Audits(1.0), p=0.95, answer=[away]) == []

    def fails(question: str, draft: str, large: str) -> float:
        raise away

    (kept,) = await kept_of(store, Audits(1.0, compare=fails), p=0.95)
    assert kept.loss is None  # the answer came, and could not be compared


def away(request: Request) -> Completion:
    raise ModelUnavailableError("away", model="large")


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
TEXT = {"type": "text", "text": "What is this?"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"answer": [Completion("Canber", "large", finish_reason="length")]}, "it was cut off"),
        ({"answer": "x" * 100_001}, "it is too long"),
        ({"stack": [Shadow()]}, "it ran in the shadow"),
        ({"asked": [HumanMessage([TEXT, IMAGE])]}, "it is not all text"),
        ({"answer": away}, ""),
    ],
)
async def test_some_runs_make_no_lesson(
    store: LessonStore, options: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    stack = options.pop("stack", ())
    with caplog.at_level(logging.DEBUG, "cascade"):
        assert await kept_of(store, *stack, **options) == []
    assert reason in caplog.text


async def test_a_conversation_is_kept_up_to_its_question(store: LessonStore) -> None:
    turns = [HumanMessage("Hi"), AIMessage("Hello!"), HumanMessage([TEXT, TEXT])]
    (kept,) = await kept_of(store, asked=turns)
    assert [message["role"] for message in kept.messages] == ["user", "assistant", "user"]
    assert kept.question == "What is this?\nWhat is this?"


async def test_a_draft_that_was_cut_off_is_no_draft(store: LessonStore) -> None:
    cut = [reply("Syd", probability=0.3, finish_reason="length")]
    (kept,) = await kept_of(store, draft=cut)
    assert (kept.draft, kept.draft_model) == (None, None)


async def test_words_about_an_answer_without_a_lesson_are_told_to_be_lost(
    store: LessonStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with pair(Lessons(store), p=0.95) as cascade:
        result = await cascade.ainvoke(QUESTION)
        assert await cascade.afeedback(result.run_id, correct=True, comment="Yes")
    assert "a comment on it is not kept" in caplog.text


async def test_a_lesson_that_cannot_be_written_is_told_to_be_lost(
    store: LessonStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def away(lesson: Lesson) -> bool:
        raise UnavailableError("away")

    monkeypatch.setattr(store, "put", away)
    assert await kept_of(store) == []
    assert "is lost: away" in caplog.text
