"""SQLite and PostgreSQL through SQLAlchemy; what is written to SQLite all the time, without."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Table,
    delete,
    false,
    func,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine

from cascade.errors import LedgerError
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
from cascade.ledger.store.engines import (
    READS,
    make_engine,
    make_sqlite_writer,
    patiently,
    told_apart,
)
from cascade.ledger.store.files import Identity, identity_of, journal_of, path_of, read_only_url
from cascade.ledger.store.migrations import check, migrate
from cascade.ledger.store.raw import RawWriter, UrgentWriter
from cascade.ledger.store.rows import (
    attempt_of,
    attempt_row,
    entry_row,
    pending_of,
    pending_row,
    stored_of,
    texts_of,
    texts_row,
)
from cascade.ledger.store.tables import attempts, entries, pending, texts
from cascade.ledger.texts import Pending

logger = logging.getLogger("cascade")

T = TypeVar("T")

LONG_JOURNAL = 4_096 * 1_000
"""Bytes of a journal that is to be moved into the database: as many pages as SQLite waits for."""


class SqlBackend(Backend):
    """A ledger in a database that SQLAlchemy reaches.

    Args:
        url: with the name of an asynchronous driver, `sqlite+aiosqlite:///…` or
            `postgresql+asyncpg://…`.
        durable: each commit waits for the disk, in PostgreSQL whatever its settings say of
            `synchronous_commit`.
        read_only: nothing is written, migrated or made.
    """

    def __init__(self, url: str, *, durable: bool = False, read_only: bool = False) -> None:
        self._url = url
        self._path = path_of(url)
        self._place = f"the ledger {self._path or 'in its database'}"
        self._durable = durable
        self.read_only = read_only
        self._file: Identity | None = None
        self._journal: Identity | None = None
        self._doubtful = False
        self._engine: AsyncEngine | None = None
        self._sqlite_writer: Engine | None = None
        self._raw_writer: RawWriter | None = None
        # What has to be on the disk is no matter of microseconds.
        at_once = url.startswith("sqlite") and not (durable or read_only)
        self._at_once = UrgentWriter(url) if at_once else None

    async def open(self) -> None:
        """Connect, and migrate; or see that it can be read as it is."""
        with told_apart(self._place):
            if self.read_only:
                await check(self._connected())
            else:
                await migrate(self._connected())
        self._file, self._doubtful = identity_of(self._path), False
        self._journal = identity_of(journal_of(self._path))
        if self._at_once is not None:
            self._at_once.open()

    def write_now(self, batch: Batch) -> bool:
        """Write it to SQLite, if nobody else is writing; what is wrong, `write` will tell."""
        if self._at_once is None or self._file != identity_of(self._path):
            return False
        return self._at_once.write(batch) and self._file == identity_of(self._path)

    async def tidy(self) -> None:
        """Move the journal of SQLite into the database once it is long: that waits for the disk."""
        journal = journal_of(self._path)
        if self._at_once is None or journal is None or self._file != identity_of(self._path):
            return
        if journal.stat().st_size > LONG_JOURNAL:
            with self._at_once.held_off():
                self._raw().move_journal()

    async def write(self, batch: Batch) -> None:
        """Write the batch in one transaction."""
        if not self._url.startswith("sqlite"):
            await self._transact(lambda connection: _write(connection, batch))
            return
        await self._changed(lambda: patiently(lambda: self._write_raw(batch)))

    async def _changed(self, change: Callable[[], Awaitable[T]]) -> T:
        """Make a change in the database that is there now, and see that it was there till then.

        After a failure the schema is looked at again: the database may be another one since.
        """
        if self.read_only:
            raise LedgerError("this ledger is open for reading only.")
        while True:
            await self._present()
            if self._doubtful:
                await self.open()
            try:
                with told_apart(self._place):
                    changed = await change()
            except UnavailableError:
                self._doubtful = True
                raise
            if self._file == identity_of(self._path):
                return changed

    async def _present(self) -> None:
        """Let go of an SQLite file that was deleted or replaced: what is written there is lost."""
        if self._file == identity_of(self._path):
            return
        logger.error(
            "%s was deleted or replaced; what comes now is written to the file of that name",
            self._place,
        )
        await self.aclose()
        journal = journal_of(self._path)
        if journal is not None and self._journal and identity_of(journal) == self._journal:
            # It belongs to the file that is gone; SQLite would take it for that of the new one.
            journal.unlink(missing_ok=True)
        await self.open()

    async def page(
        self, selection: Selection, after: Stored | None, limit: int
    ) -> Sequence[Stored]:
        """The next entries."""
        place = None if after is None else (after.entry.at, after.id)
        return [stored_of(row) for row in await self._page(entries, selection, place, limit)]

    async def unfinished(self, selection: Selection) -> Sequence[Attempt]:
        """The attempts without an entry."""
        begun = attempts.c.begun_at
        statement = select(attempts).where(*_where(attempts, selection))
        rows = await self._read(statement.order_by(begun, attempts.c.attempt_id))
        return [attempt_of(row) for row in rows]

    async def texts(
        self, selection: Selection, after: StoredTexts | None, limit: int
    ) -> Sequence[StoredTexts]:
        """The next texts."""
        place = None if after is None else (after.at, after.id)
        return [texts_of(row) for row in await self._page(texts, selection, place, limit)]

    async def pending(self, selection: Selection) -> Sequence[Pending]:
        """The audits that are not done."""
        statement = select(pending).where(*_where(pending, selection))
        rows = await self._read(statement.order_by(pending.c.at, pending.c.run_id))
        return [pending_of(row) for row in rows]

    async def claim(self, claim: Claim) -> Sequence[Pending]:
        """Take audits on; of two who do so at once the second finds the first one's mark."""
        return await self._transact(lambda connection: _claim(connection, claim))

    async def spent(self, selection: Selection) -> Amounts:
        """Add the costs up here, as SQLite cannot add exactly, but equal ones at once."""
        columns = (entries.c.cost_usd, entries.c.cost_basis, entries.c.assumed_usd)
        counted = select(*columns, func.count().label("times")).group_by(*columns)
        sum_of = Amounts()
        for row in await self._read(counted.where(*_where(entries, selection))):
            amounts = (row["cost_usd"], row["cost_basis"], row["assumed_usd"])
            sum_of = sum_of.plus_spend(*amounts, times=row["times"])
        return sum_of

    async def delete(self, selection: Selection) -> int:
        """Delete all that is meant in one transaction."""
        tables = (attempts, texts, pending, entries)
        return (await self._transact(lambda c: _delete(c, tables, selection)))[-1]

    async def delete_texts(self, selection: Selection) -> int:
        """Delete the texts that are meant in one transaction."""
        tables = (texts, pending)
        return sum(await self._transact(lambda c: _delete(c, tables, selection)))

    async def aclose(self) -> None:
        """Close the connections."""
        if self._at_once is not None:
            self._at_once.close()
        if self._raw_writer is not None:
            self._raw_writer.close()
            self._raw_writer = None
        if self._sqlite_writer is not None:
            self._sqlite_writer.dispose()
            self._sqlite_writer = None
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None

    def _connected(self) -> AsyncEngine:
        if self._engine is None:
            url = self._url
            if self.read_only and self._path is not None:
                url = read_only_url(self._path)
            self._engine = make_engine(url, durable=self._durable, read_only=self.read_only)
        return self._engine

    async def _transact(self, work: Callable[[Connection], T]) -> T:
        """Do something in one transaction, all of it or nothing."""

        async def change() -> T:
            if self._url.startswith("sqlite"):
                return await patiently(lambda: self._transact_in_sqlite(work))
            async with self._connected().begin() as connection:
                return await connection.run_sync(work)

        return await self._changed(change)

    def _transact_in_sqlite(self, work: Callable[[Connection], T]) -> T:
        with self._writing().begin() as connection:
            return work(connection)

    def _writing(self) -> Engine:
        if self._sqlite_writer is None:
            self._sqlite_writer = make_sqlite_writer(self._url, durable=self._durable)
        return self._sqlite_writer

    def _write_raw(self, batch: Batch) -> None:
        with nullcontext() if self._at_once is None else self._at_once.held_off():
            self._raw().write(batch)

    def _raw(self) -> RawWriter:
        if self._raw_writer is None:
            self._raw_writer = RawWriter(self._writing())
        return self._raw_writer

    async def _page(
        self, table: Table, selection: Selection, after: tuple[datetime, str] | None, limit: int
    ) -> Sequence[Mapping[str, Any]]:
        at, key = table.c.at, table.c.id
        statement = select(table).where(*_where(table, selection))
        if after is not None:
            place = tuple_(literal(after[0], at.type), literal(after[1], key.type))
            statement = statement.where(tuple_(at, key) > place)
        return await self._read(statement.order_by(at, key).limit(limit))

    async def _read(self, statement: Any) -> Sequence[Mapping[str, Any]]:
        await self._present()
        with told_apart(self._place):
            engine = self._connected().execution_options(**{READS: True})
            async with engine.connect() as connection:
                result = await connection.execute(statement)
                return [dict(row) for row in result.mappings()]


