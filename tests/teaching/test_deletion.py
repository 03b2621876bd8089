"""What is deleted is gone: from the tables, from the files, and from all that is made of them."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from typer.testing import CliRunner

from cascade.cli import app
from cascade.errors import ConfigurationError
from cascade.ledger import Feedback, tagged
from cascade.ledger.store import open_store
from cascade.oversight import Audits
from cascade.teaching import (
    Deleted,
    Lessons,
    LessonSelection,
    LessonStore,
    Terms,
    erasing,
    labelled_drafts,
    open_lessons,
)
from cascade.teaching.sql import LOCK
from cascade.testing import reply
from tests.teaching.making import DAY, cascade_with, lesson

PLANTED = "Xyzzy-planted-7741"
SELECTED = LessonSelection(user="ada")


def planted(run_id: str, **fields: Any) -> Any:
    """A lesson with the planted string in each of its texts, long ones among them."""
    long = f"{PLANTED} " * 2000  # goes over several pages of the database
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": PLANTED}}
    texts = {"draft": long, "answer": f"{PLANTED}!", "tool_calls": (call,)}
    tags = {"user": "ada", "note": PLANTED}
    return lesson(run_id, f"What is {PLANTED}?", user="ada", tags=tags, **texts, **fields)


def holding(folder: Path) -> list[str]:
    """The files in which the planted string is."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path.name for path in files if PLANTED.encode() in path.read_bytes())


async def tables_with(url: str) -> list[str]:
    """The tables of PostgreSQL in which the planted string is, in whatever column."""
    connection = await asyncpg.connect(url)
    try:
        names = await connection.fetch(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        )
        found = []
        for (name,) in names:
            rows = await connection.fetch(f'SELECT t::text FROM "{name}" t')
            found += [name] * any(PLANTED in row[0] for row in rows)
        return found
    finally:
        await connection.close()


async def filled(store: LessonStore) -> None:
    for number in range(3):
        await store.put(planted(f"ada{number}"))
    said = {"comment": f"{PLANTED}?", "correction": {"is": PLANTED}, "value": PLANTED}
    await store.judge(Feedback(run_id="ada0", correct=False, **said))
    await store.judge(Feedback(run_id="no-lesson", correct=False, **said), tags={"user": "ada"})
    await store.put(lesson("bob0", user="bob"))
    await store.judge(Feedback(run_id="bob0", comment=PLANTED, by="ada"))
    await store.judge(Feedback(run_id="bob0", comment="fine", by="bob"))


async def test_a_users_texts_are_in_no_file_of_the_folder(sqlite_url: str, tmp_path: Path) -> None:
    async with open_lessons(sqlite_url) as store:
        await filled(store)
        assert holding(tmp_path) == ["lessons.db-wal"]
        gone = await store.delete(SELECTED)
        # While the database is still open.
        assert holding(tmp_path) == []
        assert gone == Deleted(lessons=3, verdicts=3)
        left = [it async for it in store.lessons()]
        assert [it.run_id for it in left] == ["bob0"]
        assert [it.comment for it in left[0].verdicts] == ["fine"]
    assert holding(tmp_path) == []


