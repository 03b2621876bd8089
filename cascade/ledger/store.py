"""The ledger's store in a database: SQLite by default, PostgreSQL for several machines.

    store = open_store("sqlite:///ledger.db")
    cascade = Cascade(small=..., large=..., ledger=store)

Changes wait in a bounded queue, which a thread of the store's own writes in batches. A call that is
about to be sent waits until it is written; in SQLite its own thread writes it, with what waits.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import override

from cascade.errors import CascadeError, ConfigurationError, LedgerError
from cascade.ledger.base import EVERYTHING, EXACT, NO_TAGS, LedgerStore, Selection
from cascade.ledger.database import Database, Money
from cascade.ledger.export import Tagged, open_export
from cascade.ledger.tables import COLUMNS, IS_BEGUN, LEDGER, Change, entries, entry_of, write
from cascade.state import Decision, LedgerEntry

# Where SQLAlchemy is missing, `cascade.ledger.database` has told so before.
import sqlalchemy as sa  # isort: skip

logger = logging.getLogger("cascade")

T = TypeVar("T")

QUEUE = 10_000
"""Changes that may wait to be written; when there is no room, `append` waits for a second."""

BATCH, MOST_AT_ONCE = 1_000, 128
"""Changes of one transaction, at most: of the thread, and of an event loop that begins a call."""

MOVED_EVERY, JOURNAL = 1_000, 4_000
"""Changes by event loops after which the thread moves SQLite's journal into the database beside
them, and after which, some 40 MB, it writes the next ones, so that all of it is moved once."""

LINGER_S = 0.05
"""Time that entries wait for others, unless a caller waits for them."""

PATIENCE_S, SLOW_S = 0.9, 5.0
"""Longest wait for a database that cannot be written, and for one transaction of a slow one."""

PAUSE_S = 0.1
"""Time between two tries to write."""

PROBE = sa.text("UPDATE ledger_version SET version_num = version_num")


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
        self._database = Database(url, LEDGER, read_only=read_only, own_thread=True)
        self._queue: deque[Change] = deque()
        self._writing: Sequence[Change] = ()  # by the thread, now
        self._busy_since: float | None = None  # the thread, so that callers must not write
        self._in_journal = 0  # changes that callers have written since the thread did
        self._room = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing, self._stopping = threading.Lock(), False
        self._problem: str | None = None

    @property
    def waiting(self) -> int:
        """Entries that were handed over and are not written yet."""
        return len(self._unwritten())

    # --- what is written

    @override
    def append(self, entries: Sequence[LedgerEntry], tags: Mapping[str, str] = NO_TAGS) -> None:
        self._put(*(Change("entry", entry.id, entry, tags) for entry in entries))

    @override
    async def begin(self, entry: LedgerEntry, tags: Mapping[str, str] = NO_TAGS) -> None:
        change = Change("begin", entry.id, entry, tags, Future())
        if self._write_now(change):
            return
        self._put(change)
        try:
            await self._done(change, "nothing was sent")
        except BaseException:
            with self._room:
                if change in self._queue:
                    self._queue.remove(change)
                elif self._thread is not None:  # it may have been written
                    self._put(Change("withdraw", entry.id))
            raise

    @override
    def withdraw(self, entry_id: str) -> None:
        self._put(Change("withdraw", entry_id))

    async def delete(
        self,
        selection: Selection | None = None,
        *,
        older_than: timedelta | None = None,
        everything: bool = False,
    ) -> int:
        """Number of entries deleted, with their begun calls; they are overwritten.

        Raises:
            ConfigurationError: it is not said what to delete, or in two ways.
        """
        given = selection not in (None, EVERYTHING), older_than is not None, everything
        if sum(given) != 1:
            raise ConfigurationError(
                "say what to delete: a selection, older_than=timedelta(…), or everything=True for "
                "the whole ledger."
            )
        if older_than is not None:
            selection = Selection(until=datetime.now(UTC) - older_than)
        chosen = sa.delete(entries).where(*_where(selection or EVERYTHING))

        def change(connection: sa.Connection) -> int:
            connection.execute(chosen.where(IS_BEGUN))
            return connection.execute(chosen).rowcount

        await self.flush()
        deleted = await self._call(partial(self._database.write, change))
        await self._database.scrub()
        return deleted

    # --- what is read

    @override
    async def of_run(self, run_id: str) -> list[LedgerEntry]:
        return await self.entries(Selection(run_id=run_id))

    async def entries(
        self, selection: Selection = EVERYTHING, *, limit: int | None = None
    ) -> list[LedgerEntry]:
        """Entries ordered by time, then id; the oldest `limit` of them. Calls that were begun and
        not completed are not among them, see `unfinished`."""
        found = _chosen(sa.select(entries), selection, ~IS_BEGUN).limit(limit)
        return await self._read(found, lambda row: entry_of(row)[0])

    async def pages(
        self, selection: Selection = EVERYTHING, *, size: int = 1_000
    ) -> AsyncGenerator[list[Tagged]]:
        """Entries with their tags, so many at a time: a million of them with flat memory."""
        place = sa.tuple_(entries.c.at, entries.c.id)
        found = _chosen(sa.select(entries), selection, ~IS_BEGUN).limit(size)
        page = await self._read(found, entry_of)
        while page:
            yield page
            last, _ = page[-1]
            reached = sa.literal(last.at, entries.c.at.type), sa.literal(last.id, entries.c.id.type)
            page = await self._read(found.where(place > sa.tuple_(*reached)), entry_of)

    async def rows(
        self,
        selection: Selection = EVERYTHING,
        columns: Sequence[str] = ("run_id", "node", "cost_usd"),
        *,
        limit: int | None = None,
    ) -> list[tuple[Any, ...]]:
        """Columns of entries as plain tuples, ordered by time: for reports over many entries.

        A column is a field of `LedgerEntry` (the range of a baseline is `baseline_low_usd` and
        `baseline_high_usd`), `tags`, a tag as `tags.user`, or a field of the decision as
        `decision.action`.

        Raises:
            ConfigurationError: there is no such column.
        """
        found = _chosen(sa.select(*map(_column, columns)), selection, ~IS_BEGUN)
        return await self._read(found.limit(limit), tuple)

    async def unfinished(
        self, selection: Selection = EVERYTHING, *, older_than: timedelta = timedelta()
    ) -> list[LedgerEntry]:
        """Calls that were begun and never completed: their process was killed or, where
        `older_than` is no longer than a call takes, is still at it."""
        old = entries.c.at <= datetime.now(UTC) - older_than
        found = _chosen(sa.select(entries), selection, IS_BEGUN, old)
        return await self._read(found, lambda row: entry_of(row)[0])

    @override
    async def spent(self, node: str, since: datetime) -> Decimal:
        # Added up here, as SQLite cannot add exactly, but equal costs at once.
        cost = sa.func.coalesce(entries.c.cost_usd, entries.c.assumed_usd, type_=Money)
        chosen = *_where(Selection(node=node, since=since)), ~IS_BEGUN
        statement = sa.select(cost, sa.func.count()).where(*chosen).group_by(cost)
        total = Decimal(0)
        for usd, times in await self._read(statement, tuple):
            total = EXACT.fma(usd or 0, times, total)
        return total

    async def export(self, path: str | Path, selection: Selection = EVERYTHING) -> int:
        """Number of entries written to a new file, `.jsonl` or `.csv`.

        Amounts are decimal text, times UTC, and what is unknown is null (empty in CSV). Notes of
        failed calls are left out: they may quote a server's address and words.

        Raises:
            ConfigurationError: the name has none of these endings.
        """
        n = 0
        with open_export(Path(path)) as add:
            async with aclosing(self.pages(selection)) as pages:
                async for page in pages:
                    await asyncio.to_thread(add, page)
                    n += len(page)
        return n

    @override
    async def ready(self) -> str | None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                probe = partial(self._database.write, lambda c: c.execute(PROBE).rowcount)
                await self._call(probe)
        except TimeoutError:
            return f"{self._database.place} has not answered for {PATIENCE_S} s."
        except LedgerError as error:
            return str(error)
        return None

    async def _read(self, statement: sa.Executable, made: Callable[[Any], T]) -> list[T]:
        await self.flush()
        read = partial(self._database.read, lambda c: [made(row) for row in c.execute(statement)])
        return await self._call(read)

    # --- the queue

    @override
    async def flush(self) -> None:
        if not self._database.read_only:
            mark = Change("mark", done=Future())
            self._put(mark)
            await self._done(mark, f"{self.waiting:,} changes wait for it")

    @override
    def close(self) -> None:
        with self._closing:
            thread = self._thread
            if thread is None or not thread.is_alive():
                return
            if self.waiting:  # else the database need not be within reach
                asyncio.run_coroutine_threadsafe(self.flush(), self._loop).result()
            with self._room:
                self._stopping = True
                self._wake(urgent=True)
            thread.join()
            with self._room:
                self._thread, self._stopping = None, False
                self._room.notify_all()
            atexit.unregister(self._at_exit)

    @override
    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

    def _put(self, *changes: Change) -> None:
        if self._database.read_only:
            raise LedgerError(f"{self._database.place} is open for reading only.")
        with self._room:
            self._run()
            for change in changes:
                if change.kind == "entry" and len(self._queue) >= QUEUE:
                    self._room.wait_for(lambda: len(self._queue) < QUEUE or self._problem, 1.0)
                    if len(self._queue) >= QUEUE:
                        raise self._unwritable(f"{QUEUE:,} changes wait for it")
                self._queue.append(change)
                self._wake(urgent=change.done is not None or len(self._queue) >= BATCH)

    def _write_now(self, change: Change) -> bool:
        """True if the thread that asks has written a call, with what waits: to hand it over takes
        five times as long. Not while the other thread writes, nor more than so much."""
        with self._room:
            self._run()
            changes = [*self._queue, change]
            if (
                self._busy_since is not None
                or self._problem is not None
                or len(changes) > MOST_AT_ONCE
                or self._in_journal >= JOURNAL
                or not self._database.write_now(partial(write, changes=changes))
            ):
                return False
            self._queue.clear()
            moved, self._in_journal = self._in_journal, self._in_journal + len(changes)
            if self._in_journal // MOVED_EVERY > moved // MOVED_EVERY:
                self._loop.call_soon_threadsafe(self._database.move_journal)
            self._room.notify_all()
        _tell(changes)
        return True

    async def _done(self, change: Change, else_: str) -> None:
        """Wait until it is written, or until it is plain that nothing can be written now."""
        assert change.done is not None, "that a caller waits for"
        waiting = asyncio.wrap_future(change.done)
        try:
            while not (await asyncio.wait([waiting], timeout=PATIENCE_S))[0]:
                began = self._busy_since
                hangs = began is not None and time.monotonic() - began > SLOW_S
                if self._problem is not None or hangs:
                    raise self._unwritable(else_)
        finally:
            waiting.cancel()  # without effect where it is done
        waiting.result()

    def _unwritable(self, else_: str) -> LedgerError:
        place, problem = self._database.place, (self._problem or "").rstrip(".")
        why = f": {problem.removeprefix(f'{place}: ')}" if problem else " now"
        return LedgerError(f"{place} cannot be written{why}; {else_}.")

    def _unwritten(self) -> list[Change]:
        with self._room:
            return [each for each in (*self._writing, *self._queue) if each.kind == "entry"]

    # --- the thread that empties the queue

    async def _call(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run something of the database's in the thread's event loop."""
        with self._room:
            self._run()
            future = asyncio.run_coroutine_threadsafe(ask(), self._loop)
        return await asyncio.wrap_future(future)

    def _run(self) -> None:
        # What comes while the thread ends would be lost with it: it is for the next one.
        self._room.wait_for(lambda: not self._stopping)
        if self._thread is None:
            self._signalled = 0
            self._loop, self._due = asyncio.new_event_loop(), asyncio.Event()
            self._thread = threading.Thread(target=self._live, name="cascade-ledger", daemon=True)
            self._thread.start()
            atexit.register(self._at_exit)
        elif not self._thread.is_alive():
            raise LedgerError(
                "this ledger was in use before the process forked: open a store of its own "
                "in each process, with open_store(…)."
            )

    def _at_exit(self) -> None:
        try:
            self.close()
        except LedgerError as error:
            logger.error("the ledger could not be closed at exit: %s", error)
            for each in self._unwritten():
                logger.error("the process ends before an entry was written: %s", _said(each))

    def _wake(self, *, urgent: bool) -> None:
        # Waking the other thread costs a system call: only where it may be asleep.
        level = 2 if urgent else 1
        if level > self._signalled:
            self._signalled = level
            delay_s = 0.0 if urgent else LINGER_S
            self._loop.call_soon_threadsafe(self._loop.call_later, delay_s, self._due.set)

    def _live(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        while self._queue or not self._stopping:
            await self._due.wait()
            with self._room:
                changes = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                self._writing, self._busy_since = changes, time.monotonic()
                if not self._queue:
                    self._signalled = 0
                    self._due.clear()
                self._room.notify_all()
            try:
                await self._write([each for each in changes if each.kind != "mark"])
            except LedgerError:  # it is closed, and no entry waits
                continue
            finally:
                self._writing, self._busy_since = (), None
            _tell(changes)
        await asyncio.sleep(0)  # what was asked a moment ago is a task after that
        reads = asyncio.all_tasks() - {asyncio.current_task()}
        if reads:
            await asyncio.wait(reads, timeout=30)
        await self._database.aclose()

    async def _write(self, changes: Sequence[Change]) -> None:
        """Write changes, as often as it takes; those that can never be kept are refused.

        Raises:
            LedgerError: they cannot be written, and the store is closed.
        """
        while changes:
            try:
                await self._database.write(partial(write, changes=changes))
            except CascadeError as error:
                if self._problem is None:
                    logger.warning("the ledger cannot be written, trying again: %s", error)
                self._problem = str(error)
                if self._stopping:
                    raise
                await asyncio.sleep(PAUSE_S)
            except Exception as error:  # noqa: BLE001 - the caller is told, or the log
                if len(changes) > 1:
                    for each in changes:
                        await self._write([each])
                    return
                told = f"the ledger's database refused an entry: {_said(changes[0])} ({error})"
                logger.error("%s", told)
                _tell(changes, LedgerError(told))
                return
            else:
                self._in_journal = 0  # the database's own connections move it
                if self._problem is not None:
                    logger.warning("the ledger is written again")
                    self._problem = None
                return


open_store = SqlLedger
"""Makes a store: `open_store("sqlite:///ledger.db")`."""


def _tell(changes: Sequence[Change], refused: LedgerError | None = None) -> None:
    """Tell the callers who wait that it is written, or was refused."""
    for done in (change.done for change in changes):
        if done is None or done.done() or not done.set_running_or_notify_cancel():
            continue
        if refused is None:
            done.set_result(None)
        else:
            done.set_exception(refused)


def _said(change: Change) -> str:
    """A change for the log, without free texts."""
    if change.entry is None:
        return f"{change.kind} {change.id}"
    said = change.entry.model_dump_json(exclude_defaults=True, exclude={"note", "decision"})
    return f"{said} with tags {dict(change.tags)}"


def _chosen(statement: Any, selection: Selection, *more: sa.ColumnElement[bool]) -> Any:
    """Rows of a selection in their order."""
    chosen = statement.where(*_where(selection), *more)
    return chosen.order_by(entries.c.at, entries.c.id)


def _where(selection: Selection) -> list[sa.ColumnElement[bool]]:
    columns, conditions = entries.c, list[sa.ColumnElement[bool]]()
    for name in ("run_id", "node", "tier"):
        if (value := getattr(selection, name)) is not None:
            conditions.append(columns[name] == value)
    if selection.since is not None:
        conditions.append(columns.at >= selection.since)
    if selection.until is not None:
        conditions.append(columns.at < selection.until)
    tags = (columns.tags[key].as_string() == value for key, value in selection.tags.items())
    return [*conditions, *tags]


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
    raise ConfigurationError(
        f"{name!r} is no column of a ledger: give one of {', '.join(COLUMNS)}, a tag as "
        f"tags.user, or {', '.join(f'decision.{part}' for part in Decision.model_fields)}."
    )
