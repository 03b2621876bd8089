from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cascade.errors import ConfigurationError, InputError
from cascade.feedback import MOST_SAID
from cascade.ledger.feedback import Feedback
from cascade.teaching import LessonSelection, LessonStore, Terms, open_lessons
from cascade.teaching import store as module
from cascade.teaching.lessons import UNSTATED, terms_of
from tests.ledger.postgres import NoPostgresError, running
from tests.teaching.conftest import DAY, all_of, lesson

ADA: dict[str, Any] = {"user": "ada", "tags": {"user": "ada"}}


async def test_a_lesson_comes_back_as_it_was_put(store: LessonStore) -> None:
    kept = lesson(task="sums", tenant="acme", loss=0.5, confidence=0.3, **ADA)
    assert await store.put(kept)
    assert await store.get("r1") == kept
    assert await store.get("r2") is None


async def test_the_first_lesson_of_a_run_stays(store: LessonStore) -> None:
    assert await store.put(lesson(answer="4"))
    assert not await store.put(lesson(answer="5"))
    assert [each.answer for each in await all_of(store)] == ["4"]


async def test_lessons_are_read_oldest_first_page_by_page(
    store: LessonStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    for i in (3, 1, 2, 0):
        await store.put(lesson(f"r{i}", at=DAY + timedelta(hours=i // 2)))
    assert [each.run_id for each in await all_of(store)] == ["r0", "r1", "r2", "r3"]


@pytest.mark.parametrize(
    "condition",
    [
        {"run_id": "r1"},
        {"user": "ada"},
        {"tenant": "acme"},
        {"cascade": "mine"},
        {"task": "sums"},
        {"origin": "audited"},
        {"until": DAY + timedelta(hours=1)},
        {"tags": {"user": "ada"}},
    ],
)
async def test_lessons_and_verdicts_are_selected(
    store: LessonStore, condition: dict[str, Any]
) -> None:
    one = {"task": "sums", "cascade": "mine", "tenant": "acme", "origin": "audited"}
    tags = {"user": "ada", "tenant": "acme"}
    await store.put(lesson("r1", **one, user="ada", tags=tags))
    await store.put(lesson("r2", at=DAY + timedelta(days=1)))
    for run_id, at in (("r1", DAY), ("r2", DAY + timedelta(days=1))):
        assert await store.judge(Feedback(run_id=run_id, correct=True, at=at))
    selection = LessonSelection(**condition)
    assert await store.count(selection) == 1
    assert [each.run_id for each in await store.verdicts(selection)] == ["r1"]
    assert await store.count(LessonSelection(since=DAY + timedelta(days=1))) == 1


# --- verdicts


async def test_a_verdict_of_the_same_person_replaces_the_earlier_one(store: LessonStore) -> None:
    await store.put(lesson())
    first = Feedback(run_id="r1", correct=True, at=DAY)
    assert await store.judge(first)
    assert not await store.judge(first.model_copy(update={"at": DAY + timedelta(hours=1)}))
    assert await store.judge(Feedback(run_id="r1", correct=False, at=DAY + timedelta(hours=2)))
    assert not await store.judge(first)
    (kept,) = await all_of(store)
    assert [verdict.correct for verdict in kept.verdicts] == [False]
    assert kept.answer_is_wrong is True
    assert kept.draft_is_wrong is None


async def test_a_verdict_needs_a_lesson_or_the_tags_of_its_run(store: LessonStore) -> None:
    assert await store.judge(Feedback(run_id="r9", correct=True)) is None
    assert await store.judge(Feedback(run_id="r9", correct=True), {"user": "ada"})
    assert len(await store.verdicts(LessonSelection(user="ada"))) == 1


async def test_a_run_is_judged_so_often_at_most(store: LessonStore) -> None:
    await store.put(lesson())
    for i in range(MOST_SAID):
        await store.judge(Feedback(run_id="r1", correct=True, by=f"user {i}"))
    with pytest.raises(InputError, match="judged 100 times"):
        await store.judge(Feedback(run_id="r1", correct=True, by="one more"))


def test_people_who_saw_the_draft_judge_the_draft() -> None:
    wrong = Feedback(run_id="r1", correct=False)
    seen = lesson(origin="audited", verdicts=(wrong,))
    assert (seen.answer_is_wrong, seen.draft_is_wrong) == (None, True)
    assert lesson(origin="audited", loss=0.0, verdicts=(wrong,)).draft_is_wrong is False
    right = Feedback(run_id="r1", correct=True, by="bob")
    assert lesson(verdicts=(wrong, right)).answer_is_wrong is None


# --- deletion


async def test_what_was_deleted_is_in_no_file_and_comes_back_no_more(
    store: LessonStore, path: Path
) -> None:
    await store.put(lesson("r1", "zanzibar", **ADA))
    await store.put(lesson("r2", "timbuktu"))
    await store.judge(Feedback(run_id="r1", correct=False, comment="ouagadougou"))
    gone = await store.delete(LessonSelection(user="ada"))
    assert (gone.lessons, gone.verdicts, gone.exports, gone.scrubbed) == (1, 1, (), True)
    held = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"zanzibar" not in held
    assert b"ouagadougou" not in held
    assert b"timbuktu" in held
    assert not await store.put(lesson("r1"))
    assert await store.judge(Feedback(run_id="r1", correct=True), {}) is False
    assert await store.gone() == (1, ("r1",))
    assert await store.gone(1) == (1, ())


async def test_what_a_user_said_of_answers_to_others_goes_too(store: LessonStore) -> None:
    for run_id, tenant in (("r1", "acme"), ("r2", "other")):
        await store.put(lesson(run_id, tenant=tenant, tags={"tenant": tenant}))
        await store.judge(Feedback(run_id=run_id, correct=True, by="ada"))
    gone = await store.delete(LessonSelection(user="ada", tenant="acme"))
    assert (gone.lessons, gone.verdicts) == (0, 1)
    assert (await store.delete(LessonSelection(user="ada"))).verdicts == 1


async def test_a_deletion_names_the_files_that_still_hold_a_lesson(store: LessonStore) -> None:
    for run_id in ("r1", "r2"):
        await store.put(lesson(run_id))
    await store.note_export("/a.jsonl", ["r1", "r2", "r1"], purpose="training")
    await store.note_export("/b.jsonl", ["r2"], purpose="training")
    await store.note_export("/c.jsonl", ["r1"], purpose="training")
    await store.note_export("/c.jsonl", ["r2"], purpose="training")  # the file was written anew
    assert next((each.path, each.lessons) for each in await store.exports()) == ("/a.jsonl", 2)
    assert (await store.delete(LessonSelection(run_id="r1"))).exports == ("/a.jsonl",)
    assert {each.path: each.lessons for each in await store.exports()} == {
        "/a.jsonl": 1,
        "/b.jsonl": 1,
        "/c.jsonl": 1,
    }


async def test_it_has_to_be_said_what_to_delete(store: LessonStore) -> None:
    with pytest.raises(ConfigurationError, match="all lessons"):
        await store.delete()
    with pytest.raises(ConfigurationError, match="not both"):
        await store.delete(LessonSelection(run_id="r1"), older_than=timedelta(days=1))
    await store.put(lesson())
    assert (await store.delete(everything=True)).lessons == 1


async def test_old_lessons_are_deleted(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="keep_for"):
        open_lessons(f"sqlite:///{path}", keep_for=timedelta())
    async with open_lessons(f"sqlite:///{path}") as store:
        await store.put(lesson("old", at=datetime.now(UTC) - timedelta(days=3)))
        await store.put(lesson("new", at=datetime.now(UTC)))
        await store.put(lesson("older", at=datetime.now(UTC) - timedelta(days=9)))
        assert (await store.delete(older_than=timedelta(days=5))).lessons == 1
    async with open_lessons(f"sqlite:///{path}", keep_for=timedelta(days=2)) as store:
        assert [each.run_id for each in await all_of(store)] == ["new"]


async def test_a_reader_that_holds_the_journal_is_told(
    store: LessonStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCRUB_S", 0.1)
    await store.put(lesson("r1", "zanzibar"))
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM teaching_lessons").fetchall()
        gone = await store.delete(everything=True)
    assert (gone.lessons, gone.scrubbed) == (1, False)
    assert (await store.delete(everything=True)).scrubbed


async def test_a_database_that_is_away_after_a_deletion_is_told(
    store: LessonStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put(lesson())

    def fails(path: Path) -> bool:
        raise OSError("away")

    monkeypatch.setattr(module, "_journal_is_emptied", fails)
    assert not (await store.delete(everything=True)).scrubbed


# --- terms, redaction, groups


async def test_terms_of_a_model_are_stated_by_name_or_prefix(store: LessonStore) -> None:
    with pytest.raises(ConfigurationError, match="no model"):
        await store.state_terms(" ", Terms())
    for model, may in (("openai:*", True), ("openai:gpt-5*", None), ("openai:gpt-5.1", False)):
        await store.state_terms(model, Terms(may_train=False))
        await store.state_terms(model, Terms(may_train=may))
    stated = await store.terms()
    found = {name: terms_of(name, stated).may_train for name in ("openai:gpt-4", "openai:gpt-5.1")}
    assert found == {"openai:gpt-4": True, "openai:gpt-5.1": False}
    assert terms_of("openai:gpt-5.2", stated).may_train is None
    assert terms_of("ollama:a", stated) == terms_of(None, stated) == UNSTATED


def test_what_was_forbidden_once_or_is_forbidden_today_is_forbidden() -> None:
    yes, no = Terms(may_train=True), Terms(may_train=False, may_remember=False)
    kept = lesson(terms=yes)
    assert kept.may({}).may_train is True
    assert kept.may({"scripted:*": no}) == yes.within(no)
    assert no.within(yes).may_train is False
    assert UNSTATED.within(UNSTATED).may_train is None


async def test_nothing_is_stored_but_what_the_redaction_leaves() -> None:
    def redact(words: str) -> str:
        if "poison" in words:
            raise ValueError
        return words.replace("secret", "[…]")

    async with open_lessons("memory://", redact=redact) as store:
        calls = ({"id": "c", "function": {"name": "f", "arguments": "secret"}},)
        await store.put(lesson("r1", "secret?", answer="secret", draft=None, tool_calls=calls))
        assert not await store.put(lesson("r2", "poison"))
        await store.judge(Feedback(run_id="r1", comment="secret", correction={"is": ["secret"]}))
        assert await store.judge(Feedback(run_id="r1", comment="poison")) is False
        (kept,) = await all_of(store)
    assert "secret" not in kept.model_dump_json()
    assert kept.digest == lesson(question="[…]?").digest


async def test_evidence_of_a_group_goes_with_its_lessons(store: LessonStore) -> None:
    for run_id in ("r1", "r2"):
        await store.put(lesson(run_id))
        await store.keep_group("s", run_id, {"pairs": {"r1": [1]}, "scores": {"r2": 1}})
    await store.keep_group("s", "no lesson", {})
    assert await store.groups("other") == {}
    await store.delete(LessonSelection(run_id="r1"))
    assert await store.groups("s") == {"r2": {"pairs": {}, "scores": {"r2": 1}}}


def test_a_store_is_closed_without_an_event_loop() -> None:
    open_lessons("memory://").close()


@pytest.mark.heavy
async def test_postgresql_keeps_and_deletes_the_same() -> None:
    try:
        with running() as server:
            await _same(server.url)
    except NoPostgresError as error:
        pytest.skip(str(error))


async def _same(url: str) -> None:
    async with open_lessons(url) as store:
        await store.put(lesson("r1", **ADA))
        await store.judge(Feedback(run_id="r1", correct=False))
        await store.keep_group("s", "r1", {"pairs": {}})
        assert await store.count(LessonSelection(tags={"user": "ada"})) == 1
        gone = await store.delete(LessonSelection(user="ada"))
        assert (gone.lessons, gone.verdicts, gone.scrubbed) == (1, 1, True)
        assert await store.gone() == (1, ("r1",))
        assert await store.groups("s") == {}
