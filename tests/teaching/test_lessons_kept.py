"""Which runs leave a lesson, and what is in it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from cascade import Cascade, MemoryLedger, Tier
from cascade.errors import ConfigurationError, ModelUnavailableError
from cascade.ledger import tagged
from cascade.ledger.store import UnavailableError
from cascade.oversight import Audits
from cascade.policies import Policy, Situation
from cascade.privacy import looks_personal
from cascade.state import Decision
from cascade.teaching import Lesson, Lessons, LessonStore, Terms, keeping, open_lessons
from cascade.testing import ScriptedModel, reply
from tests.teaching.making import PRICE, cascade_with, doubtful


async def kept(lessons: Lessons) -> list[Lesson]:
    await lessons.aclose()
    return [lesson async for lesson in lessons.store.lessons()]


async def test_an_escalated_question_is_a_lesson(store: LessonStore) -> None:
    lessons = Lessons(store, terms={"scripted:*": Terms(may_train=True, source="own")})
    cascade = cascade_with(lessons, tags={"task": "sums"}, name="maths")
    with tagged(user="ada", key="key_1"):
        result = await cascade.ainvoke([SystemMessage("Count."), HumanMessage("2 + 2?")])
    (lesson,) = await kept(lessons)
    assert lesson.run_id == result.run_id
    assert [dict(message) for message in lesson.messages] == [
        {"role": "system", "content": "Count."},
        {"role": "user", "content": "2 + 2?"},
    ]
    assert (lesson.draft, lesson.draft_model, lesson.answer) == ("5", "scripted:scripted", "4")
    assert (lesson.answer_tier, lesson.answer_model) == ("large", "scripted:scripted")
    assert (lesson.confidence, lesson.calibrated) == (result.confidence, False)
    assert (lesson.user, lesson.tenant, lesson.task) == ("ada", "key_1", "sums")
    assert (lesson.cascade, lesson.origin, lesson.loss) == ("maths", "escalated", None)
    assert lesson.terms == Terms(may_train=True, source="own")
    assert lesson.tags == {"task": "sums", "user": "ada", "key": "key_1"}


async def test_nothing_is_kept_unless_it_is_asked_for(memory: LessonStore) -> None:
    await cascade_with(None).ainvoke("2 + 2?")
    assert await memory.count() == 0


async def test_an_accepted_draft_is_no_lesson(memory: LessonStore) -> None:
    lessons = Lessons(memory)
    await cascade_with(lessons, draft=reply("4", probability=0.99)).ainvoke("2 + 2?")
    assert await kept(lessons) == []
    assert not lessons._seen


@pytest.mark.parametrize(("large", "loss"), [("4", 1.0), ("5", 0.0)])
async def test_an_audited_draft_is_a_lesson_with_what_the_audit_found(
    memory: LessonStore, large: str, loss: float
) -> None:
    lessons = Lessons(memory)
    sure = reply("5", probability=0.99)
    audits = Audits(rate=1.0)
    cascade = cascade_with(
        lessons, draft=sure, answer=large, audit_rate=audits, ledger=MemoryLedger()
    )
    result = await cascade.ainvoke("2 + 2?")
    assert result.answer == "5"
    await cascade.aclose()
    (lesson,) = await kept(lessons)
    assert (lesson.run_id, lesson.origin, lesson.loss) == (result.run_id, "audited", loss)
    assert (lesson.draft, lesson.answer, lesson.answer_tier) == ("5", large, "large")
    assert lesson.draft_is_wrong is (loss > 0)
    assert not lessons._seen


def tiers_here(*, local: bool = False) -> dict[str, Any]:
    small = Tier(ScriptedModel([doubtful("5")]), price=PRICE)
    return {"small": small, "large": Tier(ScriptedModel(["4"], local=local), price=PRICE)}


@pytest.mark.parametrize(
    ("options", "config", "question"),
    [
        ({"local_only": True}, {}, "2 + 2?"),
        ({}, {"configurable": {"local_only": True}}, "2 + 2?"),
        ({"private": looks_personal}, {}, "Did bob@example.org pay?"),
    ],
)
async def test_what_has_to_stay_here_is_never_kept_though_a_local_model_answers(
    memory: LessonStore, options: dict[str, Any], config: Any, question: str
) -> None:
    lessons = Lessons(memory)
    cascade = Cascade(**tiers_here(local=True), lessons=lessons, **options)
    result = await cascade.ainvoke(question, config)
    assert result.escalated
    assert await kept(lessons) == []
    assert lessons.skipped["it has to stay on this machine"] == 1


async def test_a_later_turn_of_a_private_conversation_is_not_kept_either(
    memory: LessonStore,
) -> None:
    lessons = Lessons(memory)
    stayed = AIMessage("4", response_metadata={"local_only": "answer"})
    turns = [HumanMessage("My balance?"), stayed, HumanMessage("And now?")]
    cascade = Cascade(**tiers_here(local=True), lessons=lessons, private=lambda messages: False)
    await cascade.ainvoke(turns)
    assert await kept(lessons) == []
    assert lessons.skipped["it has to stay on this machine"] == 1


async def test_a_run_may_be_left_out_by_its_tag_or_by_a_rule(memory: LessonStore) -> None:
    lessons = Lessons(memory, keep=lambda run: run.tags.get("consent") == "yes")
    cascade = cascade_with(lessons)
    for tags in ({"consent": "yes"}, {"consent": "yes", "lessons": "no"}, {}):
        with tagged(**tags):
            await cascade.ainvoke("2 + 2?")
    assert [lesson.tags for lesson in await kept(lessons)] == [{"consent": "yes"}]
    assert lessons.skipped == {"it is tagged so": 1, "keep=… says so": 1}


async def test_a_rule_that_fails_keeps_nothing(
    memory: LessonStore, caplog: pytest.LogCaptureFixture
) -> None:
    lessons = Lessons(memory, keep=lambda run: run.tags["consent"] == "yes")
    assert (await cascade_with(lessons).ainvoke("2 + 2?")).answer == "4"
    assert await kept(lessons) == []
    assert "keep=… failed" in caplog.text


async def test_an_answer_that_was_cut_off_teaches_nothing(memory: LessonStore) -> None:
    lessons = Lessons(memory)
    await cascade_with(lessons, answer=reply("4 is", finish_reason="length")).ainvoke("2 + 2?")
    assert await kept(lessons) == []
    assert lessons.skipped["it was cut off"] == 1


async def test_an_image_is_no_text_and_is_not_kept(memory: LessonStore) -> None:
    lessons = Lessons(memory)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    picture = HumanMessage([{"type": "text", "text": "What is it?"}, image])
    await cascade_with(lessons).ainvoke([picture])
    assert await kept(lessons) == []
    assert lessons.skipped["it is not all text"] == 1


async def test_what_is_too_long_is_not_kept(
    memory: LessonStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "MOST_CHARACTERS", 100)
    lessons = Lessons(memory)
    cascade = cascade_with(lessons)
    for question in ("x" * 101, "2 + 2?"):
        await cascade.ainvoke(question)
    assert [it.question for it in await kept(lessons)] == ["2 + 2?"]
    assert lessons.skipped["it is too long"] == 1


async def test_text_in_blocks_is_text(memory: LessonStore) -> None:
    lessons = Lessons(memory)
    blocks = [{"type": "text", "text": "2 +"}, {"type": "text", "text": "2?"}]
    await cascade_with(lessons).ainvoke([HumanMessage(blocks)])
    assert [lesson.question for lesson in await kept(lessons)] == ["2 +\n2?"]


async def test_another_model_in_the_large_ones_place_teaches_nothing(memory: LessonStore) -> None:
    lessons = Lessons(memory)
    down = ScriptedModel(["4"], failures=[ModelUnavailableError("down", model="m")] * 9)
    instead = Tier(ScriptedModel(["four"], name="instead"), price=PRICE)
    small = Tier(ScriptedModel([doubtful()]), price=PRICE)
    cascade = Cascade(small, Tier(down, price=PRICE), fallback=instead, lessons=lessons)
    result = await cascade.ainvoke("2 + 2?")
    assert (result.answer, result.degraded) == ("four", True)
    assert await kept(lessons) == []
    assert lessons.skipped["the large model could not be had"] == 1


async def test_a_draft_that_the_large_model_was_shown_is_kept_with_what_it_made_of_it(
    memory: LessonStore,
) -> None:
    lessons = Lessons(memory)
    await cascade_with(lessons, reuse="correct").ainvoke("2 + 2?")
    (lesson,) = await kept(lessons)
    assert (lesson.draft, lesson.answer, lesson.answer_tier) == ("5", "4", "large")


class Asks(Policy):
    """Leaves every draft to a person."""

    def decide(self, situation: Situation) -> Decision:
        return Decision(action="ask", reason="unsure")


async def test_a_run_that_waited_for_a_person_still_knows_its_draft(memory: LessonStore) -> None:
    lessons = Lessons(memory)
    graph = cascade_with(lessons, policy=Asks()).build_graph().compile(InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    await graph.ainvoke({"messages": [HumanMessage("2 + 2?")]}, config)
    assert await kept(lessons) == []
    await graph.ainvoke(Command(resume="escalate"), config)
    assert [(it.draft, it.answer) for it in await kept(lessons)] == [("5", "4")]


async def test_a_verdict_waits_for_the_lesson_of_its_run_alone(
    memory: LessonStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, held = memory.put, asyncio.Event()

    async def slow(lesson: Lesson) -> bool:
        if lesson.question == "slow?":
            while not held.is_set():  # noqa: ASYNC110 - it is set in another loop
                await asyncio.sleep(0.005)
        return await put(lesson)

    monkeypatch.setattr(memory, "put", slow)
    lessons = Lessons(memory)
    cascade = cascade_with(lessons)
    waits = await cascade.ainvoke("slow?")
    quick = await cascade.ainvoke("quick?")
    assert await cascade.afeedback(quick.run_id, correct=True)
    late = asyncio.create_task(cascade.afeedback(waits.run_id, correct=True))
    await asyncio.sleep(0.05)
    assert not late.done()
    held.set()
    assert await late


async def test_a_run_in_shadow_is_no_lesson(memory: LessonStore) -> None:
    lessons = Lessons(memory)
    cascade = cascade_with(lessons, mode="shadow", ledger=MemoryLedger())
    await cascade.ainvoke("2 + 2?")
    await cascade.aclose()
    assert await kept(lessons) == []
    assert lessons.skipped["it ran in shadow"] == 1


async def test_an_answer_from_the_cache_is_no_second_lesson(memory: LessonStore) -> None:
    lessons = Lessons(memory)
    cascade = cascade_with(lessons, cache=InMemoryCache())
    first, second = [await cascade.ainvoke("2 + 2?") for _ in range(2)]
    assert second.cached
    assert [lesson.run_id for lesson in await kept(lessons)] == [first.run_id]


async def test_of_three_tiers_the_first_is_the_pupil_and_who_answered_the_teacher(
    memory: LessonStore,
) -> None:
    lessons = Lessons(memory)
    tiers = [
        Tier(ScriptedModel([doubtful("5")], name="s"), name="s", price=PRICE),
        Tier(ScriptedModel([reply("4", probability=0.99)], name="m"), name="m", price=PRICE),
        Tier(ScriptedModel(["four"], name="l"), name="l", price=PRICE),
    ]
    await Cascade(tiers=tiers, lessons=lessons).ainvoke("2 + 2?")
    (lesson,) = await kept(lessons)
    assert (lesson.draft, lesson.draft_model) == ("5", "scripted:s")
    assert (lesson.answer, lesson.answer_model, lesson.answer_tier) == ("4", "scripted:m", "m")


async def test_a_question_that_is_routed_past_the_draft_is_a_lesson_without_one(
    memory: LessonStore,
) -> None:
    lessons = Lessons(memory)
    await cascade_with(lessons, router=lambda messages: "large").ainvoke("2 + 2?")
    (lesson,) = await kept(lessons)
    assert (lesson.draft, lesson.draft_model, lesson.confidence) == (None, None, None)


async def test_calls_of_tools_are_kept_in_openais_form(memory: LessonStore) -> None:
    lessons = Lessons(memory)
    tool = {
        "name": "add",
        "description": "Add.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    }
    call = {"name": "add", "args": {"a": 2}, "id": "c1", "type": "tool_call"}
    answer = reply("", tool_calls=[call])  # type: ignore[list-item]
    await cascade_with(lessons, answer=answer, tools=[tool]).ainvoke("2 + 2?")
    (lesson,) = await kept(lessons)
    assert lesson.answer == ""
    assert lesson.tool_calls[0]["function"] == {"name": "add", "arguments": '{"a": 2}'}


async def test_a_run_that_fails_leaves_nothing_behind(memory: LessonStore) -> None:
    lessons = Lessons(memory)
    error = ModelUnavailableError("down", model="m")
    cascade = cascade_with(lessons, answer=error, resilience=None, fallback="fail")
    with pytest.raises(ModelUnavailableError):
        await cascade.ainvoke("2 + 2?")
    assert await kept(lessons) == []
    assert not lessons._seen


async def test_the_reply_does_not_wait_for_a_database_that_is_away_and_the_loss_is_counted(
    memory: LessonStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeping, "ATTEMPTS_S", (0.0, 0.0))
    attempts = 0

    async def away(lesson: Lesson) -> bool:
        nonlocal attempts
        attempts += 1
        raise UnavailableError("away")

    monkeypatch.setattr(memory, "put", away)
    lessons = Lessons(memory)
    with caplog.at_level(logging.ERROR):
        assert (await cascade_with(lessons).ainvoke("2 + 2?")).answer == "4"
        await lessons.aclose()
    assert (attempts, lessons.kept, lessons.lost) == (3, 0, 1)
    assert "2 + 2?" not in caplog.text


async def test_a_database_that_comes_back_gets_its_lesson(
    memory: LessonStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "ATTEMPTS_S", (0.0,))
    put = memory.put
    failures = [UnavailableError("away")]

    async def away_once(lesson: Lesson) -> bool:
        if failures:
            raise failures.pop()
        return await put(lesson)

    monkeypatch.setattr(memory, "put", away_once)
    lessons = Lessons(memory)
    await cascade_with(lessons).ainvoke("2 + 2?")
    assert len(await kept(lessons)) == 1
    assert (lessons.kept, lessons.lost) == (1, 0)


async def test_runs_that_wait_for_an_audit_that_never_comes_are_forgotten(
    memory: LessonStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "MOST_SEEN", 5)
    lessons = Lessons(memory)
    cascade = cascade_with(
        lessons,
        draft=reply("4", probability=0.99),
        audit_rate=Audits(rate=1e-9),
        ledger=MemoryLedger(),
    )
    for number in range(9):
        await cascade.ainvoke(f"{number}?")
    assert 0 < len(lessons._seen) <= 5


async def test_one_keeper_serves_several_cascades(memory: LessonStore) -> None:
    lessons = Lessons(memory)
    for name in ("one", "two"):
        await cascade_with(lessons, name=name).ainvoke("2 + 2?")
    assert {lesson.cascade for lesson in await kept(lessons)} == {"one", "two"}


async def test_lessons_are_the_same_through_the_graph_the_stream_and_in_sync(
    memory: LessonStore,
) -> None:
    lessons = Lessons(memory)
    cascade = cascade_with(lessons)
    await cascade.graph.ainvoke({"messages": [HumanMessage("2 + 2?")]})
    async for _ in cascade.astream("2 + 2?"):
        pass
    cascade.as_chat_model().invoke("2 + 2?")
    found = await kept(lessons)
    assert [(it.draft, it.answer) for it in found] == [("5", "4")] * 3


def test_what_is_no_keeper_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="lessons="):
        cascade_with("sqlite:///lessons.db")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="open_lessons"):
        Lessons("sqlite:///lessons.db")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="lessons="):
        cascade_with(open_lessons("memory://"))  # type: ignore[arg-type]
