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
import os
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from typing_extensions import override

from cascade.errors import CascadeError, ConfigurationError, LedgerError
from cascade.ledger.base import (
    EVERYTHING,
    EXACT,
    NO_TAGS,
    LedgerStore,
    Selection,
    Total,
    UnavailableError,
    Write,
)
from cascade.ledger.database import Database, Money
from cascade.ledger.export import Tagged, open_export
from cascade.ledger.tables import COLUMNS, LEDGER, begun, entries, entry_of, write, write_to_file
from cascade.state import Decision, LedgerEntry

# Where SQLAlchemy is missing, `cascade.ledger.database` has told so before.
import sqlalchemy as sa  # isort: skip

__all__ = ["Selection", "SqlLedger", "UnavailableError", "open_store"]

logger = logging.getLogger("cascade")

T = TypeVar("T")

QUEUE = 10_000
"""Changes that may wait to be written; when there is no room, `append` waits for a second."""

BATCH, MOST_AT_ONCE = 1_000, 128
"""Changes of one transaction, at most: of the thread, and of an event loop that begins a call."""

MOVED_EVERY, LONGEST_JOURNAL = 1_000, 8_000
"""Changes by event loops after which the thread moves SQLite's journal into the database beside
them, and the journal's pages from which calls wait for that: all of it has to be moved once."""

LINGER_S = 0.05
"""Time that entries wait for others, unless a caller waits for them."""

