"""A store of lessons, in each database."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from cascade.errors import ConfigurationError
from cascade.ledger import Feedback
from cascade.ledger.store import UnavailableError, mask_secrets, open_store
from cascade.state import LedgerEntry
from cascade.teaching import (
    Lesson,
    LessonSelection,
    LessonStore,
    Terms,
    open_lessons,
    permitted,
    terms_of,
)
from tests.teaching.making import DAY, lesson


async def ids(store: LessonStore, selection: LessonSelection | None = None) -> list[str]:
    return [found.run_id async for found in store.lessons(selection or LessonSelection())]


async def test_a_lesson_comes_back_as_it_was_put(store: LessonStore) -> None:
    whole = lesson(
        "r1",
        user="ada",
        tenant="acme",
        task="sums",
        tags={"user": "ada", "team": "search"},
        tool_calls=({"id": "c1", "type": "function", "function": {"name": "f"}},),
        confidence=0.25,
        calibrated=True,
        loss=0.5,
        origin="audited",
        terms=Terms(may_train=True, source="https://example.org", as_of=date(2026, 1, 1)),
        answer="four\n\N{GREEK SMALL LETTER PI}",
    )
    assert await store.put(whole)
    assert await store.get("r1") == whole
    assert await store.get("r2") is None


async def test_the_same_lesson_twice_is_one(store: LessonStore) -> None:
    assert await store.put(lesson("r1"))
    assert not await store.put(lesson("r1", answer="another"))
    assert [found.answer async for found in store.lessons()] == ["4"]


@pytest.mark.parametrize(
    "text", ["half \ud83d of a pair", "a NUL \0 within", "'; DROP TABLE x; --"]
)
async def test_hostile_texts_are_kept_as_far_as_they_can_be(store: LessonStore, text: str) -> None:
    assert await store.put(lesson("r1", text, answer=text, draft=text))
    said = text.encode("utf-8", "replace").decode()
    assert await store.judge(Feedback(run_id="r1", comment=said, correction={text: text}))
    found = await store.get("r1")
    assert found is not None
    assert found.question.startswith(text[:4])
    assert found.verdicts[0].comment == said


async def test_lessons_come_page_after_page_in_the_order_of_their_times(url: str) -> None:
    async with open_lessons(url) as store:
        for number in range(230):
            at = DAY + timedelta(minutes=number % 7)
            await store.put(lesson(f"r{number:03d}", f"question {number}", at=at))
        found = [(it.at, it.id) async for it in store.lessons()]
        assert await store.count() == 230
    assert len(found) == 230
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("selection", "found"),
    [
        (LessonSelection(user="ada"), ["r1", "r2"]),
        (LessonSelection(user="ada", task="sums"), ["r1"]),
        (LessonSelection(tenant="acme"), ["r2"]),
        (LessonSelection(origin="audited"), ["r3"]),
        (LessonSelection(since=DAY + timedelta(days=1)), ["r2", "r3"]),
        (LessonSelection(until=DAY + timedelta(days=1)), ["r1"]),
        (LessonSelection(tags={"team": "x"}), ["r3"]),
        (LessonSelection(cascade="other"), []),
        (LessonSelection(run_id="r3"), ["r3"]),
    ],
)
async def test_a_selection_means_what_it_says(
    memory: LessonStore, selection: LessonSelection, found: list[str]
) -> None:
    await memory.put(lesson("r1", user="ada", task="sums"))
    await memory.put(lesson("r2", user="ada", tenant="acme", at=DAY + timedelta(days=1)))
    third = {"at": DAY + timedelta(days=2), "origin": "audited", "tags": {"team": "x"}}
    await memory.put(lesson("r3", user="bob", **third))
    assert await ids(memory, selection) == found
    assert await memory.count(selection) == len(found)


async def test_selections_by_tags_work_in_each_database(store: LessonStore) -> None:
    await store.put(lesson("r1", tags={"team": "x"}))
    await store.put(lesson("r2", tags={"team": "y"}))
    assert await ids(store, LessonSelection(tags={"team": "x"})) == ["r1"]


async def test_a_database_has_room_for_a_ledger_and_lessons(sqlite_url: str) -> None:
    async with open_store(sqlite_url) as ledger, open_lessons(sqlite_url) as store:
        ledger.append([LedgerEntry(run_id="r1", node="draft")])
        await store.put(lesson("r1"))
        assert len(await ledger.query()) == 1
        assert await store.count() == 1


async def test_several_processes_may_open_a_new_store_at_once(sqlite_url: str) -> None:
    stores = [open_lessons(sqlite_url) for _ in range(4)]
    results = await asyncio.gather(*(s.put(lesson(f"r{n}")) for n, s in enumerate(stores)))
    assert results == [True] * 4
    assert await stores[0].count() == 4
    for store in stores:
        await store.aclose()


async def test_what_is_redacted_never_reaches_the_file(sqlite_url: str, tmp_path: Path) -> None:
    secret = "ada@example.org"
    async with open_lessons(sqlite_url, redact=mask_secrets) as store:
        call = {"id": "c", "type": "function", "function": {"name": "mail", "arguments": secret}}
        texts = {"draft": secret, "answer": f"to {secret}", "tool_calls": (call,)}
        await store.put(lesson("r1", f"mail {secret}", **texts))
        await store.judge(Feedback(run_id="r1", comment=secret, correction={"to": [secret]}))
        found = await store.get("r1")
        assert found is not None
        assert found.answer == "to […]"
        assert found.messages[0]["role"] == "user"
        assert found.verdicts[0].correction == {"to": ["[…]"]}
    for path in (tmp_path / "lessons").iterdir():
        assert secret.encode() not in path.read_bytes()


async def test_where_the_redaction_fails_nothing_is_stored(url: str) -> None:
    def breaks(text: str) -> str:
        raise RuntimeError(text)

    async with open_lessons(url, redact=breaks) as store:
        assert not await store.put(lesson("r1"))
        assert not await store.judge(Feedback(run_id="r1", comment="bad"))
        assert await store.count() == 0
        assert await store.verdicts() == []


async def test_what_is_too_old_goes_by_itself(sqlite_url: str) -> None:
    async with open_lessons(sqlite_url) as store:
        await store.put(lesson("old", at=datetime.now(UTC) - timedelta(days=8)))
        await store.put(lesson("new", at=datetime.now(UTC) - timedelta(days=6)))
    async with open_lessons(sqlite_url, keep_for=timedelta(days=7)) as store:
        assert await ids(store) == ["new"]
        assert (await store.gone()).run_ids == ("old",)


async def test_changes_are_counted_and_looking_changes_nothing(store: LessonStore) -> None:
    seen = [await store.changes()]
    await store.put(lesson("r1"))
    seen.append(await store.changes())
    await store.put(lesson("r1"))
    await store.get("r1")
    assert await store.changes() == seen[-1]
    await store.judge(Feedback(run_id="r1", correct=True))
    seen.append(await store.changes())
    await store.state_terms("openai:*", Terms(may_train=False))
    seen.append(await store.changes())
    await store.delete(LessonSelection(run_id="r1"))
    seen.append(await store.changes())
    assert seen == sorted(set(seen))


async def test_terms_are_stated_once_for_a_model(store: LessonStore) -> None:
    await store.state_terms("openai:*", Terms(may_train=True))
    await store.state_terms("openai:*", Terms(may_train=False, source="https://example.org/terms"))
    stated = await store.terms()
    assert stated == {"openai:*": Terms(may_train=False, source="https://example.org/terms")}
    assert terms_of("openai:gpt-5.1", stated).may_train is False
    assert terms_of("anthropic:x", stated).may_train is None
    with pytest.raises(ConfigurationError, match="no model"):
        await store.state_terms(" ", Terms())


YES, NO, UNKNOWN = Terms(may_train=True), Terms(may_train=False), Terms()


@pytest.mark.parametrize(
    ("given", "today", "may_train"),
    [
        (UNKNOWN, UNKNOWN, None),
        (UNKNOWN, YES, True),
        (YES, UNKNOWN, True),
        (YES, NO, False),
        (NO, YES, False),
        (NO, UNKNOWN, False),
    ],
)
def test_what_either_terms_forbid_is_forbidden(
    given: Terms, today: Terms, may_train: bool | None
) -> None:
    assert permitted("m:x", given, {"m:*": today}).may_train is may_train


def test_memory_is_another_matter_than_training() -> None:
    assert permitted("m:x", UNKNOWN, {}).may_remember
    assert not permitted("m:x", UNKNOWN, {"m:x": Terms(may_remember=False)}).may_remember


def test_of_several_terms_that_fit_the_nearest_counts() -> None:
    stated = {"openai:*": NO, "openai:gpt-oss*": YES, "openai:gpt-oss-x": UNKNOWN}
    assert terms_of("openai:gpt-5", stated) == NO
    assert terms_of("openai:gpt-oss-20b", stated) == YES
    assert terms_of("openai:gpt-oss-x", stated) == UNKNOWN
    assert terms_of(None, stated) == UNKNOWN


def test_equal_questions_have_one_digest_whatever_their_spacing() -> None:
    assert lesson("a", "What  is it?").digest == lesson("b", " what is IT? ").digest
    assert lesson("a", "What is it?").digest != lesson("b", "What was it?").digest


@pytest.mark.parametrize(
    ("fields", "draft_is_wrong", "answer_is_wrong"),
    [
        ({"origin": "audited", "loss": 1.0}, True, None),
        ({"origin": "audited", "loss": 0.0}, False, None),
        ({"origin": "audited", "said": [False]}, True, None),
        ({"origin": "audited", "said": [False], "loss": 0.0}, False, None),
        ({"origin": "escalated", "said": [False]}, None, True),
        ({"origin": "escalated", "said": [True]}, None, False),
        ({"origin": "escalated", "said": [True, False]}, None, None),
        ({"origin": "escalated"}, None, None),
    ],
)
def test_a_verdict_is_about_the_answer_that_was_seen(
    fields: dict[str, object], draft_is_wrong: bool | None, answer_is_wrong: bool | None
) -> None:
    said = fields.pop("said", [])
    assert isinstance(said, list)
    verdicts = tuple(Feedback(run_id="r1", correct=c, by=str(n)) for n, c in enumerate(said))
    found: Lesson = lesson("r1", verdicts=verdicts, **fields)
    assert (found.draft_is_wrong, found.answer_is_wrong) == (draft_is_wrong, answer_is_wrong)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="address"):
        open_lessons("lessons.db")
    with pytest.raises(ConfigurationError, match="keep_for"):
        open_lessons("memory://", keep_for=timedelta())


async def test_a_database_that_is_away_is_told(tmp_path: Path) -> None:
    store = open_lessons(f"sqlite:///{tmp_path}/no/such/folder/lessons.db")
    with pytest.raises(UnavailableError, match="lessons"):
        await store.put(lesson())
    await store.aclose()


def test_sync_callers_and_loops_share_a_store(sqlite_url: str) -> None:
    store = open_lessons(sqlite_url)
    for number in range(2):  # each in a loop of its own
        assert asyncio.run(store.put(lesson(f"r{number}")))
    with store:
        assert asyncio.run(store.count()) == 2


async def test_who_is_cancelled_takes_no_lessons_along(store: LessonStore) -> None:
    """A query that is cancelled closes its connection, and a database in memory is one."""
    await store.put(lesson("r1"))
    for pause_s in (0.0, 0.0005, 0.001, 0.002):
        asking = asyncio.create_task(ids(store))
        await asyncio.sleep(pause_s)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert await ids(store) == ["r1"]
