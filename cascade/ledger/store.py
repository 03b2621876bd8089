"""The ledger's store in a database: SQLite by default, PostgreSQL for several machines.

    store = open_store("sqlite:///ledger.db")
    cascade = Cascade(small=..., large=..., ledger=store)

Changes wait in a bounded queue, which is written in batches in the background. A call that is about
to be sent waits until it is written; in SQLite its own thread writes it, with what waits.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from typing_extensions import override

from cascade.errors import CascadeError, ConfigurationError, LedgerError
from cascade.ledger.base import EVERYTHING, EXACT, NO_TAGS, LedgerStore, Selection, total_of
from cascade.ledger.database import Database, Money, UtcTime, Words, background, json_type, to_json
from cascade.ledger.export import Tagged, write_entries
from cascade.state import Decision, LedgerEntry

# Where SQLAlchemy is missing, `cascade.ledger.database` has told so before.
import sqlalchemy as sa  # isort: skip
from sqlalchemy.dialects import postgresql, sqlite  # isort: skip

logger = logging.getLogger("cascade")

T = TypeVar("T")

QUEUE, BATCH = 10_000, 200
"""Entries that may wait to be written, and changes of one transaction."""

JOURNAL = 4_000
"""Changes by event loops, some 40 MB, after which SQLite's journal is moved."""

LINGER_S, PAUSE_S = 0.05, 0.1
"""Time that entries wait for others, unless a caller waits for them, and between two tries."""

PATIENCE_S, SLOW_S = 0.9, 5.0
"""Longest wait for a database that cannot be written, and for a slow one."""

# --- the table

_COLUMNS: dict[Any, str] = {
    Words: "id run_id node tier model price note",
    sa.Text: "cost_basis basis outcome",
    sa.BigInteger: "input_tokens output_tokens cached_tokens reasoning_tokens cache_write_tokens",
    Money: "cost_usd saved_usd baseline_usd baseline_low_usd baseline_high_usd assumed_usd",
    sa.Double: "latency_ms loss",
    UtcTime: "at",
    json_type: "decision tags",
}
entries = sa.Table(
    "ledger_entries",
    sa.MetaData(),
    *(
        sa.Column(name, kind, primary_key=name == "id", index=name == "run_id")
        for kind, names in _COLUMNS.items()
        for name in names.split()
    ),
    # A call waits until all indexes have its row; completed, it changes none of them.
    sa.Index("ledger_entries_at", "at", "id"),
)
COLUMNS = tuple(column.name for column in entries.columns)

IS_BEGUN = entries.c.outcome == sa.literal_column("'begun'")
"""A call under way, or one whose process died."""


class Change(NamedTuple):
    """An entry, or a call that begins, with its tags; or the id of a begun call that is gone; or
    neither; and the future of a caller who waits until all is written up to here."""

    entry: LedgerEntry | None = None
    tags: Mapping[str, str] = NO_TAGS
    gone: str | None = None
    done: Future[None] | None = None

    def __str__(self) -> str:
        # For the log, without free texts.
        if self.entry is None:
            return f"a withdrawal of {self.gone}"
        said = self.entry.model_dump_json(exclude_defaults=True, exclude={"note", "decision"})
        return f"{said} with tags {dict(self.tags)}"


def row_of(entry: LedgerEntry, tags: Mapping[str, str]) -> dict[str, Any]:
    """An entry with its tags by column."""
    row = {**entry.__dict__, "tags": dict(tags) or None}
    row["baseline_low_usd"], row["baseline_high_usd"] = row.pop("baseline_range") or (None, None)
    return row


def entry_of(row: Any) -> Tagged:
    """The entry in a row of all columns, with its tags."""
    fields = dict(zip(COLUMNS, row, strict=True))
    tags = fields.pop("tags") or NO_TAGS
    low, high = fields.pop("baseline_low_usd"), fields.pop("baseline_high_usd")
    fields["baseline_range"] = None if low is None else (low, high)
    return LedgerEntry.model_validate(fields), tags


_INSERT = postgresql.insert(entries)  # SQLite's dialect compiles it as well
_TOLD = {n: _INSERT.excluded[n] for n in COLUMNS if n not in ("id", "run_id", "node", "at")}
_KEEP = _INSERT.on_conflict_do_update(index_elements=["id"], set_=_TOLD, where=IS_BEGUN)
_FORGET = sa.delete(entries).where(entries.c.id == sa.bindparam("gone"), IS_BEGUN)


