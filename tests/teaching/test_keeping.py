from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from cascade import ConfigurationError
from cascade.errors import ModelUnavailableError
from cascade.ledger import tagged
from cascade.ledger.base import UnavailableError
from cascade.middleware import Audits, LocalOnly, Shadow
from cascade.middleware.background import Background
from cascade.models.base import Request
from cascade.state import Completion
from cascade.teaching import Lesson, Lessons, LessonStore, open_lessons
from cascade.teaching import keeping as module
from cascade.testing.scripted import reply
from tests.teaching.conftest import FREE, QUESTION, all_of, pair


async def counts_of(store: LessonStore, *stack: Any, asked: Any = QUESTION, **options: Any) -> Any:
    """What becomes of one question."""
    keeper = Lessons(store, keep=options.pop("keep", None))
    async with pair(keeper, *stack, **options) as cascade:
        await cascade.ainvoke(asked)
    assert bool(await all_of(store)) == bool(keeper.counts.get("kept"))
    return keeper.counts


@pytest.mark.parametrize("driver", ["loop", "graph"])
async def test_an_escalated_question_is_kept_with_draft_answer_and_terms(
    store: LessonStore, driver: str
) -> None:
    async with pair(Lessons(store, terms=FREE), name="mine") as cascade:
        with tagged(user="ada", key="k1"):
            if driver == "loop":
                result = await cascade.ainvoke(QUESTION)
            else:
                state: Any = {"messages": [HumanMessage(QUESTION)]}
                result = cascade.read(await cascade.graph.ainvoke(state))
    (kept,) = await all_of(store)
    assert (kept.run_id, kept.question, kept.origin) == (result.run_id, QUESTION, "escalated")
    assert (kept.draft, kept.draft_model, kept.answer) == ("Sydney", "scripted:small", "Canberra")
    assert kept.confidence == pytest.approx(0.3)
    assert (kept.answer_model, kept.answer_tier) == ("scripted:large", "large")
    assert (kept.cascade, kept.task, kept.user, kept.tenant) == ("mine", "mine", "ada", "k1")
    assert kept.terms.may_train is True


@pytest.mark.parametrize(("answer", "loss"), [("Canberra", 1.0), ("Sydney", 0.0)])
async def test_an_accepted_draft_is_kept_with_what_its_audit_found(
    store: LessonStore, answer: str, loss: float
) -> None:
    with tagged(user="ada"):
        counts = await counts_of(store, Audits(1.0), p=0.95, answer=answer)
    (kept,) = await all_of(store)
    assert (kept.draft, kept.answer, kept.origin, kept.loss) == ("Sydney", answer, "audited", loss)
    assert kept.user == "ada"
    assert kept.confidence == pytest.approx(0.95)
    assert counts == {"kept": 1}


async def test_a_failed_audit_makes_no_lesson(store: LessonStore) -> None:
    def fails(question: str, draft: str, large: str) -> float:
        raise ModelUnavailableError("away", model="judge")

    counts = await counts_of(store, Audits(1.0, compare=fails), p=0.95)
    (kept,) = await all_of(store)  # the answer came, and could not be compared
    assert kept.loss is None
    away = ModelUnavailableError("away", model="large")
    async with open_lessons("memory://") as other:
        counts = await counts_of(other, Audits(1.0), p=0.95, answer=[away])
    assert counts == {}


CUT = Completion("Canber", "large", finish_reason="length")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"answer": [CUT]}, "it was cut off"),
        ({"keep": lambda run: False}, "keep=… says so"),
        ({"keep": lambda run: 1 / 0}, "keep=… says so"),
        ({"answer": "x" * 100_001}, "it is too long"),
        ({"stack": [Shadow()]}, "it ran in the shadow"),
        ({"stack": [LocalOnly(private=lambda messages: True)]}, "it has to stay on this machine"),
    ],
)
async def test_some_runs_make_no_lesson(
    store: LessonStore, options: dict[str, Any], reason: str
) -> None:
    stack = options.pop("stack", ())
    counts = await counts_of(store, *stack, **options)
    assert reason in counts
    assert await all_of(store) == []


async def test_a_run_that_is_tagged_so_makes_none(store: LessonStore) -> None:
    with tagged(lessons="no"):
        assert await counts_of(store) == {"it is tagged so": 1}


