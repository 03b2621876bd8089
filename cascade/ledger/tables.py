"""The tables of the ledger and of budgets, and how changes of entries are written into them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from cascade.ledger.base import NO_TAGS
from cascade.ledger.database import Money, Schema, UtcTime, Words, json_type, to_json
from cascade.state import LedgerEntry

metadata = sa.MetaData()

_TOKENS = ("input", "output", "cached", "reasoning", "cache_write")
_AMOUNTS = ("saved", "baseline", "baseline_low", "baseline_high", "assumed")

entries = sa.Table(
    "ledger_entries",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("run_id", Words, nullable=False, index=True),
    sa.Column("node", Words, nullable=False),
    sa.Column("tier", Words),
    sa.Column("model", Words),
    *(sa.Column(f"{name}_tokens", sa.BigInteger) for name in _TOKENS),
    sa.Column("latency_ms", sa.Double, nullable=False),
    sa.Column("cost_usd", Money),
    sa.Column("cost_basis", sa.Text, nullable=False),
    *(sa.Column(f"{name}_usd", Money) for name in _AMOUNTS),
    sa.Column("basis", sa.Text, nullable=False),
    sa.Column("price", Words),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("note", Words, nullable=False),
    sa.Column("decision", json_type),
    sa.Column("loss", sa.Double),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("tags", json_type),
    # A call waits until all indexes have its row; completed, it changes none of them.
    sa.Index("ledger_entries_at", "at", "id"),
)

IS_BEGUN = entries.c.outcome == sa.literal_column("'begun'")
"""A call under way, or one whose process died."""

accounts = sa.Table(
    "budget_accounts",
    metadata,
    sa.Column("key", Words, primary_key=True),
    sa.Column("day", sa.Date, nullable=False),
    sa.Column("day_usd", Money, nullable=False),
    sa.Column("month_usd", Money, nullable=False),
    sa.Column("put_aside_usd", Money, nullable=False),
)

reservations = sa.Table(
    "budget_reservations",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("key", Words, nullable=False, index=True),
    sa.Column("usd", Money, nullable=False),
    sa.Column("until", UtcTime, nullable=False),
)

LEDGER = Schema("ledger", metadata, "1", Path(__file__).parent / "migrations")

COLUMNS = tuple(column.name for column in entries.columns)


def entry_of(row: Any) -> tuple[LedgerEntry, Mapping[str, str]]:
    """The entry in a row of all columns, with its tags."""
    fields = dict(zip(COLUMNS, row, strict=True))
    tags = fields.pop("tags") or NO_TAGS
    low, high = fields.pop("baseline_low_usd"), fields.pop("baseline_high_usd")
    if low is not None:
        fields["baseline_range"] = (low, high)
    return LedgerEntry.model_validate(fields), tags


class Change(NamedTuple):
    """A call that begins, an entry, a begun call to forget, or a mark in the queue of a store; and
    the future of a caller who waits until all is written up to here."""

    kind: Literal["begin", "entry", "withdraw", "mark"]
    id: str = ""
    entry: LedgerEntry | None = None
    tags: Mapping[str, str] = NO_TAGS
    done: Future[None] | None = None

    def row(self) -> dict[str, Any]:
        """Its values, by column."""
        if self.entry is None:
            return {"gone": self.id}
        row = dict(self.entry.__dict__)
        low, high = row.pop("baseline_range") or (None, None)
        return row | {
            "baseline_low_usd": low,
            "baseline_high_usd": high,
            "tags": dict(self.tags) or None,
        }


def write(connection: sa.Connection | sqlite3.Connection, changes: Sequence[Change]) -> None:
    """Make changes of the ledger; they may be made twice."""
    file: Any = connection
    if isinstance(connection, sa.Connection):
        file = connection.connection.driver_connection
    for kind in ("begin", "entry", "withdraw"):  # the order in which those of one call come
        rows = [change.row() for change in changes if change.kind == kind]
        if rows and isinstance(file, sqlite3.Connection):
            statement = _SQLITE[kind]
            file.executemany(statement.text, map(statement.parameters, rows)).close()
        elif rows and isinstance(connection, sa.Connection):
            connection.execute(_POSTGRESQL[kind], rows)


def insert_into(table: sa.Table, dialect: str) -> Any:
    """An insert that can be told what to do where the row is there."""
    of: Any = postgresql if dialect == "postgresql" else sqlite
    return of.insert(table)


def _statements(dialect: str) -> dict[str, Any]:
    insert = insert_into(entries, dialect)
    known = ("id", "run_id", "node", "at")
    told = {name: insert.excluded[name] for name in COLUMNS if name not in known}
    return {
        "begin": insert.on_conflict_do_nothing(),
        "entry": insert.on_conflict_do_update(index_elements=["id"], set_=told, where=IS_BEGUN),
        "withdraw": sa.delete(entries).where(entries.c.id == sa.bindparam("gone"), IS_BEGUN),
    }


class _Compiled:
    """A statement for SQLite as text, with the forms of its values. To execute it by SQLAlchemy
    takes longer than SQLite itself."""

    dialect = sqlite.dialect(json_serializer=to_json)

    def __init__(self, statement: Any) -> None:
        compiled = statement.compile(dialect=self.dialect)
        self.text, self._names = str(compiled), compiled.positiontup
        types = [compiled.binds[name].type.dialect_impl(self.dialect) for name in self._names]
        forms = [kind.bind_processor(self.dialect) for kind in types]
        self._forms = [(at, form) for at, form in enumerate(forms) if form is not None]

    def parameters(self, values: Mapping[str, Any]) -> list[Any]:
        """The parameters of one execution."""
        found = [values[name] for name in self._names]
        for at, form in self._forms:
            if found[at] is not None:
                found[at] = form(found[at])
        return found


_POSTGRESQL = _statements("postgresql")
_SQLITE = {kind: _Compiled(statement) for kind, statement in _statements("sqlite").items()}
