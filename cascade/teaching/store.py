"""Store of lessons: SQLite or PostgreSQL through SQLAlchemy Core, with deletion for good."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from cascade._portal import on_portal
from cascade.errors import ConfigurationError, InputError
from cascade.ledger.database import LOCK, Database, UtcTime, Words, json_type, to_json
from cascade.ledger.feedback import Feedback
from cascade.teaching.lessons import EVERYTHING, Lesson, LessonSelection, Terms

# Where SQLAlchemy is missing, `cascade.ledger.database` has told so before.
import sqlalchemy as sa  # isort: skip

logger = logging.getLogger("cascade")

T = TypeVar("T")
R = TypeVar("R", Lesson, Feedback)

Redact = Callable[[str], str]
"""Takes out of a text what must not be stored."""

PAGE = 500
"""Lessons that are read at once."""

MOST_SAID = 100
"""Verdicts about one run that are kept."""

NO_TEXTS = frozenset({"role", "type", "id", "tool_call_id", "name"})
"""Parts of a message that are not redacted."""

metadata = sa.MetaData()

lessons_table = sa.Table(
    "teaching_lessons",
    metadata,
    sa.Column("run_id", Words, primary_key=True),
    sa.Column("at", UtcTime, nullable=False, index=True),
    sa.Column("task", Words, nullable=False),
    sa.Column("tenant", Words),
    sa.Column("user_name", Words, key="user", index=True),
    sa.Column("lesson", Words, nullable=False),
    sa.Column("verdicts", json_type),
)
terms_table = sa.Table(
    "teaching_terms",
    metadata,
    sa.Column("model", Words, primary_key=True),
    sa.Column("stated", Words, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """Number of lessons deleted, and whether SQLite's own files hold nothing of them any more:
    not where another process kept the journal open; PostgreSQL cleans its files by a vacuum."""

    lessons: int
    scrubbed: bool = True


def open_lessons(url: str, *, redact: Redact | None = None) -> LessonStore:
    """A store of lessons at `sqlite:///lessons.db`, `postgresql://…` or `memory://`, which may be
    the ledger's database; it connects with its first use. `redact` takes out of every text what
    must not be stored; where it raises, nothing is.

    Raises:
        ConfigurationError: the address has none of these forms.
        MissingDependencyError: SQLAlchemy or the driver is not installed.
    """
    return LessonStore(url, redact)


def the_store(store: object, of: str) -> LessonStore:
    """The store that a middleware was given; refused where it is none."""
    if isinstance(store, LessonStore):
        return store
    raise ConfigurationError(
        f"{of}({store!r}): give a store, open_lessons('sqlite:///lessons.db')."
    )


class LessonStore:
    """Lessons with the verdicts of people about them, and terms of models, made by `open_lessons`.

    Methods may be called in any event loop and thread; where the database cannot be reached they
    raise `cascade.ledger.base.UnavailableError`.
    """

    def __init__(self, url: str, redact: Redact | None) -> None:
        self._redact, self._database = redact, Database(url, "teaching", metadata)

    async def put(self, lesson: Lesson) -> bool:
        """Keep a lesson; whether it is new: a run's first lesson stays."""
        kept = self._redacted(lesson, "messages", "draft", "answer", "tool_calls")
        if kept is None:
            return False
        row = {name: getattr(kept, name) for name in ("run_id", "at", "task", "tenant", "user")}
        row["lesson"] = to_json(kept.model_dump(mode="json", exclude={"verdicts"}))

        def work(connection: sa.Connection) -> bool:
            there = sa.select(lessons_table.c.run_id).where(lessons_table.c.run_id == kept.run_id)
            if connection.execute(there).first() is not None:
                return False
            connection.execute(sa.insert(lessons_table), row)
            return True

        return await self._write(work)

    async def get(self, run_id: str) -> Lesson | None:
        """The lesson of a run."""
        return await anext(self.lessons(LessonSelection(run_id=run_id)), None)

    async def lessons(self, selection: LessonSelection = EVERYTHING) -> AsyncGenerator[Lesson]:
        """Lessons with their verdicts, oldest first."""
        table, place = lessons_table, sa.tuple_(lessons_table.c.at, lessons_table.c.run_id)
        statement = sa.select(table.c.lesson, table.c.verdicts).where(*_where(selection))
        statement = statement.order_by(table.c.at, table.c.run_id).limit(PAGE)
        page = await self._read(statement, _lesson)
        while page:
            for lesson in page:
                yield lesson
            if len(page) < PAGE:
                return
            last = sa.literal(page[-1].at, table.c.at.type), sa.literal(page[-1].run_id)
            page = await self._read(statement.where(place > sa.tuple_(*last)), _lesson)

    async def judge(self, feedback: Feedback) -> bool | None:
        """Keep a verdict in place of an earlier one of the same key and person; whether anything
        changed, None where the run has no lesson. `MOST_SAID` verdicts are an `InputError`."""
        kept = self._redacted(feedback, "comment", "value", "correction")
        return kept is not None and await self._write(lambda c: _judge(c, kept))

    async def delete(
        self, selection: LessonSelection = EVERYTHING, *, everything: bool = False
    ) -> Deleted:
        """Delete lessons with their verdicts for good, also from SQLite's own files; where all of a
        user is meant, also the user's verdicts about answers to others.

        Raises:
            ConfigurationError: neither a selection nor `everything` is said, or both are.
        """
        if (selection == EVERYTHING) is not everything:
            raise ConfigurationError(
                "say what to delete: a LessonSelection (--user, --tenant, --run, --older-than), or "
                "everything=True (--all) alone."
            )
        number = await self._write(lambda c: _delete(c, selection))
        scrubbed = await on_portal(self._database.scrub())
        return Deleted(lessons=number, scrubbed=scrubbed)

    async def state_terms(self, model: str, terms: Terms) -> None:
        """State the terms of a model, `provider:name` or `provider:*`, from today on."""
        if not model.strip():
            raise ConfigurationError("terms of no model: give its name, such as openai:gpt-5.1.")

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(terms_table).where(terms_table.c.model == model))
            row = {"model": model, "stated": terms.model_dump_json()}
            connection.execute(sa.insert(terms_table), row)

        await self._write(work)

    async def terms(self) -> dict[str, Terms]:
        """The terms as they are stated today, by model."""
        statement = sa.select(terms_table).order_by(terms_table.c.model)
        found = await self._read(statement, lambda row: (row[0], Terms.model_validate_json(row[1])))
        return dict(found)

    async def aclose(self) -> None:
        """Close the connections; the store may be used again, but for `memory://`."""
        await on_portal(self._database.aclose())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _redacted(self, record: R, *texts: str) -> R | None:
        """The record as it may be stored; None where the redaction fails."""
        if self._redact is None:
            return record
        try:
            left = {name: _redacted_part(getattr(record, name), self._redact) for name in texts}
        except Exception:
            logger.exception("redaction failed: a %s is not stored", type(record).__name__)
            return None
        return record.model_copy(update=left)

    async def _read(self, statement: sa.Executable, made: Callable[[Any], T]) -> list[T]:
        return await on_portal(
            self._database.read(lambda c: [made(row) for row in c.execute(statement)])
        )

    async def _write(self, work: Callable[[sa.Connection], T]) -> T:
        def alone(connection: sa.Connection) -> T:
            if self._database.kind == "postgresql":  # as in SQLite: nothing changes meanwhile
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK + 2})
            return work(connection)

        return await on_portal(self._database.write(alone))


