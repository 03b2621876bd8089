"""The tables of the ledger and of budgets, and how changes are written to them."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from cascade.ledger.base import NO_TAGS, Job, Write
from cascade.ledger.database import (
    Database,
    Money,
    Schema,
    UtcTime,
    Words,
    json_type,
    patiently,
    set_up_sqlite,
    to_json,
)
from cascade.state import LedgerEntry

TIDY_EVERY, LONG_JOURNAL = 1_000, 4_096 * 1_000
"""Changes after which SQLite's journal is looked at, and bytes from which on it is moved into the
database: as many pages as SQLite waits for."""

metadata = sa.MetaData()


def _columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("id", Words, primary_key=True),
        sa.Column("run_id", Words, nullable=False),
        sa.Column("node", Words, nullable=False),
        sa.Column("tier", Words),
        sa.Column("model", Words),
        sa.Column("input_tokens", sa.BigInteger),
        sa.Column("output_tokens", sa.BigInteger),
        sa.Column("cached_tokens", sa.BigInteger),
        sa.Column("reasoning_tokens", sa.BigInteger),
        sa.Column("cache_write_tokens", sa.BigInteger),
        sa.Column("latency_ms", sa.Double, nullable=False),
        sa.Column("cost_usd", Money),
        sa.Column("cost_basis", sa.Text, nullable=False),
        sa.Column("saved_usd", Money),
        sa.Column("basis", sa.Text, nullable=False),
        sa.Column("baseline_usd", Money),
        sa.Column("baseline_low_usd", Money),
        sa.Column("baseline_high_usd", Money),
        sa.Column("assumed_usd", Money),
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

jobs = sa.Table(
    "ledger_jobs",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("run_id", Words, primary_key=True),
    sa.Column("payload", Words, nullable=False),
    sa.Column("tags", json_type),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("claimed_at", UtcTime),
)

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
JOB = ("kind", "run_id", "payload", "tags", "at")


def entry_of(row: Any) -> tuple[LedgerEntry, Mapping[str, str]]:
    """The entry in a row of all columns, with its tags."""
    fields = dict(zip(COLUMNS, row, strict=True))
    tags = fields.pop("tags") or NO_TAGS
    low, high = fields.pop("baseline_low_usd"), fields.pop("baseline_high_usd")
    if low is not None:
        fields["baseline_range"] = (low, high)
    return LedgerEntry.model_validate(fields), tags


def job_of(row: Any) -> Job:
    """The job in a row of the columns `JOB`."""
    fields = dict(zip(JOB, row, strict=True))
    return Job(**{**fields, "tags": fields["tags"] or NO_TAGS})


def _values(write: Write) -> dict[str, Any]:
    """Values of a change, by column or parameter."""
    what = write.what
    if write.kind == "withdraw":
        return {"gone": what}
    if write.kind == "drop":
        return {"job_kind": what[0], "job_run": what[1]}
    if write.kind == "put":
        return {**{name: getattr(what, name) for name in JOB}, "tags": dict(what.tags) or None}
    low, high = what.baseline_range or (None, None)
    more = {"baseline_low_usd": low, "baseline_high_usd": high, "tags": dict(write.tags) or None}
    return {**what.__dict__, **more}


def _in_order(writes: Sequence[Write]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Values of changes of one kind that follow one another; an entry completes its begun call."""
    for kind, group in groupby(writes, key=attrgetter("kind")):
        found = [_values(write) for write in group]
        yield kind, found
        if kind == "entry":
            yield "withdraw", [{"gone": values["id"]} for values in found]


def insert_if_new(table: sa.Table, connection: sa.Connection) -> Any:
    """An insert that leaves a row alone that is there."""
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing()


def _statements(dialect: Any) -> dict[str, Any]:
    key = jobs.c.kind == sa.bindparam("job_kind"), jobs.c.run_id == sa.bindparam("job_run")
    return {
        "begin": dialect.insert(begun).on_conflict_do_nothing(),
        "entry": dialect.insert(entries).on_conflict_do_nothing(),
        "withdraw": sa.delete(begun).where(begun.c.id == sa.bindparam("gone")),
        "put": dialect.insert(jobs).on_conflict_do_nothing().values(dict.fromkeys(JOB)),
        "drop": sa.delete(jobs).where(*key),
    }


_CORE = _statements(postgresql)