async def test_a_degraded_answer_is_none(store: LessonStore) -> None:
    def away(request: Request) -> Completion:
        raise ModelUnavailableError("away", model="large")

    assert await counts_of(store, answer=away) == {}


async def test_an_image_is_none_and_parts_of_text_are_text(store: LessonStore) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    text = {"type": "text", "text": "What is this?"}
    asked = [HumanMessage([text, image])]
    assert await counts_of(store, asked=asked) == {"it is not all text": 1}
    assert await counts_of(store, asked=[HumanMessage([text, text])]) == {"kept": 1}
    (kept,) = await all_of(store)
    assert kept.question == "What is this?\nWhat is this?"


async def test_an_accepted_draft_alone_makes_none(store: LessonStore) -> None:
    assert await counts_of(store, p=0.95) == {}


async def test_a_draft_that_was_cut_off_is_no_draft(store: LessonStore) -> None:
    await counts_of(store, draft=[reply("Syd", probability=0.3, finish_reason="length")])
    (kept,) = await all_of(store)
    assert (kept.draft, kept.confidence) == (None, None)


# --- feedback


async def test_words_about_an_answer_are_kept_with_its_lesson(store: LessonStore) -> None:
    async with pair(Lessons(store)) as cascade:
        result = await cascade.ainvoke(QUESTION)
        for _ in range(2):
            await cascade.afeedback(result.run_id, correct=False, comment="No!", by="ada")
    (kept,) = await all_of(store)
    assert [(verdict.comment, verdict.by) for verdict in kept.verdicts] == [("No!", "ada")]


async def test_a_verdict_about_a_recent_run_without_a_lesson_is_kept(store: LessonStore) -> None:
    keeper = Lessons(store)
    async with pair(keeper, p=0.95) as cascade:
        with tagged(user="ada"):
            result = await cascade.ainvoke(QUESTION)
        await cascade.afeedback(result.run_id, correct=True, comment="Yes")
        with tagged(lessons="no"):
            private = await cascade.ainvoke(QUESTION)
        await cascade.afeedback(private.run_id, correct=True)
    assert [verdict.run_id for verdict in await store.verdicts()] == [result.run_id]


# --- writing


class Away(LessonStore):
    """A store whose database is away for so many writes."""

    away = 0

    async def put(self, lesson: Lesson) -> bool:
        self.away -= 1
        if self.away >= 0:
            raise UnavailableError("away")
        return await super().put(lesson)


@pytest.mark.parametrize(("away", "counts"), [(2, {"kept": 1}), (9, {"lost": 1})])
async def test_a_lesson_is_tried_again_while_the_database_is_away(
    away: int,
    counts: Mapping[str, int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS_S", (0.0, 0.0))
    store = Away("memory://", None, None)
    store.away = away
    with caplog.at_level(logging.ERROR):
        keeper = Lessons(store)
        async with pair(keeper) as cascade:
            await cascade.ainvoke(QUESTION)
    assert keeper.counts == counts
    assert ("is lost" in caplog.text) == ("lost" in counts)


async def test_a_lesson_for_which_there_is_no_room_is_lost(
    store: LessonStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Background, "start", lambda self, work: False)
    assert await counts_of(store) == {"lost": 1}


async def test_tags_of_the_last_runs_alone_are_remembered(
    store: LessonStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_REMEMBERED", 1)
    async with pair(Lessons(store), p=0.95) as cascade:
        first, second = [await cascade.ainvoke(asked) for asked in (QUESTION, "And of Chile?")]
        for result in (first, second):
            await cascade.afeedback(result.run_id, correct=True)
    assert [verdict.run_id for verdict in await store.verdicts()] == [second.run_id]


def test_a_store_is_needed() -> None:
    nothing: Any = "sqlite:///lessons.db"
    with pytest.raises(ConfigurationError, match="open_lessons"):
        Lessons(nothing)


async def test_an_earlier_turn_is_a_part_of_the_question(store: LessonStore) -> None:
    await counts_of(store, asked=[HumanMessage("Hi"), AIMessage("Hello!"), HumanMessage(QUESTION)])
    (kept,) = await all_of(store)
    assert [message["role"] for message in kept.messages] == ["user", "assistant", "user"]