PATIENCE_S, SLOW_S = 0.9, 5.0
"""Longest wait for a database that cannot be written, and for one transaction of a slow one."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.25
"""Between two tries to write; each pause is twice the one before."""

PROBE = sa.text("UPDATE ledger_version SET version_num = version_num")


@dataclass(slots=True, eq=False)
class _Item:
    """A place in the queue: changes, and the future of a caller who waits for all up to here."""

    writes: Sequence[Write] = ()
    done: Future[None] | None = None


class SqlLedger(LedgerStore):
    """Store of ledger entries in SQLite or PostgreSQL, for `Cascade(ledger=…)`; also `open_store`.

    Each call is written down before it is sent, so that a killed process leaves a list of calls
    whose outcome is unknown. What is read has in it all that was appended before. Where the
    database is away, entries wait and are written when it is back; `begin`, `flush` and whatever
    reads raise `LedgerError` within a second. The queue is flushed by `close`, `aclose`, and at
    exit.

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
        self._items: deque[_Item] = deque()
        self._writing: Sequence[_Item] = ()  # by the thread, now
        self._busy_since: float | None = None  # the thread, so that callers must not write
        self._unmoved = 0  # changes since then that callers have written
        self._room = threading.Condition()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._closing, self._stopping = threading.Lock(), False
        self._problem: str | None = None
        self._refused: deque[str] = deque(maxlen=100)

    @property
    def waiting(self) -> int:
        """Entries that were handed over and are not written yet."""
        return len(self._unwritten())

    # --- what is written

    @override
    def append(self, entries: Sequence[LedgerEntry], tags: Mapping[str, str] = NO_TAGS) -> None:
        self._put(_Item([Write("entry", entry.id, entry, tags) for entry in entries]))

    @override
    async def begin(self, entry: LedgerEntry, tags: Mapping[str, str] = NO_TAGS) -> None:
        item = _Item([Write("begin", entry.id, entry, tags)], Future())
        if self._write_now(item):
            return
        self._put(item)
        try:
            await self._done(item, "nothing was sent")
        except BaseException:
            self._take_back(item, entry.id)
            raise

    @override
    def withdraw(self, entry_id: str) -> None:
        self._put(_Item([Write("withdraw", entry_id)]))

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
        chosen = selection or EVERYTHING

        def change(connection: sa.Connection) -> int:
            connection.execute(sa.delete(begun).where(*_where(begun, chosen)))
            return connection.execute(sa.delete(entries).where(*_where(entries, chosen))).rowcount

        await self.flush()
        deleted = await self._call(lambda: self._database.write(change))
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
        return [entry for entry, _ in await self._entries(entries, selection, limit=limit)]

    async def pages(
        self, selection: Selection = EVERYTHING, *, size: int = 1_000
    ) -> AsyncGenerator[list[Tagged]]:
        """Entries with their tags, so many at a time: a million of them with flat memory."""
        place = sa.tuple_(entries.c.at, entries.c.id)
        after: list[sa.ColumnElement[bool]] = []
        while page := await self._entries(entries, selection, *after, limit=size):
            yield page
            last = page[-1][0]
            reached = sa.literal(last.at, entries.c.at.type), sa.literal(last.id, entries.c.id.type)
            after = [place > sa.tuple_(*reached)]

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
        statement = sa.select(*map(_column, columns)).where(*_where(entries, selection))
        statement = statement.order_by(entries.c.at, entries.c.id).limit(limit)
        return await self._read(lambda c: [tuple(row) for row in c.execute(statement)])

    async def unfinished(
        self, selection: Selection = EVERYTHING, *, older_than: timedelta = timedelta()
    ) -> list[LedgerEntry]:
        """Calls that were begun and never completed: their process was killed, or is still at it.
        With `older_than` longer than any call takes, only the killed ones are left."""
        old = begun.c.at <= datetime.now(UTC) - older_than
        return [entry for entry, _ in await self._entries(begun, selection, old)]

    async def totals(
        self,
        selection: Selection = EVERYTHING,
        *,
        by: Literal["node", "tier", "model", "run_id"] = "node",
    ) -> dict[str, Total]:
        """Cost and saving of groups, to the last digit, in the order of their first entries; an
        entry without a tier or model is in the group `""`."""
        totals: dict[str, Total] = {}
        columns = (by, "cost_usd", "cost_basis", "saved_usd", "basis")
        for group, usd, usd_basis, saved_usd, basis in await self.rows(selection, columns):
            cost, saved = totals.get(group or "", Total())
            totals[group or ""] = Total(cost.plus(usd, usd_basis), saved.plus(saved_usd, basis))
        return totals

    @override
    async def spent(self, node: str, since: datetime) -> Decimal:
        # Added up here, as SQLite cannot add exactly, but equal costs at once.
        cost = sa.func.coalesce(entries.c.cost_usd, entries.c.assumed_usd, type_=Money)
        chosen = _where(entries, Selection(node=node, since=since))
        statement = sa.select(cost, sa.func.count()).where(*chosen).group_by(cost)
        total = Decimal(0)
        for usd, times in await self._read(lambda c: c.execute(statement).all()):
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

    async def _read(self, work: Callable[[sa.Connection], T]) -> T:
        await self.flush()
        return await self._call(lambda: self._database.read(work))

    async def _entries(
        self,
        table: sa.Table,
        selection: Selection,
        *more: sa.ColumnElement[bool],
        limit: int | None = None,
    ) -> list[Tagged]:
        statement = sa.select(table).where(*_where(table, selection), *more)
        statement = statement.order_by(table.c.at, table.c.id).limit(limit)
        return await self._read(lambda c: [entry_of(row) for row in c.execute(statement)])

    # --- the queue

    @override
    async def flush(self) -> None:
        if not self._database.read_only:
            mark = _Item(done=Future())
            self._put(mark)
            await self._done(mark, f"{self.waiting:,} changes wait for it")

    @override
    def close(self) -> None:
        with self._closing:
            thread = self._thread
            if thread is None or self._pid != os.getpid():
                return
            if self.waiting or self._refused:  # else the database need not be within reach
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

    def _put(self, item: _Item) -> None:
        if self._database.read_only:
            raise LedgerError(f"{self._database.place} is open for reading only.")
        urgent = item.done is not None
        with self._room:
            self._run()
            if not urgent and len(self._items) >= QUEUE:
                self._room.wait_for(lambda: len(self._items) < QUEUE or self._problem, timeout=1.0)
                if len(self._items) >= QUEUE:
                    raise self._unwritable(f"{QUEUE:,} changes wait for it")
            self._items.append(item)
            self._wake(urgent=urgent or len(self._items) >= BATCH)

    def _write_now(self, item: _Item) -> bool:
        """Whether the thread that asks has written a call, with what waits: to hand it over takes
        five times as long. Not while the other thread writes, nor more than so much."""
        with self._room:
            self._run()
            if self._busy_since is not None or self._problem is not None:
                return False
            items = [*self._items, item]
            writes = [each for one in items for each in one.writes]
            if len(writes) > MOST_AT_ONCE:
                return False
            if not self._database.write_now(partial(write_to_file, writes=writes)):
                return False
            self._items.clear()
            self._unmoved += len(writes)
            if self._unmoved >= MOVED_EVERY:
                self._unmoved = 0
                self._loop.call_soon_threadsafe(self._move_journal)
            self._room.notify_all()
        self._tell(items, {})
        return True

    async def _done(self, item: _Item, else_: str) -> None:
        """Wait until it is written, or until it is plain that nothing can be written now."""
        assert item.done is not None, "that a caller waits for"
        waiting = asyncio.wrap_future(item.done)
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

    def _take_back(self, item: _Item, entry_id: str) -> None:
        """Forget a call that is not sent, as its caller waits no more."""
        with self._room:
            if item in self._items:
                self._items.remove(item)
            elif self._thread is not None:  # it may have been written
                self._items.append(_Item([Write("withdraw", entry_id)]))
                self._wake(urgent=False)

    def _unwritten(self) -> list[Write]:
        with self._room:
            items = [*self._writing, *self._items]
        return [each for item in items for each in item.writes if each.kind == "entry"]

    # --- the thread that empties the queue

    async def _call(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run something of the database's in the thread's event loop."""
        with self._room:
            self._run()
            future = asyncio.run_coroutine_threadsafe(ask(), self._loop)
        return await asyncio.wrap_future(future)

    def _run(self) -> None:
        if self._thread is not None and self._pid != os.getpid():
            raise LedgerError(
                "this ledger was in use before the process forked: open a store of its own "
                "in each process, with open_store(…)."
            )
        # What comes while the thread ends would be lost with it: it is for the next one.
        self._room.wait_for(lambda: not self._stopping)
        if self._thread is None:
            self._pid, self._signalled = os.getpid(), 0
            self._loop, self._due = asyncio.new_event_loop(), asyncio.Event()
            self._thread = threading.Thread(target=self._live, name="cascade-ledger", daemon=True)
            self._thread.start()
            atexit.register(self._at_exit)

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
        while self._items or not self._stopping:
            await self._due.wait()
            items = self._take()
            try:
                refused = await self._write([each for item in items for each in item.writes])
            except LedgerError:  # it is closed, and no entry waits
                continue
            finally:
                self._writing, self._busy_since = (), None
            self._tell(items, refused)
        await asyncio.sleep(0)  # what was asked a moment ago is a task after that
        reads = asyncio.all_tasks() - {asyncio.current_task()}
        if reads:
            await asyncio.wait(reads, timeout=30)
        await self._database.aclose()

    def _take(self) -> Sequence[_Item]:
        with self._room:
            taken: list[_Item] = []
            n = 0
            while self._items and n < BATCH:
                taken.append(self._items.popleft())
                n += len(taken[-1].writes)
            self._writing, self._busy_since = taken, time.monotonic()
            if n:  # the thread moves the journal as well, where it writes
                self._unmoved = 0
            if not self._items:
                self._signalled = 0
                self._due.clear()
            self._room.notify_all()
            return taken

    def _move_journal(self) -> None:
        if self._database.move_journal() > LONGEST_JOURNAL and self._busy_since is None:
            with self._room:  # no caller is in the midst of writing
                self._busy_since = time.monotonic()
            try:
                self._database.move_journal()
            finally:  # else no caller would write any more
                self._busy_since = None

    async def _write(self, writes: Sequence[Write]) -> dict[str, str]:
        """Write changes, as often as it takes; of those that can never be kept, why, by id.

        Raises:
            LedgerError: they cannot be written, and the store is closed.
        """
        pause_s = FIRST_PAUSE_S
        while writes:
            try:
                await self._database.write(partial(write, writes=writes))
            except CascadeError as error:
                if self._problem is None:
                    logger.warning("the ledger cannot be written, trying again: %s", error)
                self._problem = str(error)
                if self._stopping:
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            except Exception as error:  # noqa: BLE001 - the caller is told, or who flushes
                if len(writes) > 1:
                    alone = [await self._write([each]) for each in writes]
                    return {key: why for refused in alone for key, why in refused.items()}
                said = f"{_said(writes[0])} ({error})"
                logger.error("the ledger's database refused an entry: %s", said)
                if writes[0].kind == "entry":
                    self._refused.append(said)
                return {writes[0].id: said}
            else:
                if self._problem is not None:
                    logger.warning("the ledger is written again")
                    self._problem = None
                break
        return {}

    def _tell(self, items: Sequence[_Item], refused: Mapping[str, str]) -> None:
        """Tell the callers that it is written; those who flush, also what was refused."""
        for item in items:
            if item.done is None or not item.done.set_running_or_notify_cancel():
                continue
            said = [refused[each.id] for each in item.writes if each.id in refused]
            if not item.writes:
                said = list(self._refused)
                self._refused.clear()
            if said:
                told = f"the ledger's database refused entries: {'; '.join(said)}"
                item.done.set_exception(LedgerError(told))
            else:
                item.done.set_result(None)


open_store = SqlLedger
"""Makes a store: `open_store("sqlite:///ledger.db")`."""


def _said(write: Write) -> str:
    """A change for the log, without free texts."""
    if write.entry is None:
        return f"{write.kind} {write.id}"
    said = write.entry.model_dump_json(exclude_defaults=True, exclude={"note", "decision"})
    return f"{said} with tags {dict(write.tags)}"


def _where(table: sa.Table, selection: Selection) -> Iterator[sa.ColumnElement[bool]]:
    for name in ("run_id", "node", "tier"):
        if (value := getattr(selection, name)) is not None:
            yield table.c[name] == value
    if selection.since is not None:
        yield table.c.at >= selection.since
    if selection.until is not None:
        yield table.c.at < selection.until
    for key, value in selection.tags.items():
        yield table.c.tags[key].as_string() == value


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
        if part == "signals":
            return found.as_json()
        if part in ("confidence", "threshold", "audit_rate"):
            return found.as_float()
        return found.as_boolean() if part in ("calibrated", "once") else found.as_string()
    raise ConfigurationError(
        f"{name!r} is no column of a ledger: give one of {', '.join(COLUMNS)}, a tag as "
        f"tags.user, or {', '.join(f'decision.{part}' for part in Decision.model_fields)}."
    )
