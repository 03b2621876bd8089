"""Lessons in SQLite and PostgreSQL, through what the ledger's store is reached by."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection, func, insert, select, text

from cascade._portal import on_portal, run_sync
from cascade.errors import ConfigurationError
from cascade.ledger.store import Redact
from cascade.ledger.store.base import new_id
from cascade.ledger.store.engines import READS, make_engine, told_apart
from cascade.ledger.store.migrations import MigratedEngine, migrate
from cascade.ledger.store.opening import database_url
from cascade.ledger.verdicts import Feedback
from cascade.teaching import erasing, schema, writing
from cascade.teaching.lessons import Lesson, LessonSelection
from cascade.teaching.rows import (
    feedback_of,
    group_of,
    lesson_of,
    redacted_feedback,
    redacted_lesson,
)
from cascade.teaching.store import EVERYTHING, Deleted, Export, Gone, KeptGroup, LessonStore
from cascade.teaching.terms import Terms

PAGE = 100
"""Lessons that are read at once: conversations may be long."""

RETAIN_EVERY_S = 3600.0
"""How often to look for lessons that are too old."""

LOCK = 0x1E55035
"""Key of the advisory lock in PostgreSQL by which changes come one after the other: numbers of
deletions would else be seen out of order. SQLite has one writer anyhow."""

DATABASE = "the lessons' database"
"""What errors call it."""

logger = logging.getLogger("cascade")

T = TypeVar("T")


class SqlLessonStore(LessonStore):
    """Lessons in a database that SQLAlchemy reaches; made by `open_lessons`."""

    def __init__(
        self, url: str, *, redact: Redact | None = None, keep_for: timedelta | None = None
    ) -> None:
        if keep_for is not None and keep_for <= timedelta():
            raise ConfigurationError(f"keep_for={keep_for}: give a time above 0, or leave it out.")
        in_memory = self._in_memory = url == "memory://"
        address = "sqlite+aiosqlite:///:memory:" if in_memory else database_url(url)
        self._redact = redact
        self._keep_for = keep_for
        self._retained_at = -math.inf
        self._engine = MigratedEngine(
            partial(make_engine, address),
            DATABASE,
            migrate=partial(migrate, schema=schema.TEACHING),
        )
        # A database in memory is one connection, and has room for one transaction at a time.
        self._alone: AbstractAsyncContextManager[object] = (
            asyncio.Lock() if in_memory else nullcontext()
        )

    async def put(self, lesson: Lesson) -> bool:
        """Keep a lesson; returns whether it is new."""
        try:
            kept = redacted_lesson(lesson, self._redact)
        except Exception:
            logger.exception("redaction failed: the lesson of a run is not stored")
            return False
        return await self._change(lambda c: writing.put(c, kept))

    async def get(self, run_id: str) -> Lesson | None:
        """The lesson of a run."""
        async for lesson in self.lessons(LessonSelection(run_id=run_id)):
            return lesson
        return None

    async def lessons(self, selection: LessonSelection = EVERYTHING) -> AsyncGenerator[Lesson]:
        """The lessons that are meant, page after page."""
        place: tuple[datetime, str] | None = None
        while True:
            page = await self._do(self._page(selection, place))
            for lesson in page:
                yield lesson
            if len(page) < PAGE:
                return
            place = (page[-1].at, page[-1].id)

    async def count(self, selection: LessonSelection = EVERYTHING) -> int:
        """How many lessons are meant."""
        table = schema.lessons
        counted = select(func.count()).select_from(table).where(*writing.where(table, selection))
        return int((await self._read(counted))[0]["count_1"])

    async def judge(self, feedback: Feedback, *, tags: Mapping[str, str] | None = None) -> bool:
        """Keep a verdict; returns whether anything changed."""
        try:
            kept = redacted_feedback(feedback, self._redact)
        except Exception:
            logger.exception("redaction failed: a verdict is not stored")
            return False
        return await self._change(lambda c: writing.judge(c, kept, tags))

    async def verdicts(self, selection: LessonSelection = EVERYTHING) -> list[Feedback]:
        """The verdicts that are meant."""
        table = schema.verdicts
        meant = select(table).where(*writing.where(table, selection))
        order = (table.c.at, table.c.run_id, table.c.key, table.c.by)
        return [feedback_of(row) for row in await self._read(meant.order_by(*order))]

    async def delete(
        self,
        selection: LessonSelection | None = None,
        *,
        older_than: timedelta | None = None,
        everything: bool = False,
    ) -> Deleted:
        """Delete lessons and verdicts, and scrub the database's files."""
        if selection is not None and older_than is not None:
            raise ConfigurationError("give a selection or older_than: only one.")
        if older_than is not None:
            selection = LessonSelection(until=datetime.now(UTC) - older_than)
        chosen = selection or EVERYTHING
        if chosen.everything and not everything:
            raise ConfigurationError(
                "this would delete all lessons: give a selection, or everything=True."
            )
        return await self._do(self._delete(chosen))

    async def gone(self, after: int = 0) -> Gone:
        """Which runs were deleted since."""
        table = schema.deleted
        later = select(table).where(table.c.number > after).order_by(table.c.number)
        rows = await self._read(later)
        until = rows[-1]["number"] if rows else after
        return Gone(until, tuple(row["run_id"] for row in rows))

    async def changes(self) -> int:
        """How often anything was changed."""
        return int((await self._read(select(schema.state.c.value)))[0]["value"])

    async def state_terms(self, model: str, terms: Terms) -> None:
        """State the terms of a model."""
        if not model.strip():
            raise ConfigurationError("terms of no model: give its name, such as openai:gpt-5.1.")
        await self._change(lambda c: writing.state_terms(c, model, terms))

    async def terms(self) -> Mapping[str, Terms]:
        """The terms that were stated."""
        rows = await self._read(select(schema.terms).order_by(schema.terms.c.model))
        return {row["model"]: Terms.model_validate_json(row["stated"]) for row in rows}

    async def note_export(self, path: str, run_ids: Sequence[str], *, purpose: str) -> None:
        """Write down that a file was made."""
        note = {"id": new_id(), "path": path, "purpose": purpose, "at": datetime.now(UTC)}
        ids = list(dict.fromkeys(run_ids))

        def work(connection: Connection) -> None:
            connection.execute(insert(schema.exports), note | {"n": len(ids)})
            if ids:
                rows = [{"export_id": note["id"], "run_id": run_id} for run_id in ids]
                connection.execute(insert(schema.exported), rows)

        await self._change(work)

    async def exports(self) -> list[Export]:
        """The files that were noted down."""
        table = schema.exports
        rows = await self._read(select(table).order_by(table.c.at, table.c.id))
        return [
            Export(path=row["path"], at=row["at"], purpose=row["purpose"], lessons=row["n"])
            for row in rows
        ]

    async def exported(self, purpose: str) -> set[str]:
        """The runs whose lessons are in a file of this purpose."""
        runs, files = schema.exported, schema.exports
        of_purpose = select(files.c.id).where(files.c.purpose == purpose)
        rows = await self._read(select(runs.c.run_id).where(runs.c.export_id.in_(of_purpose)))
        return {row["run_id"] for row in rows}

    async def keep_groups(self, settings: str, groups: Sequence[KeptGroup]) -> None:
        """Keep what is known of groups."""

        def work(connection: Connection) -> None:
            for group in groups:
                writing.keep_group(connection, settings, group)

        await self._change(work)

    async def groups(self, settings: str) -> list[KeptGroup]:
        """The groups that were kept."""
        table = schema.groups
        kept = select(table).where(table.c.settings == settings).order_by(table.c.leader)
        return [group_of(row) for row in await self._read(kept)]

    async def aclose(self) -> None:
        """Close the connections; the store may be used again afterwards, but for `memory://`."""
        await on_portal(self._engine.aclose())

    def close(self) -> None:
        """`aclose` for synchronous callers."""
        run_sync(self._engine.aclose())

    async def _page(
        self, selection: LessonSelection, after: tuple[datetime, str] | None
    ) -> list[Lesson]:
        await self._retain()
        rows = await self._rows(writing.page(selection, after, PAGE))
        said: dict[str, list[Feedback]] = {}
        if rows:
            table = schema.verdicts
            about = table.c.run_id.in_([row["run_id"] for row in rows])
            for row in await self._rows(select(table).where(about).order_by(table.c.at)):
                said.setdefault(row["run_id"], []).append(feedback_of(row))
        return [lesson_of(row, said.get(row["run_id"], [])) for row in rows]

    async def _read(self, statement: Any) -> Sequence[Mapping[str, Any]]:
        return await self._do(self._rows(statement))

    async def _do(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it where the connections are.

        Who is cancelled meanwhile closes the connection, and a database in memory is gone with it:
        there it is done to its end.
        """
        if not self._in_memory:
            return await on_portal(work)

        async def to_its_end() -> T:
            return await asyncio.shield(work)

        return await on_portal(to_its_end())

    async def _rows(self, statement: Any) -> Sequence[Mapping[str, Any]]:
        engine = (await self._engine.get()).execution_options(**{READS: True})
        with told_apart(DATABASE):
            async with self._alone, engine.connect() as connection:
                result = await connection.execute(statement)
                return [dict(row) for row in result.mappings()]

    async def _change(self, work: Callable[[Connection], T]) -> T:
        async def change() -> T:
            await self._retain()
            return await self._transact(work)

        return await self._do(change())

    async def _transact(self, work: Callable[[Connection], T]) -> T:
        engine = await self._engine.get()
        with told_apart(DATABASE):
            async with self._alone, engine.begin() as connection:
                if engine.dialect.name == "postgresql":
                    lock = text("SELECT pg_advisory_xact_lock(:key)")
                    await connection.execute(lock, {"key": LOCK})
                return await connection.run_sync(work)

    async def _delete(self, selection: LessonSelection) -> Deleted:
        found = await self._transact(lambda c: erasing.delete_from(c, selection))
        engine = await self._engine.get()
        async with self._alone:
            scrubbed = await erasing.scrub(engine, schema.metadata.sorted_tables)
        if not scrubbed:
            logger.warning("lessons were deleted, but the database's files may still hold them")
        n_lessons, n_verdicts, files = found
        return Deleted(lessons=n_lessons, verdicts=n_verdicts, exports=files, scrubbed=scrubbed)

    async def _retain(self) -> None:
        """Delete what is too old, now and then."""
        if self._keep_for is None or time.monotonic() - self._retained_at < RETAIN_EVERY_S:
            return
        self._retained_at = time.monotonic()
        old = LessonSelection(until=datetime.now(UTC) - self._keep_for)
        if not await self._any(old):
            return
        await self._delete(old)

    async def _any(self, selection: LessonSelection) -> bool:
        for table in schema.TEXTS:
            meant = select(table.c.run_id).where(*writing.where(table, selection)).limit(1)
            if await self._rows(meant):
                return True
        return False
