"""SQLite and PostgreSQL through SQLAlchemy."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    CursorResult,
    Table,
    delete,
    event,
    false,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from cascade.ledger.amounts import Amounts
from cascade.ledger.store.base import (
    Attempt,
    Backend,
    Batch,
    Claim,
    Selection,
    Stored,
    StoredTexts,
    UnavailableError,
)
from cascade.ledger.store.migrations import migrate
from cascade.ledger.store.tables import attempts, entries, pending, texts
from cascade.ledger.tags import NO_TAGS
from cascade.ledger.texts import Pending, Texts
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
        durable: SQLite waits for the disk at each commit. PostgreSQL has its own settings.
    """

    def __init__(self, url: str, *, durable: bool = False) -> None:
        self._url = url
        self._durable = durable
        self._engine: AsyncEngine | None = None

    async def open(self) -> None:
        """Connect and migrate."""
        with _told_apart():
            await migrate(self._connected())

    async def write(self, batch: Batch) -> None:
        """Write the batch in one transaction."""
        completed = {s.entry.attempt_id for s in batch.entries if s.entry.attempt_id}
        gone = [*completed, *(withdrawn.attempt_id for withdrawn in batch.withdrawn)]
        dropped = [audit.run_id for audit in batch.dropped]
        with _told_apart():
            async with self._connected().begin() as connection:
                await _insert(connection, attempts, [_attempt_row(a) for a in batch.attempts])
                await _insert(connection, entries, [_entry_row(s) for s in batch.entries])
                await _insert(connection, texts, [_texts_row(t) for t in batch.texts])
                await _insert(connection, pending, [_pending_row(p) for p in batch.pending])
                await _remove(connection, attempts.c.attempt_id, gone)
                await _remove(connection, pending.c.run_id, dropped)

    async def page(
        self, selection: Selection, after: Stored | None, limit: int
    ) -> Sequence[Stored]:
        """The next entries."""
        place = None if after is None else (after.entry.at, after.id)
        return [
            Stored(row["id"], LedgerEntry(**{f: row[f] for f in _ENTRY_FIELDS}), _tags_of(row))
            for row in await self._page(entries, selection, place, limit)
        ]

    async def unfinished(self, selection: Selection) -> Sequence[Attempt]:
        """The attempts without an entry."""
        begun = attempts.c.begun_at
        statement = select(attempts).where(*_where(attempts, begun, selection))
        rows = await self._read(statement.order_by(begun, attempts.c.attempt_id))
        return [Attempt(**{**row, "tags": _tags_of(row)}) for row in rows]

    async def texts(
        self, selection: Selection, after: StoredTexts | None, limit: int
    ) -> Sequence[StoredTexts]:
        """The next texts."""
        place = None if after is None else (after.at, after.id)
        return [
            StoredTexts(
                id=row["id"],
                run_id=row["run_id"],
                node=row["node"],
                tier=row["tier"],
                texts=Texts(row["prompt"], row["answer"]),
                at=row["at"],
                tags=_tags_of(row),
            )
            for row in await self._page(texts, selection, place, limit)
        ]

    async def pending(self, selection: Selection) -> Sequence[Pending]:
        """The audits that are not done."""
        statement = select(pending).where(*_where(pending, pending.c.at, selection))
        rows = await self._read(statement.order_by(pending.c.at, pending.c.run_id))
        return [_pending_of(row) for row in rows]

    async def claim(self, claim: Claim) -> Sequence[Pending]:
        """Take audits on; of two who do so at once the second finds the first one's mark."""
        free = or_(pending.c.claimed_at.is_(None), pending.c.claimed_at <= claim.lapsed)
        mark = (
            update(pending)
            .where(pending.c.at <= claim.drawn_until, free)
            .values(claimed_by=claim.by, claimed_at=claim.at)
        )
        mine = (pending.c.claimed_by == claim.by, pending.c.claimed_at == claim.at)
        found = select(pending).where(*mine).order_by(pending.c.at, pending.c.run_id)
        with _told_apart():
            async with self._connected().begin() as connection:
                await connection.execute(mark)
                rows = (await connection.execute(found)).mappings()
                return [_pending_of(dict(row)) for row in rows]

    async def spent(self, selection: Selection) -> Amounts:
        """Add the costs up here: SQLite cannot add exactly."""
        columns = (entries.c.cost_usd, entries.c.cost_basis, entries.c.assumed_usd)
        statement = select(*columns).where(*_where(entries, entries.c.at, selection))
        sum_of = Amounts()
        for row in await self._read(statement):
            sum_of = sum_of.plus_spend(row["cost_usd"], row["cost_basis"], row["assumed_usd"])
        return sum_of

    async def delete(self, selection: Selection) -> int:
        """Delete all that is meant in one transaction."""
        return (await self._delete((attempts, texts, pending, entries), selection))[-1]

    async def delete_texts(self, selection: Selection) -> int:
        """Delete the texts that are meant in one transaction."""
        return sum(await self._delete((texts, pending), selection))

    async def aclose(self) -> None:
        """Close the connections."""
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None

    def _connected(self) -> AsyncEngine:
        if self._engine is None:
            self._engine = _make_engine(self._url, durable=self._durable)
        return self._engine

    async def _page(
        self, table: Table, selection: Selection, after: tuple[datetime, str] | None, limit: int
    ) -> Sequence[Mapping[str, Any]]:
        at, key = table.c.at, table.c.id
        statement = select(table).where(*_where(table, at, selection))
        if after is not None:
            place = tuple_(literal(after[0], at.type), literal(after[1], key.type))
            statement = statement.where(tuple_(at, key) > place)
        return await self._read(statement.order_by(at, key).limit(limit))

    async def _delete(self, tables: Sequence[Table], selection: Selection) -> list[int]:
        deleted = []
        with _told_apart():
            async with self._connected().begin() as connection:
                for table in tables:
                    at = table.c.begun_at if table is attempts else table.c.at
                    where = _where(table, at, selection)
                    result: CursorResult[Any] = await connection.execute(
                        delete(table).where(*where)
                    )
                    deleted.append(result.rowcount)
        return deleted

    async def _read(self, statement: Any) -> Sequence[Mapping[str, Any]]:
        engine = self._connected().execution_options(**{_READS: True})
        with _told_apart():
            async with engine.connect() as connection:
                result = await connection.execute(statement)
                return [dict(row) for row in result.mappings()]


