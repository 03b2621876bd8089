"""Store of lessons: SQLite or PostgreSQL through SQLAlchemy Core, with deletion for good."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

from cascade._portal import on_portal, run_sync
from cascade.errors import ConfigurationError, InputError
from cascade.feedback import MOST_SAID
from cascade.ledger.database import (
    LOCK,
    Database,
    Schema,
    UtcTime,
    Words,
    database_url,
    json_type,
    to_json,
)
from cascade.ledger.feedback import Feedback
from cascade.teaching.lessons import (
    EVERYTHING,
    Lesson,
    LessonSelection,
    Terms,
    digest_of,
    tenant_in,
)

# Where SQLAlchemy is missing, `cascade.ledger.database` has told so before.
from sqlalchemy import (  # isort: skip
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Integer,
    MetaData,
    Table,
    Text,
    and_,
    delete,
    func,
    insert,
    literal,
    select,
    text,
    tuple_,
)

logger = logging.getLogger("cascade")

T = TypeVar("T")
R = TypeVar("R", Lesson, Feedback)

Redact = Callable[[str], str]
"""Takes out of a text what must not be stored."""

PAGE, SOME = 500, 500
"""Lessons that are read at once; parameters of one statement, which databases limit."""

RETAIN_EVERY_S = 60.0
"""Seconds between two looks for lessons that are too old."""

SCRUB_S = 5.0
"""Longest wait for readers that keep SQLite's journal open."""

NO_TEXTS = frozenset({"role", "type", "id", "tool_call_id", "name"})
"""Parts of a message that are not redacted."""

metadata = MetaData()
_number = BigInteger().with_variant(Integer, "sqlite")

