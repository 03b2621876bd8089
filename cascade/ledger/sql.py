"""The tables of the ledger and of budgets, and how changes are written to them."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import groupby
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Date,
    Double,
    Index,
    MetaData,
    Table,
    Text,
    bindparam,
    delete,
)
from sqlalchemy.dialects import postgresql, sqlite

from cascade.ledger.base import NO_TAGS, Job, UnavailableError, Write
from cascade.ledger.database import (
    Database,
    Money,
    Schema,
    UtcTime,
    Words,
    is_locked,
    json_type,
    set_up_sqlite,
    to_json,
)
from cascade.state import Decision, LedgerEntry

LOCKED_S = 5.0
"""Longest wait for SQLite while other processes write; who waits for a call hears of it sooner."""

TIDY_EVERY, LONG_JOURNAL = 1_000, 4_096 * 1_000
"""Changes after which SQLite's journal is looked at, and bytes from which on it is moved into the
database: as many pages as SQLite waits for."""

metadata = MetaData()


def _columns() -> list[Column[Any]]:
    return [
        Column("id", Words, primary_key=True),
        Column("run_id", Words, nullable=False),
        Column("node", Words, nullable=False),
        Column("tier", Words),
        Column("model", Words),
        Column("input_tokens", BigInteger),
        Column("output_tokens", BigInteger),
        Column("cached_tokens", BigInteger),
        Column("reasoning_tokens", BigInteger),
        Column("cache_write_tokens", BigInteger),
        Column("latency_ms", Double, nullable=False),
        Column("cost_usd", Money),
        Column("cost_basis", Text, nullable=False),
        Column("saved_usd", Money),
        Column("basis", Text, nullable=False),
        Column("baseline_usd", Money),
        Column("baseline_low_usd", Money),
        Column("baseline_high_usd", Money),
        Column("assumed_usd", Money),
        Column("price", Words),
        Column("outcome", Text, nullable=False),
        Column("note", Words, nullable=False),
        Column("decision", json_type),
        Column("loss", Double),
        Column("at", UtcTime, nullable=False),
        Column("tags", json_type),
    ]


entries = Table(
    "ledger_entries",
    metadata,
    *_columns(),
    Index("ledger_entries_at", "at", "id"),
    Index("ledger_entries_run", "run_id"),
    Index("ledger_entries_node", "node", "at"),
)

# Calls under way, and those whose process died: few rows without an index, so that a call that
# begins changes one page.
begun = Table("ledger_begun", metadata, *_columns(), sqlite_with_rowid=False)

jobs = Table(
    "ledger_jobs",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("run_id", Words, primary_key=True),
    Column("payload", Words, nullable=False),
    Column("tags", json_type),
    Column("at", UtcTime, nullable=False),
    Column("claimed_by", Text),
    Column("claimed_at", UtcTime),
)

accounts = Table(
    "budget_accounts",
    metadata,
    Column("key", Words, primary_key=True),
    Column("day", Date, nullable=False),
    Column("day_usd", Money, nullable=False),
    Column("month_usd", Money, nullable=False),
    Column("put_aside_usd", Money, nullable=False),
)

reservations = Table(
    "budget_reservations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key", Words, nullable=False),
    Column("usd", Money, nullable=False),
    Column("until", UtcTime, nullable=False),
    Column("lapsed_at", UtcTime),
    Index("budget_reservations_key", "key", "until"),
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


def _statements(dialect: Any) -> dict[str, Any]:
    def insert(table: Table) -> Any:
        return dialect.insert(table).on_conflict_do_nothing()

    key = (jobs.c.kind == bindparam("job_kind"), jobs.c.run_id == bindparam("job_run"))
    return {
        "begin": insert(begun),
        "entry": insert(entries),
        "withdraw": delete(begun).where(begun.c.id == bindparam("gone")),
        "put": insert(jobs),
        "drop": delete(jobs).where(*key),
    }


def _values(write: Write) -> dict[str, Any]:
    """Values of a change, by column or parameter."""
    if write.kind in ("begin", "entry"):
        entry: LedgerEntry = write.what
        low, high = entry.baseline_range or (None, None)
        more = {"baseline_low_usd": low, "baseline_high_usd": high, "tags": write.tags}
        return {**entry.__dict__, **more}
    if write.kind == "put":
        return {name: getattr(write.what, name) for name in JOB}
    if write.kind == "drop":
        return {"job_kind": write.what[0], "job_run": write.what[1]}
    return {"gone": write.what}


def _in_order(writes: Sequence[Write]) -> Iterator[tuple[str, list[Write]]]:
    """Changes of one kind that follow one another; an entry completes its begun call."""
    for kind, group in groupby(writes, key=attrgetter("kind")):
        found = list(group)
        yield kind, found
        if kind == "entry":
            yield "withdraw", [Write("withdraw", write.what.id) for write in found]


_CORE = _statements(postgresql)


def _write(connection: Connection, writes: Sequence[Write]) -> None:
    for kind, group in _in_order(writes):
        connection.execute(_CORE[kind], [_core_values(write) for write in group])


def _core_values(write: Write) -> dict[str, Any]:
    values = _values(write)
    values.pop("baseline_range", None)
    if values.get("decision") is not None:
        values["decision"] = values["decision"].model_dump(mode="json", exclude_none=True)
    if "tags" in values:
        values["tags"] = dict(values["tags"]) or None
    return values


class _Raw:
    """A statement for SQLite without SQLAlchemy in between, which takes longer than SQLite itself.

    Its text and the forms of its values are SQLAlchemy's.
    """

    def __init__(self, statement: Any, table: Table, *names: str) -> None:
        compiled = statement.compile(dialect=_DIALECT, column_keys=names or None)
        order = compiled.positiontup
        self.text = str(compiled)
        self._take = itemgetter(*order, order[0])  # of one name it would give no tuple
        made = [_form(name, table.c[name].type if name in table.c else Words()) for name in order]
        self._forms = [(at, form) for at, form in enumerate(made) if form is not None]

    def values(self, write: Write) -> list[Any]:
        """The parameters of a change."""
        values = list(self._take(_values(write)))[:-1]
        for at, form in self._forms:
            if values[at] is not None:
                values[at] = form(values[at])
        return values


_DIALECT = sqlite.dialect()


def _form(name: str, kind: Any) -> Callable[[Any], Any] | None:
    """What makes a value of a column one of SQLite's; None where it is one."""
    if name == "decision":
        return _decision_text
    if name == "tags":
        return lambda tags: to_json(dict(tags)) if tags else None
    own = getattr(kind, "process_bind_param", None)
    return None if own is None else lambda value: own(value, _DIALECT)


