"""The tables of the ledger and of budgets, and how entries become rows of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from cascade.ledger.base import NO_TAGS, Write
from cascade.ledger.database import Money, Schema, UtcTime, Words, json_type, to_json
from cascade.state import LedgerEntry

metadata = sa.MetaData()


def _columns() -> list[sa.Column[Any]]:
    tokens = ("input", "output", "cached", "reasoning", "cache_write")
    amounts = ("saved", "baseline", "baseline_low", "baseline_high", "assumed")
    return [
        sa.Column("id", Words, primary_key=True),
        sa.Column("run_id", Words, nullable=False),
        sa.Column("node", Words, nullable=False),
        sa.Column("tier", Words),
        sa.Column("model", Words),
        *(sa.Column(f"{name}_tokens", sa.BigInteger) for name in tokens),
        sa.Column("latency_ms", sa.Double, nullable=False),
        sa.Column("cost_usd", Money),
        sa.Column("cost_basis", sa.Text, nullable=False),
        *(sa.Column(f"{name}_usd", Money) for name in amounts),
        sa.Column("basis", sa.Text, nullable=False),
        sa.Column("price", Words),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("note", Words, nullable=False),
        sa.Column("decision", json_type),
        sa.Column("loss", sa.Double),
        sa.Column("at", UtcTime, nullable=False),
        sa.Column("tags", json_type),
    ]


entries = sa.Table(
    "ledger_entries",
    metadata,
    *_columns(),
    sa.Index("ledger_entries_at", "at", "id"),
    sa.Index("ledger_entries_run", "run_id"),
    sa.Index("ledger_entries_node", "node", "at"),
)

# Calls under way, and those whose process died: few rows without an index, so that a call that
# begins changes one page.
begun = sa.Table("ledger_begun", metadata, *_columns(), sqlite_with_rowid=False)

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
    sa.Column("key", Words, nullable=False),
    sa.Column("usd", Money, nullable=False),
    sa.Column("until", UtcTime, nullable=False),
    sa.Column("lapsed_at", UtcTime),
    sa.Index("budget_reservations_key", "key", "until"),
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


def row_of(entry: LedgerEntry, tags: Mapping[str, str]) -> dict[str, Any]:
    """The values of an entry, by column."""
    row = dict(entry.__dict__)
    row["baseline_low_usd"], row["baseline_high_usd"] = row.pop("baseline_range") or (None, None)
    row["tags"] = dict(tags) or None
    return row


def insert_if_new(table: sa.Table, dialect: str) -> Any:
    """An insert that leaves a row alone that is there."""
    of: Any = postgresql if dialect == "postgresql" else sqlite
    return of.insert(table).on_conflict_do_nothing()


def write(connection: sa.Connection, writes: Sequence[Write]) -> None:
    """Make changes of the ledger, in their order; they may be made twice."""
    if connection.dialect.name == "postgresql":
        for kind, values in _in_order(writes):
            connection.execute(_POSTGRESQL[kind], values)
        return
    file: Any = connection.connection.driver_connection
    write_to_file(file, writes)


def write_to_file(file: sqlite3.Connection, writes: Sequence[Write]) -> None:
    """`write` for SQLite's own connections."""
    for kind, values in _in_order(writes):
        statement = _SQLITE[kind]
        file.executemany(statement.text, map(statement.parameters, values)).close()


def _in_order(writes: Sequence[Write]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Values of changes of one kind that follow one another; an entry completes its begun call."""
    for kind, group in groupby(writes, key=attrgetter("kind")):
        changes = list(group)
        if kind != "withdraw":
            yield kind, [row_of(each.entry, each.tags) for each in changes if each.entry]
        if kind != "begin":
            yield "withdraw", [{"gone": each.id} for each in changes]


def _statements(dialect: str) -> dict[str, Any]:
    return {
        "begin": insert_if_new(begun, dialect),
        "entry": insert_if_new(entries, dialect),
        "withdraw": sa.delete(begun).where(begun.c.id == sa.bindparam("gone")),
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