@lru_cache
def _for_sqlite(statement: Any) -> tuple[str, list[tuple[str, Any]]]:
    """A statement as text with the names of its values, and what gives each its form: to execute it
    by SQLAlchemy takes longer than SQLite itself."""
    dialect = sqlite.dialect(json_serializer=to_json)
    compiled = statement.compile(dialect=dialect)
    types = {name: bound.type.dialect_impl(dialect) for name, bound in compiled.binds.items()}
    return str(compiled), [(n, types[n].bind_processor(dialect)) for n in compiled.positiontup]


def write(connection: sa.Connection | sqlite3.Connection, changes: Sequence[Change]) -> None:
    """Make changes of the ledger; they may be made twice."""
    file: Any = connection
    if isinstance(connection, sa.Connection):
        file = connection.connection.driver_connection
    kept = [row_of(change.entry, change.tags) for change in changes if change.entry is not None]
    gone = [{"gone": change.gone} for change in changes if change.gone is not None]
    for statement, rows in ((_KEEP, kept), (_FORGET, gone)):
        if rows and isinstance(file, sqlite3.Connection):
            text, forms = _for_sqlite(statement)
            given = (
                [row[n] if form is None else form(row[n]) for n, form in forms] for row in rows
            )
            file.executemany(text, given)
        elif rows and isinstance(connection, sa.Connection):
            connection.execute(statement, rows)


# --- the store