def _write(connection: sa.Connection, writes: Sequence[Write]) -> None:
    for kind, values in _in_order(writes):
        for each in values:
            each.pop("baseline_range", None)
        connection.execute(_CORE[kind], values)


class _Raw:
    """A statement for SQLite without SQLAlchemy in between, which takes longer than SQLite itself.

    Its text and the forms of its values are SQLAlchemy's.
    """

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


_SQLITE = {kind: _Raw(statement) for kind, statement in _statements(sqlite).items()}

Prepared = list[tuple[str, list[list[Any]]]]
"""Statements for SQLite, each with the parameters of its executions."""


def _prepared(writes: Sequence[Write]) -> Prepared:
    return [
        (_SQLITE[kind].text, [_SQLITE[kind].parameters(each) for each in values])
        for kind, values in _in_order(writes)
    ]


class Writer:
    """Writes changes in batches; in SQLite also from threads that cannot wait.

    It belongs to the event loop of its store's thread, but for `write_now`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._raw: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._untidy = 0

    @property
    def untidy(self) -> bool:
        """Whether `tidy` may have something to do."""
        return self._untidy >= TIDY_EVERY

    async def open(self) -> None:
        """Connect, and make or migrate what is there."""
        await self._database.open()
        path = self._database.path
        if self._raw is None and path is not None and not self._database.read_only:
            raw = sqlite3.connect(path, timeout=0, check_same_thread=False)
            set_up_sqlite(raw, durable=self._database.durable)
            # What the journal has collected is moved by `tidy`, which waits for the disk.
            raw.execute("PRAGMA wal_autocheckpoint = 0").close()
            self._raw = raw

    async def aclose(self) -> None:
        """Close the connections."""
        with self._lock:
            raw, self._raw = self._raw, None
        if raw is not None:
            raw.close()
        await self._database.aclose()

    async def write(self, writes: Sequence[Write]) -> None:
        """Keep all of a batch, or nothing of it; it may come twice.

        Raises:
            UnavailableError: it may succeed later.
            Exception: a value is refused.
        """
        await self.open()
        if self._raw is None:
            await self._database.write(partial(_write, writes=writes))
            return
        ready = _prepared(writes)
        with self._database.told_apart():
            patiently(partial(self._execute, ready, wait=True))

    def write_now(self, writes: Sequence[Write]) -> bool:
        """Whether a small batch was kept by the thread that calls, which waits neither for a lock
        nor a disk. What is wrong is not told: the batch is to come again by `write`."""
        if self._raw is None or self._database.durable:
            return False
        try:
            return self._execute(_prepared(writes), wait=False)
        except Exception:  # noqa: BLE001 - `write` tells it
            return False

    def _execute(self, ready: Prepared, *, wait: bool) -> bool:
        if not self._lock.acquire(blocking=wait):
            return False
        try:
            connection = self._raw
            if connection is None:  # closed a moment ago
                return False
            if len(ready) == 1 and len(ready[0][1]) == 1:  # a transaction of its own
                connection.execute(ready[0][0], ready[0][1][0]).close()
                self._untidy += 1
                return True
            connection.execute("BEGIN IMMEDIATE").close()
            try:
                for statement, parameters in ready:
                    connection.executemany(statement, parameters).close()
                    self._untidy += len(parameters)
                connection.execute("COMMIT").close()
            except BaseException:
                if connection.in_transaction:  # a full disk ends it by itself
                    connection.execute("ROLLBACK").close()
                raise
            return True
        finally:
            self._lock.release()

    async def tidy(self, *, now: bool = False) -> None:
        """Move SQLite's journal into the database once it is long, or now.

        Most of it is moved while calls are written. The rest is moved while nothing is: SQLite
        begins its journal anew only when all of it has been moved, and else it grew for ever.
        """
        path = self._database.path
        if self._raw is None or path is None or not (now or self.untidy):
            return
        self._untidy = 0
        # At exit there are no other threads.
        with suppress(OSError, sqlite3.Error, RuntimeError):
            if now or path.with_name(f"{path.name}-wal").stat().st_size > LONG_JOURNAL:
                await asyncio.to_thread(self._move_journal, path)

    def _move_journal(self, path: Path) -> None:
        with closing(sqlite3.connect(path, timeout=0)) as file:
            file.execute("PRAGMA wal_checkpoint(PASSIVE)").close()
            with self._lock:
                file.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