lessons_table = Table(
    "teaching_lessons",
    metadata,
    Column("run_id", Words, primary_key=True),
    Column("at", UtcTime, nullable=False, index=True),
    Column("origin", Text, nullable=False),
    Column("cascade", Words, nullable=False),
    Column("task", Words, nullable=False),
    Column("tenant", Words),
    Column("user_name", Words, index=True),
    Column("tags", json_type),
    Column("lesson", Words, nullable=False),
)
verdicts_table = Table(
    "teaching_verdicts",
    metadata,
    Column("run_id", Words, primary_key=True),
    Column("key", Words, primary_key=True),
    Column("by", Words, primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("tenant", Words),
    Column("user_name", Words),
    Column("tags", json_type),
    Column("said", Words, nullable=False),
)
deleted_table = Table(
    "teaching_deleted",
    metadata,
    Column("number", _number, primary_key=True, autoincrement=True),
    Column("run_id", Words, nullable=False, index=True),
    Column("at", UtcTime, nullable=False),
)
exported_table = Table(
    "teaching_exported",
    metadata,
    Column("path", Words, primary_key=True),
    Column("run_id", Words, primary_key=True),
    Column("purpose", Text, nullable=False),
    Column("at", UtcTime, nullable=False),
)
terms_table = Table(
    "teaching_terms",
    metadata,
    Column("model", Words, primary_key=True),
    Column("stated", Words, nullable=False),
)
groups_table = Table(
    "teaching_groups",
    metadata,
    Column("settings", Words, primary_key=True),
    Column("leader", Words, primary_key=True),
    Column("evidence", Words, nullable=False),
)

TEACHING = Schema("teaching", metadata, "1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """What a deletion has taken.

    Attributes:
        lessons: number of lessons.
        verdicts: number of verdicts.
        exports: files that were written before and hold some of these lessons: they cannot be
            taken back from here.
        scrubbed: whether the database's own files hold nothing of it any more. False where another
            process kept SQLite's journal open, or the database went away.
    """

    lessons: int
    verdicts: int
    exports: tuple[str, ...] = ()
    scrubbed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A file that was made of lessons; `lessons` counts those that were not deleted since."""

    path: str
    at: datetime
    purpose: str
    lessons: int


def open_lessons(
    url: str, *, redact: Redact | None = None, keep_for: timedelta | None = None
) -> LessonStore:
    """A store of lessons. It connects with its first use, not here.

    Args:
        url: `sqlite:///lessons.db`, `postgresql://…`, or `memory://`; the ledger's database may be
            the same.
        redact: takes out of every text what must not be stored. Where it raises, nothing is.
        keep_for: lessons and verdicts older than this are deleted, with the next use.

    Raises:
        ConfigurationError: the address has none of these forms.
        MissingDependencyError: SQLAlchemy or the driver is not installed.
    """
    if keep_for is not None and keep_for <= timedelta():
        raise ConfigurationError(f"keep_for={keep_for}: a time above 0, or None for good.")
    return LessonStore(url, redact, keep_for)


class LessonStore:
    """Lessons, verdicts of people about them, the files made of them, and what was deleted.

    Made by `open_lessons`. Methods may be called in any event loop and thread; where the database
    cannot be reached they raise `cascade.ledger.base.UnavailableError`. Copies of lessons elsewhere
    have to be forgotten when `gone` names their runs.
    """

    def __init__(self, url: str, redact: Redact | None, keep_for: timedelta | None) -> None:
        self._url, self._redact, self._keep_for = url, redact, keep_for
        self._database = Database(url, TEACHING)
        self._retained_at = -RETAIN_EVERY_S

    # --- lessons and verdicts

    async def put(self, lesson: Lesson) -> bool:
        """Keep a lesson; whether it is new. A run's first lesson stays, and a run whose lesson was
        deleted gets none any more."""
        kept = self._redacted(lesson, "messages", "draft", "answer", "tool_calls")
        if kept is None:
            return False
        row = _row(kept.model_copy(update={"digest": digest_of(kept.messages)}))

        def work(connection: Connection) -> bool:
            if any(_there(connection, t, kept.run_id) for t in (lessons_table, deleted_table)):
                return False
            connection.execute(insert(lessons_table), row)
            return True

        return await self._write(work)

    async def get(self, run_id: str) -> Lesson | None:
        """The lesson of a run."""
        async for lesson in self.lessons(LessonSelection(run_id=run_id)):
            return lesson
        return None

    async def lessons(self, selection: LessonSelection = EVERYTHING) -> AsyncGenerator[Lesson]:
        """Lessons with their verdicts, oldest first."""
        place: tuple[datetime, str] | None = None
        while True:
            page = await self._read(_page(selection, place))
            for lesson in page:
                yield lesson
            if len(page) < PAGE:
                return
            place = (page[-1].at, page[-1].run_id)

    async def count(self, selection: LessonSelection = EVERYTHING) -> int:
        """Number of lessons."""
        meant = select(func.count()).select_from(lessons_table)
        statement = meant.where(*_where(lessons_table, selection))
        return await self._read(lambda c: int(c.execute(statement).scalar_one()))

    async def judge(self, feedback: Feedback, tags: Mapping[str, str] | None = None) -> bool | None:
        """Keep a verdict in place of an earlier one of the same key and person.

        Args:
            feedback: the verdict.
            tags: of its run, where it may have no lesson.

        Returns:
            whether anything changed; None where the run has no lesson and no tags are given.

        Raises:
            InputError: the run was judged `MOST_SAID` times.
        """
        kept = self._redacted(feedback, "comment", "value", "correction")
        return kept is not None and await self._write(lambda c: _judge(c, kept, tags))

    async def verdicts(self, selection: LessonSelection = EVERYTHING) -> list[Feedback]:
        """Verdicts, oldest first, also those about runs without a lesson."""
        meant = select(verdicts_table.c.said).where(*_where(verdicts_table, selection))
        statement = meant.order_by(verdicts_table.c.at, verdicts_table.c.run_id)
        return await self._read(
            lambda c: [Feedback.model_validate_json(s) for s in c.execute(statement).scalars()]
        )

    # --- deletion

    async def delete(
        self,
        selection: LessonSelection | None = None,
        *,
        older_than: timedelta | None = None,
        everything: bool = False,
    ) -> Deleted:
        """Delete lessons and verdicts for good, also from the database's own files.

        Where all of a user is meant, so are the user's verdicts about answers to others.

        Args:
            selection: what to delete.
            older_than: delete what is older than this.
            everything: must be True to delete all there is.

        Raises:
            ConfigurationError: it is not said what to delete, or in two ways.
        """
        if selection is not None and older_than is not None:
            raise ConfigurationError("give a selection or older_than, not both.")
        if older_than is not None:
            selection = LessonSelection(until=datetime.now(UTC) - older_than)
        chosen = selection or EVERYTHING
        if chosen.everything and not everything:
            raise ConfigurationError(
                "this would delete all lessons: give a selection, or everything=True."
            )
        return await self._delete(chosen)

    async def gone(self, after: int = 0) -> tuple[int, tuple[str, ...]]:
        """The number of the last deletion, and the runs that were deleted after another number."""
        table = deleted_table
        later = select(table.c.number, table.c.run_id).where(table.c.number > after)
        found = await self._read(lambda c: c.execute(later.order_by(table.c.number)).all())
        return (found[-1][0] if found else after), tuple(run_id for _, run_id in found)

    # --- terms, exports, groups

    async def state_terms(self, model: str, terms: Terms) -> None:
        """State the terms of a model, `provider:name` or `provider:*`, from today on."""
        if not model.strip():
            raise ConfigurationError("terms of no model: give its name, such as openai:gpt-5.1.")
        row = {"model": model, "stated": terms.model_dump_json()}
        await self._write(lambda c: _replace(c, terms_table, terms_table.c.model == model, [row]))

    async def terms(self) -> dict[str, Terms]:
        """The terms as they are stated today, by model."""
        statement = select(terms_table).order_by(terms_table.c.model)
        found = await self._read(lambda c: c.execute(statement).all())
        return {model: Terms.model_validate_json(stated) for model, stated in found}

    async def note_export(self, path: str, run_ids: Sequence[str], *, purpose: str) -> None:
        """Note a file that is made of lessons, in place of an earlier one of the same path, so that
        a deletion can name it."""
        table, now = exported_table, datetime.now(UTC)
        rows = [
            {"path": path, "run_id": run_id, "purpose": purpose, "at": now}
            for run_id in dict.fromkeys(run_ids)
        ]
        await self._write(lambda c: _replace(c, table, table.c.path == path, rows))

    async def exports(self) -> list[Export]:
        """The files that were noted, oldest first."""
        table = exported_table
        counted = select(table.c.path, table.c.purpose, table.c.at, func.count())
        statement = counted.group_by(table.c.path, table.c.purpose, table.c.at)
        found = await self._read(
            lambda c: c.execute(statement.order_by(table.c.at, table.c.path)).all()
        )
        return [Export(path=p, purpose=why, at=at, lessons=n) for p, why, at, n in found]

    async def keep_group(self, settings: str, leader: str, evidence: Mapping[str, Any]) -> None:
        """Keep what a memory knows of a group, in runs and numbers.

        Args:
            settings: digest of what the evidence holds for.
            leader: run whose lesson has the group's question.
            evidence: JSON; deletion takes runs out of its `pairs` and `scores`.
        """
        table = groups_table
        row = {"settings": settings, "leader": leader, "evidence": to_json(dict(evidence))}

        def work(connection: Connection) -> None:
            there = _there(connection, lessons_table, leader)
            same = and_(table.c.settings == settings, table.c.leader == leader)
            _replace(connection, table, same, [row] if there else [])

        await self._write(work)

    async def groups(self, settings: str) -> dict[str, dict[str, Any]]:
        """What was kept of groups, by their leaders."""
        table = groups_table
        statement = select(table.c.leader, table.c.evidence).where(table.c.settings == settings)
        found = await self._read(lambda c: c.execute(statement).all())
        return {leader: json.loads(evidence) for leader, evidence in found}

    # --- connections

    async def aclose(self) -> None:
        """Close the connections; the store may be used again, but for `memory://`."""
        await on_portal(self._database.aclose())

    def close(self) -> None:
        """`aclose` for synchronous callers."""
        run_sync(self._database.aclose())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _redacted(self, record: R, *texts: str) -> R | None:
        """The record as it may be stored; None where the redaction fails."""
        if self._redact is None:
            return record
        try:
            update = {name: _redacted_part(getattr(record, name), self._redact) for name in texts}
        except Exception:
            logger.exception("redaction failed: a %s is not stored", type(record).__name__)
            return None
        return record.model_copy(update=update)

    async def _read(self, work: Callable[[Connection], T]) -> T:
        await self._retain()
        return await on_portal(self._database.read(work))

    async def _write(self, work: Callable[[Connection], T]) -> T:
        await self._retain()
        return await self._transact(work)

    async def _transact(self, work: Callable[[Connection], T]) -> T:
        def alone(connection: Connection) -> T:
            if self._database.kind == "postgresql":  # so that deletions are seen in their order
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK + 2})
            return work(connection)

        return await on_portal(self._database.write(alone))

    async def _retain(self) -> None:
        """Delete what is too old, now and then."""
        if self._keep_for is None or time.monotonic() - self._retained_at < RETAIN_EVERY_S:
            return
        self._retained_at = time.monotonic()
        old = LessonSelection(until=datetime.now(UTC) - self._keep_for)
        if await self.count(old) or await self.verdicts(old):
            await self._delete(old)

    async def _delete(self, selection: LessonSelection) -> Deleted:
        lessons, verdicts, files = await self._transact(lambda c: _delete(c, selection))
        try:
            scrubbed = await on_portal(self._scrub())
        except Exception:
            logger.exception("what was deleted may still be in the database's files")
            scrubbed = False
        return Deleted(lessons=lessons, verdicts=verdicts, exports=files, scrubbed=scrubbed)

    async def _scrub(self) -> bool:
        """Take what was deleted out of the database's files: SQLite overwrites it in the database,
        but its journal has the pages as they were; PostgreSQL keeps dead rows until a vacuum."""
        path = self._database.path
        if self._database.kind == "postgresql":
            import asyncpg  # type: ignore[import-untyped]  # noqa: PLC0415 - this driver alone

            address = database_url(self._url)[1].replace("+asyncpg", "", 1)
            vacuum: Any = await asyncpg.connect(address)
            try:
                await vacuum.execute(f"VACUUM {', '.join(metadata.tables)}")
            finally:
                await vacuum.close()
        elif path is not None:
            until = time.monotonic() + SCRUB_S
            while not await asyncio.to_thread(_journal_is_emptied, path):
                if time.monotonic() > until:
                    logger.warning("%s: another process keeps the journal open", path)
                    return False
                await asyncio.sleep(0.05)
        return True