def _decision_text(decision: Decision) -> str:
    try:
        return decision.model_dump_json(exclude_none=True)
    except ValueError:  # half of a surrogate pair
        return to_json(decision.model_dump(mode="json", exclude_none=True))


def _raw_statements() -> dict[str, _Raw]:
    tables = {"begin": (begun, COLUMNS), "entry": (entries, COLUMNS), "put": (jobs, JOB)}
    found = {}
    for kind, statement in _statements(sqlite).items():
        table, names = tables.get(kind, (begun, ()))
        found[kind] = _Raw(statement, table, *names)
    return found


_SQLITE = _raw_statements()

Prepared = list[tuple[str, list[list[Any]]]]
"""Statements for SQLite, each with the parameters of its executions."""


def _prepared(writes: Sequence[Write]) -> Prepared:
    return [
        (_SQLITE[kind].text, [_SQLITE[kind].values(write) for write in group])
        for kind, group in _in_order(writes)
    ]


def _write_raw(connection: sqlite3.Connection, ready: Prepared) -> None:
    if len(ready) == 1 and len(ready[0][1]) == 1:  # a transaction of its own
        connection.execute(ready[0][0], ready[0][1][0]).close()
        return
    connection.execute("BEGIN IMMEDIATE").close()
    try:
        for statement, parameters in ready:
            connection.executemany(statement, parameters).close()
        connection.execute("COMMIT").close()
    except BaseException:
        if connection.in_transaction:  # a full disk ends it by itself
            connection.execute("ROLLBACK").close()
        raise


class BatchWriter:
    """Writes changes in batches; in SQLite also from threads that cannot wait.

    It belongs to the event loop of its store's thread, but for `write_now`.

    Args:
        database: of the schema `LEDGER`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._raw: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._pid = 0
        self._untidy = 0

    @property
    def untidy(self) -> bool:
        """Whether `tidy` may have something to do."""
        return self._untidy >= TIDY_EVERY

    async def open(self) -> None:
        """Connect, and make or migrate what is there."""
        if not self._database.present:
            await self.aclose()
        await self._database.open()
        path = self._database.path
        if self._raw is None and path is not None and not self._database.read_only:
            raw = sqlite3.connect(path, timeout=0, check_same_thread=False)
            set_up_sqlite(raw, durable=self._database.durable)
            # What the journal has collected is moved by `tidy`, which waits for the disk.
            raw.execute("PRAGMA wal_autocheckpoint = 0").close()
            with self._lock:
                self._raw, self._pid = raw, os.getpid()

    async def aclose(self) -> None:
        """Close the connections."""
        with self._lock:
            raw, self._raw = self._raw, None
        if raw is not None:
            raw.close()
        await self._database.aclose()

    async def write(self, writes: Sequence[Write]) -> None:
        """Keep all of a batch, durably, or nothing of it. A batch may come twice.

        Raises:
            UnavailableError: it may succeed later.
            Exception: a value is refused.
        """
        ready: Prepared | None = None
        until = time.monotonic() + LOCKED_S
        while True:
            await self.open()
            if self._raw is None:
                await self._database.write(lambda connection: _write(connection, writes))
                return
            ready = ready or _prepared(writes)
            try:
                with self._database.told_apart(), self._lock:
                    _write_raw(self._raw, ready)
            except UnavailableError as error:
                if not is_locked(error.__cause__) or time.monotonic() > until:
                    raise
                await asyncio.sleep(random.uniform(0.0005, 0.01))  # noqa: S311 - not a secret
            else:
                self._untidy += len(writes)
                if self._database.present:
                    return

    def write_now(self, writes: Sequence[Write]) -> bool:
        """Keep a small batch in the thread that calls, which waits neither for a lock nor a disk.

        What is wrong is not told: the batch is to come again by `write`.

        Returns:
            whether it is kept.
        """
        if self._raw is None or self._database.durable or not self._database.present:
            return False
        if not self._lock.acquire(blocking=False):
            return False
        try:
            # Closed a moment ago; or the process forked, and the connection is its parent's.
            if self._raw is None or self._pid != os.getpid():
                return False
            _write_raw(self._raw, _prepared(writes))
        except Exception:  # noqa: BLE001 - `write` tells it
            return False
        else:
            self._untidy += len(writes)
            return self._database.present
        finally:
            self._lock.release()

    async def tidy(self, *, now: bool = False) -> None:
        """Move SQLite's journal into the database once it is long, or now with all of it.

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
                await asyncio.to_thread(_move_journal, path)
                with self._lock:
                    how = "TRUNCATE" if now else "PASSIVE"
                    self._raw.execute(f"PRAGMA wal_checkpoint({how})").close()


def _move_journal(path: Path) -> None:
    with closing(sqlite3.connect(path, timeout=0)) as file:
        file.execute("PRAGMA wal_checkpoint(PASSIVE)").close()