# --- within one transaction


def _judge(connection: sa.Connection, feedback: Feedback) -> bool | None:
    column, this = lessons_table.c.verdicts, lessons_table.c.run_id == feedback.run_id
    row = connection.execute(sa.select(column).where(this)).first()
    if row is None:
        return None
    said = [Feedback.model_validate(each) for each in row[0] or ()]
    others = [v for v in said if (v.key, v.by) != (feedback.key, feedback.by)]
    for earlier in (v for v in said if v not in others):
        same = earlier.model_copy(update={"at": feedback.at}) == feedback
        if same or feedback.at < earlier.at:
            return False
    if len(others) >= MOST_SAID:
        raise InputError(f"feedback: run {feedback.run_id!r} has been judged {MOST_SAID} times.")
    kept = [verdict.model_dump(mode="json") for verdict in (*others, feedback)]
    connection.execute(sa.update(lessons_table).where(this).values(verdicts=kept))
    return True


def _delete(connection: sa.Connection, selection: LessonSelection) -> int:
    user, tenant = selection.user, selection.tenant
    if user is not None and selection == LessonSelection(user=user, tenant=tenant):
        _delete_verdicts(connection, user, LessonSelection(tenant=tenant))
    return connection.execute(sa.delete(lessons_table).where(*_where(selection))).rowcount


def _delete_verdicts(connection: sa.Connection, by: str, selection: LessonSelection) -> None:
    run_id, column = lessons_table.c.run_id, lessons_table.c.verdicts
    judged = sa.select(run_id, column).where(column.is_not(None), *_where(selection))
    for one, said in connection.execute(judged).all():
        left = [verdict for verdict in said if verdict["by"] != by]
        if len(left) < len(said):
            values = {"verdicts": left or None}
            connection.execute(sa.update(lessons_table).where(run_id == one).values(values))


def _where(selection: LessonSelection) -> Iterator[sa.ColumnElement[bool]]:
    columns = lessons_table.c
    for name in ("run_id", "user", "tenant", "task"):
        if (value := getattr(selection, name)) is not None:
            yield columns[name] == value
    if selection.since is not None:
        yield columns.at >= selection.since
    if selection.until is not None:
        yield columns.at < selection.until


def _lesson(row: Any) -> Lesson:
    lesson, verdicts = row
    return Lesson.model_validate({**json.loads(lesson), "verdicts": verdicts or ()})


def _redacted_part(value: Any, redact: Redact) -> Any:
    if isinstance(value, Mapping):
        return {k: v if k in NO_TEXTS else _redacted_part(v, redact) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_redacted_part(item, redact) for item in value)
    return redact(value) if isinstance(value, str) else value