def _journal_is_emptied(path: Path) -> bool:
    with closing(sqlite3.connect(path, timeout=0)) as file:
        try:
            busy, *_ = file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError:
            return False
        return not busy


# --- within one transaction


def _there(connection: Connection, table: Table, run_id: str) -> bool:
    found = select(table.c.run_id).where(table.c.run_id == run_id)
    return connection.execute(found).first() is not None


def _replace(
    connection: Connection, table: Table, which: ColumnElement[bool], rows: list[dict[str, Any]]
) -> None:
    connection.execute(delete(table).where(which))
    if rows:
        connection.execute(insert(table), rows)


def _judge(
    connection: Connection, feedback: Feedback, tags: Mapping[str, str] | None
) -> bool | None:
    run_id, table = feedback.run_id, verdicts_table
    if _there(connection, deleted_table, run_id):
        return False
    lesson = connection.execute(
        select(lessons_table.c.tags).where(lessons_table.c.run_id == run_id)
    ).first()
    if lesson is None and tags is None:
        return None
    whose: Mapping[str, str] = (tags if lesson is None else lesson[0]) or {}
    same = and_(table.c.run_id == run_id, table.c.key == feedback.key, table.c.by == feedback.by)
    found = connection.execute(select(table.c.said).where(same)).scalar()
    if found is not None:
        earlier = Feedback.model_validate_json(found)
        if feedback.at < earlier.at or earlier.model_copy(update={"at": feedback.at}) == feedback:
            return False
    else:
        about = select(func.count()).select_from(table).where(table.c.run_id == run_id)
        if connection.execute(about).scalar_one() >= MOST_SAID:
            raise InputError(f"feedback: run {run_id!r} has been judged {MOST_SAID} times.")
    row = {name: getattr(feedback, name) for name in ("run_id", "key", "by", "at")}
    row |= {"user_name": whose.get("user"), "tenant": tenant_in(whose), "tags": dict(whose)}
    row |= {"said": to_json(feedback.model_dump(mode="json"))}
    _replace(connection, table, same, [row])
    return True


