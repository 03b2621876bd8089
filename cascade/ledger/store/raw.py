"""Batches written to SQLite without SQLAlchemy in between, which takes longer than SQLite itself.

The statements and the forms of values are SQLAlchemy's, made once for each table.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, cast

from sqlalchemy import Column, Engine, PoolProxiedConnection, Table
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeDecorator, TypeEngine

from cascade.ledger.store.base import Attempt, Batch
from cascade.ledger.store.engines import make_sqlite_writer_at_once
from cascade.ledger.store.rows import attempt_row, entry_row, pending_row, texts_row
from cascade.ledger.store.tables import attempts, entries, pending, texts

DIALECT = sqlite.dialect()

Row = Mapping[str, Any]


class _Insert:
    """Inserts rows of one table; those whose key is there already are left as they are."""

    def __init__(self, table: Table, *columns: str) -> None:
        names = columns or tuple(column.name for column in table.columns)
        statement = sqlite.insert(table).on_conflict_do_nothing()
        self._text = str(statement.compile(dialect=DIALECT, column_keys=names))
        self._values = itemgetter(*names)
        forms = [_form_of(table.c[name].type) for name in names]
        self._forms = [(at, form) for at, form in enumerate(forms) if form is not None]

    def into(self, cursor: sqlite3.Cursor, rows: Sequence[Row]) -> None:
        """Insert them."""
        if len(rows) == 1:
            cursor.execute(self._text, self._formed(rows[0]))
        elif rows:
            cursor.executemany(self._text, map(self._formed, rows))

    def _formed(self, row: Row) -> list[Any]:
        values = list(self._values(row))
        for at, form in self._forms:
            if values[at] is not None:
                values[at] = form(values[at])
        return values


def _form_of(kind: TypeEngine[Any]) -> Callable[[Any], Any] | None:
    """What makes a value of this type one of SQLite's; None where it is one."""
    given = kind.dialect_impl(DIALECT)
    if isinstance(given, TypeDecorator) and given.impl_instance.bind_processor(DIALECT) is None:
        own = given.process_bind_param  # without SQLAlchemy's two calls around it
        return lambda value: own(value, DIALECT)
    return given.bind_processor(DIALECT)


_ATTEMPTS = _Insert(attempts)
_INSERTS: Sequence[tuple[_Insert, str, Callable[[Any], Row]]] = (
    (_ATTEMPTS, "attempts", attempt_row),
    (_Insert(entries), "entries", entry_row),
    (_Insert(texts), "texts", texts_row),
    (_Insert(pending, "run_id", "payload", "at", "tags"), "pending", pending_row),
)


class RawWriter:
    """Writes through one connection of its own, in the thread that calls it.

    Args:
        engine: of `make_sqlite_writer` or `make_sqlite_writer_at_once`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: PoolProxiedConnection | None = None

    def write(self, batch: Batch) -> None:
        """Write the batch in one transaction.

        Raises:
            sqlite3.Error: nothing of it is written.
        """
        self._transact(lambda cursor: _write(cursor, batch))

    def write_attempt(self, attempt: Attempt) -> None:
        """Write nothing but this, in one statement, which is a transaction of its own.

        Raises:
            sqlite3.Error: it is not written.
        """
        _ATTEMPTS.into(self._connected().cursor(), [attempt_row(attempt)])

    def move_journal(self) -> None:
        """Move what SQLite's journal has collected into the database, as far as nobody reads it."""
        self._connected().execute("PRAGMA wal_checkpoint(PASSIVE)").close()

    def close(self) -> None:
        """Close the connection."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None
        self._engine.dispose()

    def _connected(self) -> sqlite3.Connection:
        if self._kept is None:
            self._kept = self._engine.raw_connection()
        return cast(sqlite3.Connection, self._kept.driver_connection)

    def _transact(self, work: Callable[[sqlite3.Cursor], None]) -> None:
        connection = self._connected()
        cursor = connection.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        try:
            work(cursor)
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        finally:
            cursor.close()


class UrgentWriter:
    """Writes batches through a connection of its own, in whatever thread calls it; never waits.

    Args:
        url: of an SQLite ledger.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._writer: RawWriter | None = None
        self._lock = threading.Lock()
        self._pid = 0

    def open(self) -> None:
        """Be ready; until then and after `close` nothing is written."""
        with self._lock:
            self._close()
            self._writer = RawWriter(make_sqlite_writer_at_once(self._url))
            self._pid = os.getpid()

    def write(self, batch: Batch) -> bool:
        """Write it in one transaction, if nobody else writes; returns whether it is written.

        What is wrong with the database is not told: it is to be tried again by `RawWriter`.
        """
        if self._writer is None or not self._lock.acquire(blocking=False):
            return False
        try:
            # Closed a moment ago; or the process forked, and the connection is its parent's.
            if self._writer is None or self._pid != os.getpid():
                return False
            if len(batch.attempts) == 1 and not any(batch[1:]):
                self._writer.write_attempt(batch.attempts[0])
            else:
                self._writer.write(batch)
        except (sqlite3.Error, DBAPIError, OSError):
            return False
        else:
            return True
        finally:
            self._lock.release()

    @contextmanager
    def held_off(self) -> Iterator[None]:
        """Meanwhile nothing is written at once.

        SQLite begins its journal anew only when all of it has been moved into the database: if
        something were added each time that is done, it would grow for ever.
        """
        with self._lock:
            yield

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _write(cursor: sqlite3.Cursor, batch: Batch) -> None:
    for insert, kind, row_of in _INSERTS:
        insert.into(cursor, [row_of(record) for record in getattr(batch, kind)])
    completed = {s.entry.attempt_id for s in batch.entries if s.entry.attempt_id}
    withdrawn = (withdrawn.attempt_id for withdrawn in batch.withdrawn)
    _remove(cursor, attempts.c.attempt_id, [*completed, *withdrawn])
    _remove(cursor, pending.c.run_id, [audit.run_id for audit in batch.dropped])


def _remove(cursor: sqlite3.Cursor, key: Column[Any], values: Iterable[str]) -> None:
    text = f"DELETE FROM {key.table.name} WHERE {key.name} = ?"  # noqa: S608 - names of ours
    cursor.executemany(text, ((value,) for value in values))