def _make_engine(url: str, *, durable: bool = False) -> AsyncEngine:
    if not url.startswith("sqlite"):
        return create_async_engine(url, pool_size=2, pool_pre_ping=True, hide_parameters=True)
    engine = create_async_engine(
        url, connect_args={"timeout": BUSY_MS / 1000}, hide_parameters=True
    )
    event.listen(engine.sync_engine, "connect", partial(_set_up_sqlite, durable=durable))
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, record: object, *, durable: bool) -> None:
    del record
    # Python's driver begins transactions by itself, but not before statements that change the
    # schema; without it, _begin_sqlite says when and how.
    connection.isolation_level = None
    cursor = connection.cursor()
    _turn_wal_on(cursor)
    cursor.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
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


async def _remove(connection: AsyncConnection, key: Column[Any], values: Sequence[str]) -> None:
    for start in range(0, len(values), 500):  # databases limit the parameters
        some = key.in_(values[start : start + 500])
        await connection.execute(delete(key.table).where(some))


def _where(
    table: Table, at: ColumnElement[Any], selection: Selection
) -> Iterator[ColumnElement[bool]]:
    for name in ("run_id", "node", "tier"):
        value = getattr(selection, name)
        if value is not None:
            yield table.c[name] == value if name in table.c else false()
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


def _texts_row(kept: StoredTexts) -> dict[str, Any]:
    return {
        "id": kept.id,
        "run_id": kept.run_id,
        "node": kept.node,
        "tier": kept.tier,
        "prompt": kept.texts.prompt,
        "answer": kept.texts.answer,
        "at": kept.at,
        "tags": dict(kept.tags),
    }


def _pending_row(audit: Pending) -> dict[str, Any]:
    return {
        "run_id": audit.run_id,
        "payload": audit.payload,
        "at": audit.at,
        "tags": dict(audit.tags),
    }


def _pending_of(row: Mapping[str, Any]) -> Pending:
    return Pending(run_id=row["run_id"], payload=row["payload"], at=row["at"], tags=_tags_of(row))


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