def _delete(connection: Connection, selection: LessonSelection) -> tuple[int, int, tuple[str, ...]]:
    ids: dict[str, None] = {}
    for table in (lessons_table, verdicts_table):
        meant = select(table.c.run_id).where(*_where(table, selection))
        ids |= dict.fromkeys(connection.execute(meant).scalars())
    files: dict[str, None] = {}
    counts = {lessons_table: 0, verdicts_table: 0, exported_table: 0}
    run_ids = list(ids)
    for start in range(0, len(run_ids), SOME):
        some, table = run_ids[start : start + SOME], exported_table
        named = select(table.c.path).where(table.c.run_id.in_(some)).distinct()
        files |= dict.fromkeys(connection.execute(named.order_by(table.c.path)).scalars())
        for each in counts:
            done = connection.execute(delete(each).where(each.c.run_id.in_(some)))
            counts[each] += done.rowcount
    user, tenant = selection.user, selection.tenant
    if user is not None and selection == LessonSelection(user=user, tenant=tenant):
        spoken = verdicts_table.c.by == user
        if tenant is not None:
            spoken &= verdicts_table.c.tenant == tenant
        counts[verdicts_table] += connection.execute(delete(verdicts_table).where(spoken)).rowcount
    if run_ids:
        _forget_in_groups(connection, ids)
        now = datetime.now(UTC)
        rows = [{"run_id": run_id, "at": now} for run_id in run_ids]
        connection.execute(insert(deleted_table), rows)
    return counts[lessons_table], counts[verdicts_table], tuple(files)