def _write(connection: Connection, batch: Batch) -> None:
    """Write a batch to PostgreSQL; `raw` does so in SQLite.

    Entries come last and in the order of their keys: what each has spent is counted as they are
    written, and until the end nobody else can count for the same key.
    """
    completed = {s.entry.attempt_id for s in batch.entries if s.entry.attempt_id}
    gone = [*completed, *(withdrawn.attempt_id for withdrawn in batch.withdrawn)]
    _insert(connection, attempts, [attempt_row(attempt) for attempt in batch.attempts])
    _insert(connection, texts, [texts_row(kept) for kept in batch.texts])
    _insert(connection, pending, [pending_row(audit) for audit in batch.pending])
    _remove(connection, attempts.c.attempt_id, gone)
    _remove(connection, pending.c.run_id, [audit.run_id for audit in batch.dropped])
    written = sorted(
        batch.entries, key=lambda stored: (stored.tags.get("key", ""), stored.entry.at)
    )
    _insert(connection, entries, [entry_row(stored) for stored in written])


def _insert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        connection.execute(postgresql.insert(table).on_conflict_do_nothing(), rows)


def _remove(connection: Connection, key: Column[Any], values: Sequence[str]) -> None:
    for start in range(0, len(values), 500):  # databases limit the parameters
        some = key.in_(values[start : start + 500])
        connection.execute(delete(key.table).where(some))


def _delete(connection: Connection, tables: Sequence[Table], selection: Selection) -> list[int]:
    """Delete from each table; returns how many rows of each."""
    statements = (delete(table).where(*_where(table, selection)) for table in tables)
    return [connection.execute(statement).rowcount for statement in statements]


def _claim(connection: Connection, claim: Claim) -> Sequence[Pending]:
    free = or_(pending.c.claimed_at.is_(None), pending.c.claimed_at <= claim.lapsed)
    mark = {"claimed_by": claim.by, "claimed_at": claim.at}
    old = (pending.c.at <= claim.drawn_until, free)
    # Of several who claim in PostgreSQL at once, none waits for what another is about to get.
    chosen = select(pending.c.run_id).where(*old).with_for_update(skip_locked=True)
    connection.execute(update(pending).where(pending.c.run_id.in_(chosen)).values(mark))
    mine = (pending.c.claimed_by == claim.by, pending.c.claimed_at == claim.at)
    found = select(pending).where(*mine).order_by(pending.c.at, pending.c.run_id)
    return [pending_of(dict(row)) for row in connection.execute(found).mappings()]


def _where(table: Table, selection: Selection) -> Iterator[ColumnElement[bool]]:
    at = table.c.begun_at if table is attempts else table.c.at
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
