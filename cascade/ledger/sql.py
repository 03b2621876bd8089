"""The ledger's tables, and what is written to and read from them."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from itertools import groupby
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Date,
    Double,
    Index,
    MetaData,
    Table,
    Text,
    bindparam,
    delete,
    false,
    func,
    literal,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from cascade.errors import ConfigurationError
from cascade.ledger.base import NO_TAGS, Amounts, Job, Selection, UnavailableError, Write
from cascade.ledger.database import (
    BUSY_S,
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

TIDY_EVERY = 1_000
"""Changes after which SQLite's journal is looked at."""

LONG_JOURNAL = 4_096 * 1_000
"""Bytes of SQLite's journal that are moved into the database: as many pages as SQLite waits for."""

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

ENTRY_COLUMNS = tuple(column.name for column in entries.columns)


def _statements(dialect: Any) -> dict[str, Any]:
    key = (jobs.c.kind == bindparam("job_kind"), jobs.c.run_id == bindparam("job_run"))
    return {
        "begin": dialect.insert(begun).on_conflict_do_nothing(),
        "entry": dialect.insert(entries).on_conflict_do_nothing(),
        "withdraw": delete(begun).where(begun.c.id == bindparam("gone")),
        "put": dialect.insert(jobs).on_conflict_do_nothing(),
        "drop": delete(jobs).where(*key),
    }


def _row(write: Write) -> dict[str, Any]:
    """Values of a change, by column or parameter."""
    if write.kind in ("begin", "entry"):
        entry: LedgerEntry = write.what
        low, high = entry.baseline_range or (None, None)
        return {
            **entry.__dict__,
            "baseline_low_usd": low,
            "baseline_high_usd": high,
            "tags": write.tags,
        }
    if write.kind == "put":
        job: Job = write.what
        names = ("kind", "run_id", "payload", "at", "tags")
        return {name: getattr(job, name) for name in names}
    if write.kind == "drop":
        return {"job_kind": write.what[0], "job_run": write.what[1]}
    return {"gone": write.what}


_POSTGRESQL = _statements(postgresql)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row for SQLAlchemy: with JSON as such."""
    decision = row.get("decision")
    if decision is not None:
        row["decision"] = decision.model_dump(mode="json", exclude_none=True)
    if "tags" in row:
        row["tags"] = dict(row["tags"]) or None
    row.pop("baseline_range", None)
    return row


class _Raw:
    """A statement for SQLite without SQLAlchemy in between, which takes longer than SQLite itself.

    Its text and the forms of its values are SQLAlchemy's.
    """

    def __init__(self, statement: Any, table: Table, *names: str) -> None:
        compiled = statement.compile(dialect=_DIALECT, column_keys=names or None)
        order = compiled.positiontup
        self.text = str(compiled)
        self._values = itemgetter(*order, order[0])  # of one name it would give no tuple
        made = [_form(name, table.c[name].type if name in table.c else Words()) for name in order]
        self._forms = [(at, form) for at, form in enumerate(made) if form is not None]

    def values(self, write: Write) -> list[Any]:
        """The parameters of a change."""
        values = list(self._values(_row(write)))[:-1]
        for at, form in self._forms:
            if values[at] is not None:
                values[at] = form(values[at])
        return values


_DIALECT = sqlite.dialect()


def _form(name: str, kind: Any) -> Callable[[Any], Any] | None:
    """What makes a value of a column one of SQLite's; None where it is one."""
    if name == "decision":
        return lambda decision: decision.model_dump_json(exclude_none=True)
    if name == "tags":
        return lambda tags: to_json(dict(tags)) if tags else None
    own = getattr(kind, "process_bind_param", None)
    return None if own is None else lambda value: own(value, _DIALECT)


def _raw_statements() -> dict[str, _Raw]:
    core = _statements(sqlite)
    return {
        "begin": _Raw(core["begin"], begun, *ENTRY_COLUMNS),
        "entry": _Raw(core["entry"], entries, *ENTRY_COLUMNS),
        "withdraw": _Raw(core["withdraw"], begun),
        "put": _Raw(core["put"], jobs, "kind", "run_id", "payload", "at", "tags"),
        "drop": _Raw(core["drop"], jobs),
    }


_SQLITE = _raw_statements()


