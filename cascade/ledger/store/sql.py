"""SQLite and PostgreSQL through SQLAlchemy."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    Table,
    delete,
    event,
    literal,
    select,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from cascade.ledger.store.base import (
    Attempt,
    Backend,
    Batch,
    Selection,
    Stored,
    UnavailableError,
)
from cascade.ledger.store.migrations import migrate
from cascade.ledger.store.tables import attempts, entries
from cascade.ledger.tags import NO_TAGS
from cascade.state import LedgerEntry

BUSY_MS = 15_000
"""How long SQLite waits for another process that writes, before the writer tries again."""

WAL_RETRY_S = 0.02
"""Between two attempts to set the journal's mode; whoever holds the lock needs milliseconds."""

_READS = "cascade_reads"

_ENTRY_FIELDS = tuple(LedgerEntry.model_fields)


class SqlBackend(Backend):
    """A ledger in a database that SQLAlchemy reaches.

    Args:
        url: with the name of an asynchronous driver, `sqlite+aiosqlite:///…` or
            `postgresql+asyncpg://…`.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine: AsyncEngine | None = None

    async def open(self) -> None:
        """Connect and migrate."""
        with _told_apart():
            await migrate(self._connected())

    async def write(self, batch: Batch) -> None:
        """Write the batch in one transaction."""
        completed = {s.entry.attempt_id for s in batch.entries if s.entry.attempt_id}
        gone = [*completed, *batch.withdrawn]
        with _told_apart():
            async with self._connected().begin() as connection:
                await _insert(connection, attempts, [_attempt_row(a) for a in batch.attempts])
                await _insert(connection, entries, [_entry_row(s) for s in batch.entries])
                for start in range(0, len(gone), 500):  # databases limit the parameters
                    some = attempts.c.attempt_id.in_(gone[start : start + 500])
                    await connection.execute(delete(attempts).where(some))

    async def page(
        self, selection: Selection, after: Stored | None, limit: int
    ) -> Sequence[Stored]:
        """The next entries."""
        at, key = entries.c.at, entries.c.id
        statement = select(entries).where(*_where(entries, at, selection))
        if after is not None:
            place = tuple_(literal(after.entry.at, at.type), literal(after.id, key.type))
            statement = statement.where(tuple_(at, key) > place)
        rows = await self._read(statement.order_by(at, key).limit(limit))
        return [
            Stored(row["id"], LedgerEntry(**{f: row[f] for f in _ENTRY_FIELDS}), _tags_of(row))
            for row in rows
        ]

    async def unfinished(self, selection: Selection) -> Sequence[Attempt]:
        """The attempts without an entry."""
        begun = attempts.c.begun_at
        statement = select(attempts).where(*_where(attempts, begun, selection))
        rows = await self._read(statement.order_by(begun, attempts.c.attempt_id))
        return [Attempt(**{**row, "tags": _tags_of(row)}) for row in rows]

    async def delete(self, selection: Selection) -> int:
        """Delete entries and attempts in one transaction."""
        with _told_apart():
            async with self._connected().begin() as connection:
                where = _where(attempts, attempts.c.begun_at, selection)
                await connection.execute(delete(attempts).where(*where))
                where = _where(entries, entries.c.at, selection)
                result: CursorResult[Any] = await connection.execute(delete(entries).where(*where))
                return result.rowcount

    async def aclose(self) -> None:
        """Close the connections."""
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None

    def _connected(self) -> AsyncEngine:
        if self._engine is None:
            self._engine = _make_engine(self._url)
        return self._engine

    async def _read(self, statement: Any) -> Sequence[Mapping[str, Any]]:
        engine = self._connected().execution_options(**{_READS: True})
        with _told_apart():
            async with engine.connect() as connection:
                result = await connection.execute(statement)
                return [dict(row) for row in result.mappings()]


def _make_engine(url: str) -> AsyncEngine:
    if not url.startswith("sqlite"):
        return create_async_engine(url, pool_size=2, pool_pre_ping=True)
    engine = create_async_engine(url, connect_args={"timeout": BUSY_MS / 1000})
    event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, record: object) -> None:
    del record
    # Python's driver begins transactions by itself, but not before statements that change the
    # schema; without it, _begin_sqlite says when and how.
    connection.isolation_level = None
    cursor = connection.cursor()
    _turn_wal_on(cursor)
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _turn_wal_on(cursor: Any) -> None:
    """Set the journal's mode, which SQLite's own busy timeout does not wait for.

    Of several processes that open a new file at once, all but the first are told that it is
    locked; a moment later the mode is set and asking for it needs no lock.
    """
    until = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            await_only(asyncio.sleep(WAL_RETRY_S))
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later cannot wait for another writer.
    reads = connection.get_execution_options().get(_READS)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


async def _insert(
    connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]]
) -> None:
    if rows:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        await connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)


def _where(
    table: Table, at: ColumnElement[Any], selection: Selection
) -> Iterator[ColumnElement[bool]]:
    for name in ("run_id", "node", "tier"):
        value = getattr(selection, name)
        if value is not None:
            yield table.c[name] == value
    if selection.since is not None:
        yield at >= selection.since
    if selection.until is not None:
        yield at < selection.until
    for key, value in selection.tags.items():
        yield table.c.tags[key].as_string() == value


def _entry_row(stored: Stored) -> dict[str, Any]:
    return {**stored.entry.__dict__, "id": stored.id, "tags": dict(stored.tags)}


def _attempt_row(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt_id": attempt.attempt_id,
        "run_id": attempt.run_id,
        "node": attempt.node,
        "tier": attempt.tier,
        "model": attempt.model,
        "begun_at": attempt.begun_at,
        "tags": dict(attempt.tags),
    }


def _tags_of(row: Mapping[str, Any]) -> Mapping[str, str]:
    return row["tags"] or NO_TAGS


@contextmanager
def _told_apart() -> Iterator[None]:
    """Tell what may succeed later from what never will."""
    try:
        yield
    except (OSError, sqlite3.OperationalError, PoolTimeoutError) as error:
        raise UnavailableError(f"the ledger's database: {error}") from error
    except DBAPIError as error:
        # asyncpg calls a value that it cannot send an error of the interface, too.
        wrong_value = isinstance(getattr(error.orig, "__cause__", None), ValueError)
        passing = isinstance(error, OperationalError | InterfaceError) and not wrong_value
        if passing or error.connection_invalidated:
            raise UnavailableError(f"the ledger's database: {error.orig}") from error
        raise
