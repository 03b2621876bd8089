"""Batches written to SQLite without SQLAlchemy in between, which takes longer than SQLite itself.

The statements and the forms of values are SQLAlchemy's, made once for each table.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, cast

from sqlalchemy import Column, Engine, PoolProxiedConnection, Table
from sqlalchemy.dialects import sqlite

from cascade.ledger.store.base import Batch
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
        forms = [table.c[name].type.dialect_impl(DIALECT).bind_processor(DIALECT) for name in names]
        self._forms = [(at, form) for at, form in enumerate(forms) if form is not None]

    def into(self, cursor: sqlite3.Cursor, rows: Sequence[Row]) -> None:
        """Insert them."""
        if rows:
            cursor.executemany(self._text, map(self._formed, rows))

    def _formed(self, row: Row) -> list[Any]:
        values = list(self._values(row))
        for at, form in self._forms:
            if values[at] is not None:
                values[at] = form(values[at])
        return values


_INSERTS: Sequence[tuple[_Insert, str, Callable[[Any], Row]]] = (
    (_Insert(attempts), "attempts", attempt_row),
    (_Insert(entries), "entries", entry_row),
    (_Insert(texts), "texts", texts_row),
    (_Insert(pending, "run_id", "payload", "at", "tags"), "pending", pending_row),
)


class RawWriter:
    """Writes batches through one connection of its own, in the thread that calls it.

    Args:
        engine: of `make_sqlite_writer`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: PoolProxiedConnection | None = None

    def write(self, batch: Batch) -> None:
        """Write the batch in one transaction.

        Raises:
            sqlite3.Error: nothing of it is written.
        """
        if self._connection is None:
            self._connection = self._engine.raw_connection()
        connection = cast(sqlite3.Connection, self._connection.driver_connection)
        cursor = connection.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        try:
            _write(cursor, batch)
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        finally:
            cursor.close()

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


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