async def test_what_was_moved_into_the_database_long_ago_is_overwritten(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with open_lessons(sqlite_url) as store:
        await filled(store)
    assert holding(tmp_path) == ["lessons.db"]
    async with open_lessons(sqlite_url) as store:
        await store.delete(SELECTED)
    assert holding(tmp_path) == []


async def test_no_table_of_postgres_has_it(postgres_url: str) -> None:
    async with open_lessons(postgres_url) as store:
        await filled(store)
        assert set(await tables_with(postgres_url)) == {"teaching_lessons", "teaching_verdicts"}
        assert await store.delete(SELECTED) == Deleted(lessons=3, verdicts=3)
        assert await tables_with(postgres_url) == []


async def test_deletion_by_run_and_by_age_and_of_all(store: LessonStore) -> None:
    now = datetime.now(UTC)
    for number in range(4):
        await store.put(planted(f"r{number}", at=now - timedelta(days=number, hours=1)))
    assert (await store.delete(LessonSelection(run_id="r0"))).lessons == 1
    assert (await store.delete(older_than=timedelta(days=3))).lessons == 1
    assert (await store.delete(everything=True)).lessons == 2
    assert await store.count() == 0
    assert set((await store.gone()).run_ids) == {"r0", "r1", "r2", "r3"}


async def test_two_tenants_may_have_a_user_of_one_name(memory: LessonStore) -> None:
    for tenant in ("acme", "umbrella"):
        await memory.put(lesson(tenant, user="ada", tenant=tenant))
        await memory.judge(Feedback(run_id=tenant, correct=True, by="ada"))
    gone = await memory.delete(LessonSelection(user="ada", tenant="acme"))
    assert gone == Deleted(lessons=1, verdicts=1)
    assert [(it.run_id, len(it.verdicts)) async for it in memory.lessons()] == [("umbrella", 1)]


async def test_nothing_is_deleted_by_mistake(memory: LessonStore) -> None:
    await memory.put(lesson())
    for wrong in ({}, {"selection": LessonSelection()}):
        with pytest.raises(ConfigurationError, match="all lessons"):
            await memory.delete(**wrong)
    with pytest.raises(ConfigurationError, match="only one"):
        await memory.delete(SELECTED, older_than=timedelta(days=1))
    assert await memory.delete(LessonSelection(user="nobody")) == Deleted(lessons=0, verdicts=0)
    assert await memory.count() == 1


async def test_a_lesson_or_verdict_that_comes_late_does_not_come_back(store: LessonStore) -> None:
    await store.put(planted("r1"))
    await store.delete(SELECTED)
    assert not await store.put(planted("r1"))
    assert not await store.judge(Feedback(run_id="r1", correct=True))
    assert await store.count() == 0
    assert await store.verdicts() == []


class Index:
    """Something that is made of lessons, and kept where the store cannot reach."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.place = 0
        self.told: list[Sequence[str]] = []

    async def forget(self, run_ids: Sequence[str]) -> None:
        self.told.append(run_ids)
        for run_id in run_ids:
            self.texts.pop(run_id, None)

    async def look(self, store: LessonStore) -> dict[str, str]:
        self.place = await store.catch_up(self, self.place)
        return self.texts


async def test_what_is_made_of_lessons_forgets_what_another_process_deletes(
    sqlite_url: str,
) -> None:
    index = Index()
    async with open_lessons(sqlite_url) as store, open_lessons(sqlite_url) as other:
        await filled(store)
        index.texts = {it.run_id: it.question async for it in store.lessons()}
        assert len(await index.look(store)) == 4
        await other.delete(LessonSelection(run_id="ada0"))
        assert "ada0" not in await index.look(store)
        await other.delete(SELECTED)
        assert await index.look(store) == {"bob0": "2 + 2?"}
        assert await index.look(store) == {"bob0": "2 + 2?"}
    assert index.told == [("ada0",), ("ada1", "ada2", "no-lesson")]


async def test_deletions_of_many_are_told_in_their_order(store: LessonStore) -> None:
    for user in ("ada", "bob", "eve"):
        await store.put(lesson(user, user=user))
    await asyncio.gather(
        *(store.delete(LessonSelection(user=user)) for user in ("ada", "bob", "eve"))
    )
    place, seen = 0, []
    while (gone := await store.gone(place)).run_ids:
        seen += gone.run_ids
        place = gone.until
    assert sorted(seen) == ["ada", "bob", "eve"]
    assert place == 3


async def test_changes_in_postgres_come_one_after_the_other(postgres_url: str) -> None:
    """Else a deletion with a lower number could be seen after one with a higher, and be missed."""
    async with open_lessons(postgres_url) as store:
        await store.put(lesson("r1"))
        other = await asyncpg.connect(postgres_url)
        try:
            await other.execute("BEGIN")
            await other.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
            deletion = asyncio.create_task(store.delete(LessonSelection(run_id="r1")))
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while not await other.fetchval(waiting):
                assert not deletion.done()
        finally:
            await other.close()
        assert (await deletion).lessons == 1


async def test_files_that_were_exported_before_are_named(store: LessonStore) -> None:
    await filled(store)
    await store.note_export("one.jsonl", ["ada0", "bob0", "ada0"], purpose="training")
    await store.note_export("two.jsonl", ["bob0"], purpose="training")
    assert [(it.path, it.lessons) for it in await store.exports()] == [
        ("one.jsonl", 2),
        ("two.jsonl", 1),
    ]
    assert (await store.delete(SELECTED)).exports == ("one.jsonl",)
    assert (await store.delete(LessonSelection(user="bob"))).exports == ("one.jsonl", "two.jsonl")


async def test_more_runs_than_a_statement_takes_parameters(
    memory: LessonStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "SOME", 5)
    for number in range(12):
        await memory.put(lesson(f"r{number}", user="ada"))
    assert (await memory.delete(SELECTED)).lessons == 12
    assert len((await memory.gone()).run_ids) == 12


async def test_a_reader_that_stays_is_told_of_and_the_next_deletion_takes_the_rest(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "SCRUB_S", 0.1)
    path = sqlite_url.removeprefix("sqlite:///")
    async with open_lessons(sqlite_url) as store:
        await filled(store)
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM teaching_lessons").fetchone()
            assert not (await store.delete(SELECTED)).scrubbed
            assert await store.count() == 1
            reader.execute("COMMIT")
        assert (await store.delete(LessonSelection(user="bob"))).scrubbed
    assert holding(tmp_path) == []


async def lived(tmp_path: Path) -> tuple[str, str]:
    """A ledger with all texts and lessons, of two users, as they come about."""
    ledger_url = f"sqlite:///{tmp_path}/ledger.db"
    url = f"sqlite:///{tmp_path}/lessons.db"
    async with open_store(ledger_url, texts="all") as ledger, open_lessons(url) as store:
        lessons, sure = Lessons(store), reply(f"{PLANTED}.", probability=0.99)
        audits = Audits(rate=1.0, compare=lambda question, draft, large: 1.0)
        accepting = cascade_with(
            lessons, draft=sure, answer=f"No {PLANTED}.", audit_rate=audits, ledger=ledger
        )
        escalating = cascade_with(lessons, answer=f"{PLANTED}?", ledger=ledger)
        for user in ("ada", "bob"):
            with tagged(user=user):
                text = PLANTED if user == "ada" else "something"
                for cascade in (accepting, escalating):
                    result = await cascade.ainvoke(f"{text}?")
                    await cascade.afeedback(result.run_id, correct=False, comment=text)
        await accepting.aclose()
        await escalating.aclose()
        assert len((await labelled_drafts(ledger)).audited) == 2
        assert await store.count() == 4
    return ledger_url, url


async def test_the_command_takes_a_user_out_of_lessons_labels_and_the_ledger(
    tmp_path: Path,
) -> None:
    ledger_url, url = await lived(tmp_path)
    assert holding(tmp_path) == ["ledger.db", "lessons.db"]
    running = open_store(ledger_url)  # a service that has the ledger open all the time
    assert await running.query()
    # What the cascade said to bob holds the planted string as well: he goes too.
    for user in ("ada", "bob"):
        command = ["lessons", "delete", url, "--user", user, "--ledger", ledger_url, "--json"]
        done = await asyncio.to_thread(CliRunner().invoke, app, command)
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)
        assert (told["lessons"], told["verdicts"], told["scrubbed"]) == (2, 2, True)
        assert told["ledger_entries"] > 0
        async with open_store(ledger_url) as ledger:
            found = await labelled_drafts(ledger)
            assert len(found.audited) == len(found.said) == (1 if user == "ada" else 0)
    assert holding(tmp_path) == []
    await running.aclose()


async def test_a_configuration_names_both_places(tmp_path: Path) -> None:
    _, url = await lived(tmp_path)
    config = tmp_path / "cascade.yaml"
    config.write_text(
        json.dumps(
            {
                "ledger": f"sqlite:///{tmp_path}/ledger.db",
                "lessons": {"url": url},
                "cascades": {"support": {"tiers": [{"model": "replay:x"}]}},
            }
        )
    )

    def run(*command: str) -> Any:
        return CliRunner().invoke(app, ["lessons", *command])

    kept = await asyncio.to_thread(
        run, "delete", str(config), "--user", "bob", "--keep-ledger", "--json"
    )
    assert json.loads(kept.stdout)["ledger_entries"] is None
    gone = await asyncio.to_thread(run, "delete", str(config), "--user", "ada")
    assert gone.stdout.startswith("deleted: 2 lessons, 2 verdicts, from the ledger: ")
    async with open_store(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        assert {item.tags.get("user") async for item in ledger.stored()} == {"bob"}


async def kept(url: str) -> None:
    async with open_lessons(url) as store:
        await store.put(lesson("r1", "What is\nit? " + "x" * 80, user="ada", at=DAY))
        await store.judge(Feedback(run_id="r1", correct=False, comment="no"))
        await store.note_export("old.jsonl", ["r1"], purpose="training")


def test_lessons_are_listed_and_old_exports_named(sqlite_url: str) -> None:
    asyncio.run(kept(sqlite_url))
    runner = CliRunner()
    line = runner.invoke(app, ["lessons", "list", sqlite_url]).stdout.strip()
    assert line.startswith(
        "2026-03-01 00:00  r1  cascade  escalated  ada  openai:gpt-5.1  said wro"
    )
    assert line.endswith("…")
    (whole,) = json.loads(runner.invoke(app, ["lessons", "list", sqlite_url, "--json"]).stdout)
    assert whole["verdicts"][0]["comment"] == "no"
    none = ["lessons", "list", sqlite_url, "--user", "bob", "--json"]
    assert json.loads(runner.invoke(app, none).stdout) == []
    done = runner.invoke(app, ["lessons", "delete", sqlite_url, "--run", "r1"])
    assert done.stdout == "deleted: 1 lesson, 1 verdict\n"
    assert "exported before: old.jsonl" in done.stderr


def test_terms_are_stated_on_the_command_line(sqlite_url: str) -> None:
    asyncio.run(kept(sqlite_url))
    runner = CliRunner()
    stated = ["--no-train", "--source", "https://example.org", "--as-of", "2026-01-02"]
    done = runner.invoke(app, ["lessons", "terms", sqlite_url, "openai:*", *stated])
    assert done.stdout == (
        "openai:*: training forbidden, examples allowed; https://example.org (2026-01-02)\n"
    )
    found = json.loads(runner.invoke(app, ["lessons", "terms", sqlite_url, "--json"]).stdout)
    assert Terms.model_validate(found["openai:*"]).may_train is False


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["delete", "URL"], "say what to delete"),
        (["delete", "URL", "--user", "a", "--all"], "say what to delete"),
        (["delete", "URL", "--run", "a", "--older-than", "9"], "say what to delete"),
        (["delete", "URL", "--user", "a", "--ledger", "x", "--keep-ledger"], "not both"),
        (["delete", "sqlite:///nowhere.db", "--all"], "there is no file nowhere.db"),
        (["delete", "URL", "--user", "ada", "--ledger", "URL"], "there is no ledger"),
        (["delete", "URL", "--all", "--ledger", "x"], "--ledger goes with"),
        (["list", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_command_that_cannot_be_meant_is_refused(
    sqlite_url: str, command: list[str], words: str
) -> None:
    asyncio.run(kept(sqlite_url))
    given = [sqlite_url if part == "URL" else part for part in command]
    done = CliRunner().invoke(app, ["lessons", *given])
    assert done.exit_code == 2
    assert words in done.stderr

    async def count() -> int:
        async with open_lessons(sqlite_url) as store:
            return await store.count()

    assert asyncio.run(count()) == 1  # nothing was deleted before it was refused