class SqlLedger(LedgerStore):
    """Store of ledger entries in SQLite or PostgreSQL, for `Cascade(ledger=…)`; also `open_store`.

    What is read has in it all that was appended before. Where the database is away, entries wait
    and are written when it is back; `begin`, `flush` and whatever reads raise `LedgerError` within
    a second. The queue is flushed by `close`, `aclose`, and at exit.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db`, `postgresql://…`, or `memory://`
            for one that is gone with its process. A file is made with mode 0600.
        read_only: change nothing, and make no file; whatever would write raises `LedgerError`.

    Raises:
        ConfigurationError: the address has none of these forms.
        MissingDependencyError: the database's driver is not installed.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self._database = Database(url, "ledger", entries.metadata, read_only=read_only)
        self._queue: deque[Change] = deque()
        self._writing: Sequence[Change] = ()  # in the background, now: callers must not write
        self._problem: str | None = None
        self._in_journal = 0  # changes that callers have written since it was moved
        self._room, self._urgent = threading.Condition(), asyncio.Event()
        self._serving = False
        self._process: int | None = None  # that uses it

    @property
    def waiting(self) -> list[Change]:
        """Entries that were handed over and are not written yet."""
        with self._room:
            handed_over = [(each, each.entry) for each in (*self._writing, *self._queue)]
        return [each for each, entry in handed_over if entry and entry.outcome != "begun"]

    @override
    def append(self, entries: Sequence[LedgerEntry], tags: Mapping[str, str] = NO_TAGS) -> None:
        with self._room:
            patience_s = 0 if self._problem else PATIENCE_S
            if not self._room.wait_for(lambda: len(self._queue) < QUEUE, patience_s):
                raise self._unwritable()
            self._put(*(Change(entry, tags) for entry in entries))

    @override
    async def begin(self, entry: LedgerEntry, tags: Mapping[str, str] = NO_TAGS) -> None:
        change = Change(entry, tags, done=Future())
        if self._write_now(change):
            return
        try:
            await self._written(change)
        except BaseException:
            with self._room:
                if change in self._queue:
                    self._queue.remove(change)
                else:  # it may have been written
                    self.withdraw(entry.id)
            raise

    @override
    def withdraw(self, entry_id: str) -> None:
        self._put(Change(gone=entry_id))

    async def delete(
        self,
        selection: Selection = EVERYTHING,
        *,
        older_than: timedelta | None = None,
        everything: bool = False,
    ) -> int:
        """Number of entries deleted, with their begun calls; they are overwritten.

        Raises:
            ConfigurationError: it is not said what to delete, or in two ways.
        """
        if (selection != EVERYTHING) + (older_than is not None) + everything != 1:
            raise ConfigurationError(
                "say what to delete: a selection, older_than=timedelta(…), or everything=True for "
                "the whole ledger."
            )
        if older_than is not None:
            selection = Selection(until=datetime.now(UTC) - older_than)
        chosen = sa.delete(entries).where(*_where(selection))
        steps = chosen.where(IS_BEGUN), chosen
        await self.flush()
        _, deleted = await self._database.write(lambda c: [c.execute(s).rowcount for s in steps])
        await asyncio.to_thread(self._database.move_journal, wait=True)
        return deleted

    @override
    async def of_run(self, run_id: str) -> list[LedgerEntry]:
        return await self.entries(Selection(run_id=run_id))

    async def entries(self, selection: Selection = EVERYTHING) -> list[LedgerEntry]:
        """Entries ordered by time, then id; begun calls are not among them, see `unfinished`."""
        return await self._read(_chosen(selection), lambda row: entry_of(row)[0])

    async def rows(
        self,
        selection: Selection = EVERYTHING,
        columns: Sequence[str] = ("run_id", "node", "cost_usd"),
        *,
        limit: int | None = None,
    ) -> list[tuple[Any, ...]]:
        """Columns of entries, ordered by time: fields of `LedgerEntry` (for the range of a baseline
        `baseline_low_usd` and `baseline_high_usd`), `tags`, a tag as `tags.user`, or a field of
        the decision as `decision.action`.

        Raises:
            ConfigurationError: there is no such column.
        """
        found = _chosen(selection).with_only_columns(*map(_column, columns))
        return await self._read(found.limit(limit), tuple)

    async def unfinished(
        self, selection: Selection = EVERYTHING, *, older_than: timedelta = timedelta()
    ) -> list[LedgerEntry]:
        """Calls that were begun and never completed: their process was killed or, where
        `older_than` is no longer than a call takes, is still at it."""
        old = entries.c.at <= datetime.now(UTC) - older_than
        return await self._read(_chosen(selection, IS_BEGUN, old), lambda row: entry_of(row)[0])

    @override
    async def spent(self, node: str, since: datetime) -> Decimal:
        # Added up here, as SQLite cannot add exactly, but equal costs at once.
        nothing = sa.literal(Decimal(0), Money)
        cost = sa.func.coalesce(entries.c.cost_usd, entries.c.assumed_usd, nothing, type_=Money)
        chosen = *_where(Selection(node=node, since=since)), ~IS_BEGUN
        statement = sa.select(cost, sa.func.count()).where(*chosen).group_by(cost)
        return total_of(EXACT.multiply(*each) for each in await self._read(statement, tuple))

    async def export(self, path: str | Path, selection: Selection = EVERYTHING) -> int:
        """Number of entries written to a new file, `.jsonl` or `.csv`. Amounts are decimal text,
        times UTC, and what is unknown is null (empty in CSV).

        Raises:
            ConfigurationError: the name has none of these endings.
        """
        await self.flush()
        found = _chosen(selection).execution_options(yield_per=200)  # flat memory for millions
        write_all = partial(write_entries, Path(path))
        return await self._database.read(lambda c: write_all(map(entry_of, c.execute(found))))

    @override
    async def ready(self) -> str | None:
        probe = sa.text("UPDATE ledger_version SET version_num = version_num")
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._database.write(lambda connection: connection.execute(probe).rowcount)
        except TimeoutError:
            return f"{self._database.place} has not answered for {PATIENCE_S} s."
        except LedgerError as error:
            return str(error)
        return None

    async def _read(self, statement: sa.Executable, made: Callable[[Any], T]) -> list[T]:
        await self.flush()
        return await self._database.read(lambda c: [made(row) for row in c.execute(statement)])

    # --- the queue

    @override
    async def flush(self) -> None:
        if not self._database.read_only:
            await self._written(Change(done=Future()))

    @override
    def close(self) -> None:
        with self._room:
            if self._process not in (None, os.getpid()):
                return  # it belongs to the process before a fork
            if self._serving:
                self._wake(urgent=True)
            self._room.wait_for(lambda: not self._serving, PATIENCE_S if self._problem else SLOW_S)
            if self.waiting:
                raise self._unwritable()
            self._process = None
            atexit.unregister(self._at_exit)
        self._database.close()

    @override
    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

    def _at_exit(self) -> None:
        try:
            self.close()
        except LedgerError as error:
            logger.error("the ledger could not be closed at exit: %s", error)
            for each in self.waiting:
                logger.error("the process ends before an entry was written: %s", each)

    def _begin_use(self) -> None:
        if self._process is None:
            self._process = os.getpid()
            atexit.register(self._at_exit)
        elif self._process != os.getpid():
            raise LedgerError(
                "this ledger was in use before the process forked: open a store of its own "
                "in each process, with open_store(…)."
            )

    def _put(self, *changes: Change) -> None:
        if self._database.read_only:
            raise LedgerError(f"{self._database.place} is open for reading only.")
        with self._room:
            self._begin_use()
            self._queue.extend(changes)
            waited_for = any(each.done is not None for each in changes)
            self._wake(urgent=waited_for or len(self._queue) >= BATCH)

    def _write_now(self, change: Change) -> bool:
        """True if the thread that asks has written a call, with what waits: to hand it over takes
        five times as long. Not while the background writes, nor more than so much."""
        with self._room:
            self._begin_use()
            changes = [*self._queue, change]
            work = partial(write, changes=changes)
            busy = self._writing or self._problem or self._in_journal >= 2 * JOURNAL
            if busy or len(changes) > BATCH or not self._database.write_now(work):
                return False
            self._queue.clear()
            self._in_journal += len(changes)
            if self._in_journal >= JOURNAL:
                self._wake()
        _tell(changes)
        return True

    async def _written(self, change: Change) -> None:
        assert change.done is not None, "that a caller waits for"
        self._put(change)
        try:
            async with asyncio.timeout(PATIENCE_S if self._problem else SLOW_S):
                await asyncio.wrap_future(change.done)
        except TimeoutError:
            raise self._unwritable() from None

    def _unwritable(self) -> LedgerError:
        place, problem = self._database.place, self._problem or f"no answer for {SLOW_S} s"
        why, n = problem.removeprefix(f"{place}: ").rstrip("."), len(self.waiting)
        return LedgerError(
            f"{place} cannot be written: {why}; {n:,} entries wait, no call is sent."
        )

    # --- in the background

    def _wake(self, *, urgent: bool = False) -> None:
        if not self._serving:
            self._serving = True
            asyncio.run_coroutine_threadsafe(self._empty(), background.loop())
        if urgent and not self._urgent.is_set():
            background.loop().call_soon_threadsafe(self._urgent.set)

    async def _empty(self) -> None:
        """Write what is in the queue, until it is empty."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._urgent.wait(), LINGER_S)
        if self._in_journal >= JOURNAL:
            self._database.move_journal()
            self._in_journal = 0
        while changes := self._take():
            await self._write([each for each in changes if each.entry or each.gone])
            _tell(changes)

    def _take(self) -> Sequence[Change]:
        with self._room:
            self._writing = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            if not self._writing:
                self._serving = False
                self._urgent.clear()
            self._room.notify_all()
            return self._writing

    async def _write(self, changes: Sequence[Change]) -> None:
        """Write changes, as often as it takes; those that can never be kept are refused."""
        while changes:
            try:
                await self._database.write(partial(write, changes=changes))
            except CascadeError as error:
                if self._problem is None:
                    logger.warning("the ledger cannot be written, trying again: %s", error)
                self._problem = str(error)
                with self._room:
                    _tell([*changes, *self._queue], self._unwritable())
                changes = [each for each in changes if each.done is None]
                if self._process is None:  # it was closed, and no entry waits
                    return
                await asyncio.sleep(PAUSE_S)
            except Exception as error:  # noqa: BLE001 - the caller is told, or the log
                if len(changes) > 1:
                    for each in changes:
                        await self._write([each])
                    return
                told = f"the ledger's database refused an entry: {changes[0]} ({error})"
                logger.error("%s", told)
                _tell(changes, LedgerError(told))
                return
            else:
                if self._problem is not None:
                    logger.warning("the ledger is written again")
                    self._problem = None
                return


