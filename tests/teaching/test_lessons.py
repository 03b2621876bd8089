import logging
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from cascade.errors import ConfigurationError, LedgerError, ModelUnavailableError
from cascade.ledger import tagged
from cascade.ledger.feedback import Feedback
from cascade.middleware import Audits, Shadow
from cascade.models.base import Request
from cascade.state import Completion
from cascade.teaching import Lesson, Lessons, LessonSelection, LessonStore, Memory, Terms
from cascade.teaching import lessons as module
from cascade.teaching.lessons import terms_of
from cascade.testing import reply
from tests.ledger.postgres import NoPostgresError, running
from tests.teaching.conftest import DAY, FREE, QUESTION, all_of, lesson, pair


async def ids(store: LessonStore, **selection: Any) -> list[str]:
    return [each.run_id async for each in store.lessons(LessonSelection(**selection))]


async def test_a_lesson_comes_back_as_put_and_the_first_of_a_run_stays(store: LessonStore) -> None:
    kept = lesson(task="sums", tenant="acme", user="ada", loss=0.5)
    assert await store.put(kept)
    assert not await store.put(lesson(answer="5"))
    assert await store.get("r1") == kept
    assert await store.get("r2") is None


async def test_lessons_come_in_pages(store: LessonStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    for i in (3, 1, 2, 0):
        await store.put(lesson(f"r{i}", at=DAY + timedelta(hours=i // 2)))
    assert await ids(store) == ["r0", "r1", "r2", "r3"]


@pytest.mark.parametrize(
    "condition",
    [
        {"run_id": "r1"},
        {"user": "ada"},
        {"tenant": "acme"},
        {"task": "sums"},
        {"until": DAY + timedelta(hours=1)},
    ],
)
async def test_lessons_are_selected(store: LessonStore, condition: dict[str, Any]) -> None:
    await store.put(lesson("r1", task="sums", tenant="acme", user="ada"))
    await store.put(lesson("r2", at=DAY + timedelta(days=1)))
    assert await ids(store, **condition) == ["r1"]
    assert await ids(store, since=DAY + timedelta(days=1)) == ["r2"]


async def test_a_verdict_of_the_same_person_replaces_the_earlier_one(store: LessonStore) -> None:
    first = Feedback(run_id="r1", correct=True, at=DAY)
    assert await store.judge(first) is None  # there is no lesson yet
    await store.put(lesson())
    assert await store.judge(first)
    assert not await store.judge(first.model_copy(update={"at": DAY + timedelta(hours=1)}))
    assert await store.judge(Feedback(run_id="r1", correct=False, at=DAY + timedelta(hours=2)))
    (kept,) = await all_of(store)
    assert [verdict.correct for verdict in kept.verdicts] == [False]
    assert kept.answer_is_wrong is True


def test_people_who_saw_the_draft_do_not_judge_the_answer() -> None:
    wrong = Feedback(run_id="r1", correct=False)
    assert lesson(origin="audited", verdicts=(wrong,)).answer_is_wrong is None
    right = Feedback(run_id="r1", correct=True, by="bob")
    assert lesson(verdicts=(wrong, right)).answer_is_wrong is None


async def test_what_a_user_said_of_answers_to_others_goes_too(store: LessonStore) -> None:
    for run_id, tenant in (("r1", "acme"), ("r2", "other")):
        await store.put(lesson(run_id, tenant=tenant))
        for by in ("ada", "bob"):
            await store.judge(Feedback(run_id=run_id, correct=True, by=by))
    await store.delete(LessonSelection(user="ada", tenant="acme"))
    said = [[verdict.by for verdict in each.verdicts] for each in await all_of(store)]
    assert said == [["bob"], ["ada", "bob"]]
    assert (await store.delete(LessonSelection(user="ada"))).lessons == 0
    assert [len(each.verdicts) for each in await all_of(store)] == [1, 1]


async def test_to_delete_everything_has_to_be_said(store: LessonStore) -> None:
    with pytest.raises(ConfigurationError, match="everything=True"):
        await store.delete()
    await store.put(lesson())
    assert (await store.delete(everything=True)).lessons == 1


async def test_a_reader_that_holds_the_journal_is_told(
    store: LessonStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade.ledger.database.BUSY_S", 0.1)
    await store.put(lesson("r1", "zanzibar"))
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM teaching_lessons").fetchall()
        gone = await store.delete(everything=True)
    assert (gone.lessons, gone.scrubbed) == (1, False)
    assert (await store.delete(everything=True)).scrubbed


async def test_terms_of_a_model_are_stated_by_name_or_prefix(store: LessonStore) -> None:
    for model, may in (("openai:*", True), ("openai:gpt-5*", None), ("openai:gpt-5.1", False)):
        await store.state_terms(model, Terms(may_train=False))
        await store.state_terms(model, Terms(may_train=may))
    stated = await store.terms()
    found = {name: terms_of(name, stated).may_train for name in ("openai:gpt-4", "openai:gpt-5.1")}
    assert found == {"openai:gpt-4": True, "openai:gpt-5.1": False}
    assert terms_of("openai:gpt-5.2", stated).may_train is None
    assert terms_of("ollama:a", stated) == terms_of(None, stated) == Terms()


def test_what_was_forbidden_once_or_is_forbidden_today_is_forbidden() -> None:
    yes, no = Terms(may_train=True), Terms(may_train=False)
    assert lesson(terms=yes).may_train({}) is True
    assert lesson(terms=yes).may_train({"scripted:*": no}) is False
    assert lesson(terms=no).may_train({"scripted:*": yes}) is False
    assert lesson(terms=Terms()).may_train({}) is None


async def test_nothing_is_stored_but_what_the_redaction_leaves() -> None:
    def redact(words: str) -> Any:
        if "poison" in words:
            raise ValueError
        return None if words == "forgotten" else words.replace("secret", "[…]")

    async with LessonStore("memory://", redact=redact) as store:
        calls = ({"id": "c", "function": {"name": "f", "arguments": "secret"}},)
        await store.put(lesson("r1", "secret?", answer="secret", draft=None, tool_calls=calls))
        assert not await store.put(lesson("r2", "poison"))
        assert not await store.put(lesson("r3", answer="forgotten"))
        await store.judge(Feedback(run_id="r1", comment="secret", correction={"is": ["secret"]}))
        assert await store.judge(Feedback(run_id="r1", comment="poison")) is False
        (kept,) = await all_of(store)
    assert "secret" not in kept.model_dump_json()


@pytest.mark.heavy
async def test_postgresql_keeps_and_deletes_the_same() -> None:
    try:
        with running() as server:
            async with LessonStore(server.url) as store:
                put = [await store.put(lesson("r1", user="ada")) for _ in range(2)]
                assert put == [True, False]
                for may in (False, True):
                    await store.state_terms("openai:*", Terms(may_train=may))
                assert await store.terms() == {"openai:*": Terms(may_train=True)}
                await store.judge(Feedback(run_id="r1", correct=False))
                (kept,) = await all_of(store)
                assert kept.answer_is_wrong
                gone = await store.delete(LessonSelection(user="ada"))
                assert (gone.lessons, gone.scrubbed) == (1, False)
                assert await all_of(store) == []
    except NoPostgresError as error:
        pytest.skip(str(error))


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
        raise LedgerError("away")

    monkeypatch.setattr(store, "put", away)
    assert await kept_of(store) == []
    assert "is lost: away" in caplog.text