def _forget_in_groups(connection: Connection, gone: Collection[str]) -> None:
    table = groups_table
    for settings, leader, kept in connection.execute(select(table)).all():
        evidence = json.loads(kept)
        for part in ("pairs", "scores"):
            evidence[part] = {k: v for k, v in evidence.get(part, {}).items() if k not in gone}
        row = {"settings": settings, "leader": leader, "evidence": to_json(evidence)}
        same = and_(table.c.settings == settings, table.c.leader == leader)
        _replace(connection, table, same, [] if leader in gone else [row])


def _page(
    selection: LessonSelection, after: tuple[datetime, str] | None
) -> Callable[[Connection], list[Lesson]]:
    at, run_id = lessons_table.c.at, lessons_table.c.run_id
    statement = select(lessons_table.c.lesson).where(*_where(lessons_table, selection))
    if after is not None:
        place = tuple_(literal(after[0], at.type), literal(after[1], run_id.type))
        statement = statement.where(tuple_(at, run_id) > place)
    statement = statement.order_by(at, run_id).limit(PAGE)

    def work(connection: Connection) -> list[Lesson]:
        rows = connection.execute(statement).scalars()
        found = [Lesson.model_validate_json(row) for row in rows]
        ids = [lesson.run_id for lesson in found]
        about = select(verdicts_table.c.said).where(verdicts_table.c.run_id.in_(ids))
        said: dict[str, list[Feedback]] = {}
        if ids:
            for row in connection.execute(about.order_by(verdicts_table.c.at)).scalars():
                verdict = Feedback.model_validate_json(row)
                said.setdefault(verdict.run_id, []).append(verdict)
        return [
            each.model_copy(update={"verdicts": tuple(said.get(each.run_id, ()))}) for each in found
        ]

    return work


def _where(table: Table, selection: LessonSelection) -> Iterator[ColumnElement[bool]]:
    """The conditions of a selection, on lessons or on verdicts."""
    columns = {"run_id": "run_id", "user": "user_name", "tenant": "tenant"}
    for name, column in columns.items():
        if (value := getattr(selection, name)) is not None:
            yield table.c[column] == value
    of_lesson = [
        lessons_table.c[name] == value
        for name in ("cascade", "task", "origin")
        if (value := getattr(selection, name)) is not None
    ]
    if table is lessons_table:
        yield from of_lesson
    elif of_lesson:
        yield table.c.run_id.in_(select(lessons_table.c.run_id).where(*of_lesson))
    if selection.since is not None:
        yield table.c.at >= selection.since
    if selection.until is not None:
        yield table.c.at < selection.until
    for tag, value in selection.tags.items():
        yield table.c.tags[tag].as_string() == value


def _row(lesson: Lesson) -> dict[str, Any]:
    columns = ("run_id", "at", "origin", "cascade", "task", "tenant")
    row = {name: getattr(lesson, name) for name in columns}
    kept = lesson.model_dump(mode="json", exclude={"verdicts"})
    return row | {"user_name": lesson.user, "tags": dict(lesson.tags), "lesson": to_json(kept)}


def _redacted_part(value: Any, redact: Redact) -> Any:
    if isinstance(value, Mapping):
        return {k: v if k in NO_TEXTS else _redacted_part(v, redact) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_redacted_part(item, redact) for item in value)
    return redact(value) if isinstance(value, str) else value


__all__ = ["Deleted", "Export", "LessonStore", "Redact", "open_lessons"]