open_store = SqlLedger
"""Makes a store: `open_store("sqlite:///ledger.db")`."""


def _tell(changes: Sequence[Change], refused: LedgerError | None = None) -> None:
    """Tell the callers who wait that it is written, or was refused."""
    for done in (change.done for change in changes if change.done is not None):
        with suppress(InvalidStateError):  # it was told, or waits no more
            if refused is None:
                done.set_result(None)
            else:
                done.set_exception(refused)


def _chosen(selection: Selection, *more: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Rows of a selection in their order, without begun calls unless `more` says otherwise."""
    chosen = sa.select(entries).where(*_where(selection), *(more or (~IS_BEGUN,)))
    return chosen.order_by(entries.c.at, entries.c.id)


def _where(selection: Selection) -> list[sa.ColumnElement[bool]]:
    columns = entries.c
    equal = [(columns[name], getattr(selection, name)) for name in ("run_id", "node", "tier")]
    equal += [(columns.tags[key].as_string(), value) for key, value in selection.tags.items()]
    conditions = [column == value for column, value in equal if value is not None]
    if selection.since is not None:
        conditions.append(columns.at >= selection.since)
    if selection.until is not None:
        conditions.append(columns.at < selection.until)
    return conditions


@lru_cache(maxsize=256)
def _column(name: str) -> Any:
    """The column that `SqlLedger.rows` calls so."""
    of, _, part = name.partition(".")
    if not part and of in entries.c:
        return entries.c[of]
    if part and of == "tags":
        return entries.c.tags[part].as_string()
    if of == "decision" and part in Decision.model_fields:
        found = entries.c.decision[part]
        if part in ("confidence", "threshold", "audit_rate"):  # SQLite shortens others' digits
            return found.as_float()
        return found.as_boolean() if part in ("calibrated", "once") else found.as_json()
    known = [*COLUMNS, "tags.NAME", *(f"decision.{part}" for part in Decision.model_fields)]
    raise ConfigurationError(f"{name!r} is no column of a ledger: give one of {', '.join(known)}.")