class LedgerSql:
    """A ledger's database: changes in batches, and what is asked of it.

    It belongs to the event loop of its store's thread, but for `write_now`.

    Args:
        database: of the schema `LEDGER`.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
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
        await self.database.open()
        path = self.database.path
        if self._raw is None and path is not None and not self.database.read_only:
            raw = sqlite3.connect(path, timeout=0, check_same_thread=False)
            set_up_sqlite(raw, durable=self.database.durable)
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
        await self.database.aclose()

    async def write(self, writes: Sequence[Write]) -> None:
        """Keep all of a batch, durably, or nothing of it. A batch may come twice.

        Raises:
            UnavailableError: it may succeed later.
            Exception: a value is refused.
        """
        ready: Prepared | None = None
        until = time.monotonic() + BUSY_S
        while True:
            if not self.database.present:
                await self.aclose()
            await self.open()
            if self._raw is None:
                await self.database.write(lambda connection: _write(connection, writes))
                return
            ready = ready or _prepared(writes)
            try:
                with self.database.told_apart(), self._lock:
                    _write_raw(self._raw, ready)
            except UnavailableError as error:
                if not is_locked(error.__cause__) or time.monotonic() > until:
                    raise
                await asyncio.sleep(random.uniform(0.001, 0.02))  # noqa: S311 - not a secret
            else:
                self._untidy += len(writes)
                if self.database.present:
                    return

    def write_now(self, writes: Sequence[Write]) -> bool:
        """Keep a small batch in the thread that calls, which waits neither for a lock nor a disk.

        What is wrong is not told: the batch is to come again by `write`.

        Returns:
            whether it is kept.
        """
        if self._raw is None or self.database.durable or not self.database.present:
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
            return self.database.present
        finally:
            self._lock.release()

    async def tidy(self) -> None:
        """Move SQLite's journal into the database once it is long.

        Meanwhile nothing is written: SQLite begins its journal anew only when all of it has been
        moved, so that otherwise it would grow for ever.
        """
        path = self.database.path
        if self._raw is None or path is None or not self.untidy:
            return
        self._untidy = 0
        with suppress(OSError, sqlite3.Error):
            if path.with_name(f"{path.name}-wal").stat().st_size > LONG_JOURNAL:
                with self._lock:
                    self._raw.execute("PRAGMA wal_checkpoint(PASSIVE)").close()

    async def probe(self) -> None:
        """Write something that changes nothing."""
        same = text("UPDATE ledger_version SET version_num = version_num")
        await self.database.write(lambda connection: connection.execute(same) and None)

    async def page(
        self, selection: Selection, after: tuple[datetime, str] | None, limit: int | None
    ) -> list[tuple[LedgerEntry, Mapping[str, str]]]:
        """The first entries after this one, with their tags, ordered by time, then id."""
        place = _after(after)
        statement = select(entries).where(*_where(entries, selection), *place)
        return await self._entries(statement.order_by(entries.c.at, entries.c.id).limit(limit))

    async def unfinished(self, selection: Selection) -> list[LedgerEntry]:
        """The begun calls that no entry completed."""
        statement = select(begun).where(*_where(begun, selection))
        found = await self._entries(statement.order_by(begun.c.at, begun.c.id))
        return [entry for entry, _ in found]

    async def rows(
        self, selection: Selection, columns: Sequence[str], limit: int | None
    ) -> list[tuple[Any, ...]]:
        """Columns of entries as tuples, ordered by time, then id."""
        chosen = [_column(name) for name in columns]
        statement = select(*chosen).where(*_where(entries, selection))
        statement = statement.order_by(entries.c.at, entries.c.id).limit(limit)

        def read(connection: Connection) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in connection.execute(statement)]

        return await self.database.read(read)

    async def spent(self, selection: Selection) -> Amounts:
        """Costs, added up here, as SQLite cannot add exactly, but equal ones at once."""
        columns = (entries.c.cost_usd, entries.c.cost_basis, entries.c.assumed_usd)
        statement = select(*columns, func.count()).where(*_where(entries, selection))

        def read(connection: Connection) -> Amounts:
            sum_of = Amounts()
            for cost, basis, assumed, times in connection.execute(statement.group_by(*columns)):
                sum_of = sum_of.plus_spend(cost, basis, assumed, times=times)
            return sum_of

        return await self.database.read(read)

    async def jobs(self, selection: Selection) -> list[Job]:
        """The jobs that are not done. They have no node and no tier: a selection of either means
        none of them."""
        statement = select(jobs).where(*_where(jobs, selection)).order_by(jobs.c.at, jobs.c.run_id)
        return await self.database.read(lambda connection: _jobs(connection, statement))

    async def claim(
        self, kind: str, by: str, at: datetime, put_until: datetime, lapsed: datetime
    ) -> list[Job]:
        """Mark jobs, and return those that were marked: no other process gets them meanwhile.

        Args:
            kind: of these.
            by: who takes them.
            at: now.
            put_until: that were put at this time or before.
            lapsed: that nobody has claimed after this time.
        """
        free = or_(jobs.c.claimed_at.is_(None), jobs.c.claimed_at <= lapsed)
        old = (jobs.c.kind == kind, jobs.c.at <= put_until, free)
        # Of several who claim in PostgreSQL at once, none waits for what another is about to get.
        chosen = select(jobs.c.run_id).where(*old).with_for_update(skip_locked=True)
        mine = (jobs.c.kind == kind, jobs.c.claimed_by == by, jobs.c.claimed_at == at)

        def change(connection: Connection) -> list[Job]:
            mark = update(jobs).where(jobs.c.kind == kind, jobs.c.run_id.in_(chosen))
            connection.execute(mark.values(claimed_by=by, claimed_at=at))
            return _jobs(connection, select(jobs).where(*mine).order_by(jobs.c.at, jobs.c.run_id))

        return await self.database.write(change)

    async def delete(self, selection: Selection) -> int:
        """Delete what is meant in one transaction; returns how many entries."""

        def change(connection: Connection) -> int:
            counts = [
                connection.execute(delete(table).where(*_where(table, selection))).rowcount
                for table in (jobs, begun, entries)
            ]
            return counts[-1]

        deleted = await self.database.write(change)
        if self._raw is not None:  # what was deleted is still in the journal
            with suppress(sqlite3.Error), self._lock:
                self._raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
        return deleted

    async def _entries(self, statement: Any) -> list[tuple[LedgerEntry, Mapping[str, str]]]:
        def read(connection: Connection) -> list[tuple[LedgerEntry, Mapping[str, str]]]:
            return [_entry(row) for row in connection.execute(statement)]

        return await self.database.read(read)


def _write(connection: Connection, writes: Sequence[Write]) -> None:
    for kind, group in _in_order(writes):
        connection.execute(_POSTGRESQL[kind], [_plain(_row(write)) for write in group])


Prepared = list[tuple[str, list[list[Any]]]]
"""Statements for SQLite, each with the parameters of its executions."""


def _prepared(writes: Sequence[Write]) -> Prepared:
    return [
        (_SQLITE[kind].text, [_SQLITE[kind].values(write) for write in group])
        for kind, group in _in_order(writes)
    ]


def _in_order(writes: Sequence[Write]) -> Iterator[tuple[str, list[Write]]]:
    """Changes of one kind that follow one another; an entry completes its begun call."""
    for kind, group in groupby(writes, key=attrgetter("kind")):
        found = list(group)
        yield kind, found
        if kind == "entry":
            completed = [Write("withdraw", write.what.id) for write in found]
            yield "withdraw", completed


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


def _after(place: tuple[datetime, str] | None) -> tuple[ColumnElement[bool], ...]:
    if place is None:
        return ()
    at, key = entries.c.at, entries.c.id
    return (tuple_(at, key) > tuple_(literal(place[0], at.type), literal(place[1], key.type)),)


def _where(table: Table, selection: Selection) -> Iterator[ColumnElement[bool]]:
    for name in ("run_id", "node", "tier"):
        value = getattr(selection, name)
        if value is not None:
            yield table.c[name] == value if name in table.c else false()
    if selection.since is not None:
        yield table.c.at >= selection.since
    if selection.until is not None:
        yield table.c.at < selection.until
    for key, value in selection.tags.items():
        yield table.c.tags[key].as_string() == value


def _entry(row: Any) -> tuple[LedgerEntry, Mapping[str, str]]:
    fields = dict(zip(ENTRY_COLUMNS, row, strict=True))
    tags = fields.pop("tags") or NO_TAGS
    low, high = fields.pop("baseline_low_usd"), fields.pop("baseline_high_usd")
    if low is not None:
        fields["baseline_range"] = (low, high)
    return LedgerEntry.model_validate(fields), tags


def _jobs(connection: Connection, statement: Any) -> list[Job]:
    names = ("kind", "run_id", "payload", "at")
    return [
        Job(**{name: row[name] for name in names}, tags=row["tags"] or NO_TAGS)
        for row in connection.execute(statement).mappings()
    ]


@lru_cache(maxsize=256)
def _column(name: str) -> ColumnElement[Any]:
    """The column that `SqlLedger.rows` calls so.

    Raises:
        ConfigurationError: there is none.
    """
    of, _, part = name.partition(".")
    if not part and of in entries.c:
        return entries.c[of]
    if part and of == "tags":
        return entries.c.tags[part].as_string()
    if of == "decision" and part in Decision.model_fields:
        found = entries.c.decision[part]
        if part == "signals":
            return found.as_json()
        if part in ("confidence", "threshold", "audit_rate"):
            return found.as_float()
        return found.as_boolean() if part in ("calibrated", "once") else found.as_string()
    raise ConfigurationError(
        f"{name!r} is no column of a ledger: give one of {', '.join(ENTRY_COLUMNS)}, a tag as "
        f"tags.user, or {', '.join(f'decision.{part}' for part in Decision.model_fields)}."
    )
