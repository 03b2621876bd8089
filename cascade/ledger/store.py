"""The ledger's store in a database: SQLite by default, PostgreSQL for several machines.

    store = open_store("sqlite:///ledger.db")
    cascade = Cascade(small=..., large=..., ledger=store)

Entries wait in a bounded queue and are written in batches by a thread of the store's own. In
SQLite a call that is about to be sent is written by its own event loop, together with what waits:
to hand one line to another thread, and to wait for its word, takes five times as long.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary

from typing_extensions import override

from cascade.errors import CascadeError, ConfigurationError, LedgerError
from cascade.ledger.base import (
    EVERYTHING,
    LEASE,
    NO_TAGS,
    Amounts,
    Job,
    LedgerStore,
    Selection,
    Total,
    UnavailableError,
    Write,
)
from cascade.ledger.database import CONNECT_S, Database
from cascade.ledger.export import flat_row, open_export
from cascade.ledger.sql import COLUMNS, JOB, LEDGER, Writer, begun, entries, entry_of, job_of, jobs
from cascade.state import Decision, LedgerEntry

# Where SQLAlchemy is missing, `cascade.ledger.database` has told so before.
import sqlalchemy as sa  # isort: skip

__all__ = ["Selection", "SqlLedger", "UnavailableError", "open_store"]

logger = logging.getLogger("cascade")

T = TypeVar("T")

Tagged = tuple[LedgerEntry, Mapping[str, str]]
"""An entry with its tags."""

QUEUE = 10_000
"""Changes that may wait to be written; when there is no room, `append` waits for a second."""

BATCH, MOST_AT_ONCE = 1_000, 128
"""Changes of one transaction at most: of the thread, and of an event loop."""

LINGER_S = 0.05
"""Time that changes wait for others, unless somebody waits for them."""

PATIENCE_S, SLOW_S = 0.9, 5.0
"""Longest wait for a write of a ledger that has failed, and of one that is merely slow; then its
caller is told that it cannot be made."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.25
"""Between two tries to write; each pause is twice the one before."""

PROBE = sa.text("UPDATE ledger_version SET version_num = version_num")


@dataclass(slots=True, eq=False)
class _Item:
    """A place in the queue: a change, or a mark without one; and what a caller waits for, in an
    event loop or a thread."""

    write: Write | None
    done: asyncio.Future[None] | Future[None] | None = None


class SqlLedger(LedgerStore):
    """Store of ledger entries in SQLite or PostgreSQL, for `Cascade(ledger=…)`; also `open_store`.

    It connects with its first entry. What is read has in it all that was appended before. Where the
    database is away, entries wait and are written when it is back; `begin`, `flush` and whatever
    reads raise `LedgerError` within a second. The queue is flushed by `close`, `aclose`, and at
    exit.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db`, `postgresql://…`, or `memory://`
            for one that is gone with its process. A file is made with mode 0600.
        read_only: change nothing, and make no file; whatever would write raises `LedgerError`.
        crash_safe: write down each call before it is sent, so that a killed process leaves a list
            of the calls whose outcome is unknown.
        durable: survive a loss of power: each commit waits for the disk.
        jobs: keep background jobs, such as audits that are drawn and not done, so that a restart
            loses none. They hold prompts and answers.
        redact: takes out of notes what must not be stored; a job that it would change is not kept.

    Raises:
        ConfigurationError: the address has none of these forms.
        MissingDependencyError: the database's driver is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        read_only: bool = False,
        crash_safe: bool = True,
        durable: bool = False,
        jobs: bool = False,
        redact: Callable[[str], str] | None = None,
    ) -> None:
        self._database = Database(url, LEDGER, durable=durable, read_only=read_only, may_block=True)
        self._writer = Writer(self._database)
        self._crash_safe, self._keeps_jobs, self._redact = crash_safe, jobs, redact
        self._items: deque[_Item] = deque()
        self._writing: Sequence[_Item] = ()
        self._room = threading.Condition()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._closing, self._stopping = threading.Lock(), False
        self._problem: str | None = None
        self._refused: deque[str] = deque(maxlen=100)
        self._groups: WeakKeyDictionary[asyncio.AbstractEventLoop, list[_Item]] = (
            WeakKeyDictionary()
        )

    @property
    def waiting(self) -> int:
        """Entries and jobs that were handed over and are not written yet."""
        with self._room:
            writes = _writes((*self._writing, *self._items))
        return sum(write.kind not in ("begin", "withdraw") for write in writes)

    # --- what is written

    @override
    def append(self, entries: Sequence[LedgerEntry], tags: Mapping[str, str] = NO_TAGS) -> None:
        if self._redact is not None:  # a note may repeat what a provider quoted
            entries = [e.model_copy(update={"note": self._safe(e.note)}) for e in entries]
        self._put([_Item(Write("entry", entry, tags)) for entry in entries])

    @override
    async def begin(self, entry: LedgerEntry, tags: Mapping[str, str] = NO_TAGS) -> None:
        if not self._crash_safe:
            return
        loop = asyncio.get_running_loop()
        with self._room:
            self._run()
        if not self._opened.done():  # to connect for the first time may take longer than to write
            await asyncio.wait([asyncio.wrap_future(self._opened)], timeout=CONNECT_S)
        done = loop.create_future()
        item = _Item(Write("begin", entry, tags), done)
        group = self._groups.get(loop)
        if group is None:  # what begins in one round of an event loop is written together
            group = self._groups[loop] = []
            loop.call_soon(self._write_group, loop)
        group.append(item)
        # Where it is known that nothing can be written, one more try is enough.
        patience_s = PATIENCE_S if self._problem is None else 2 * LONGEST_PAUSE_S
        until = loop.time() + SLOW_S
        try:
            while not done.done():
                await asyncio.wait([done], timeout=patience_s)
                patience_s = LONGEST_PAUSE_S
                if not done.done() and (self._problem is not None or loop.time() > until):
                    raise self._unwritable("nothing was sent")
        finally:
            if done.cancel():  # nothing waits for it any more: the call is not made
                self._take_back(item, entry.id)
        done.result()

    @override
    def withdraw(self, entry_id: str) -> None:
        if self._crash_safe:
            self._put([_Item(Write("withdraw", entry_id))])

    @override
    def put_job(self, job: Job) -> None:
        # One that redaction changes would measure something else.
        if self._keeps_jobs and self._safe(job.payload) == job.payload:
            self._put([_Item(Write("put", job))])

    @override
    def drop_job(self, kind: str, run_id: str) -> None:
        if self._keeps_jobs:
            self._put([_Item(Write("drop", (kind, run_id)))])

    @override
    async def claim_jobs(
        self, kind: str, older_than: timedelta = timedelta(), *, lease: timedelta = LEASE
    ) -> list[Job]:
        if not self._keeps_jobs:
            return []
        now, table = datetime.now(UTC), jobs.c
        free = sa.or_(table.claimed_at.is_(None), table.claimed_at <= now - lease)
        old = (table.kind == kind, table.at <= now - older_than, free)
        # Of several who claim in PostgreSQL at once, none waits for what another is about to get.
        chosen = sa.select(table.run_id).where(*old).with_for_update(skip_locked=True)
        mark = sa.update(jobs).where(table.kind == kind, table.run_id.in_(chosen))
        taken = mark.values(claimed_at=now).returning(*(table[name] for name in JOB))

        def claim(connection: sa.Connection) -> list[Job]:
            found = [job_of(row) for row in connection.execute(taken)]
            return sorted(found, key=lambda job: (job.at, job.run_id))

        await self.flush()
        return await self._call(self._database.write(claim))

    async def delete(
        self,
        selection: Selection | None = None,
        *,
        older_than: timedelta | None = None,
        everything: bool = False,
    ) -> int:
        """Number of entries deleted, with their begun calls and jobs; they are overwritten.

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
            statements = [sa.delete(each).where(*_where(each, chosen)) for each in (jobs, begun)]
            for statement in statements:
                connection.execute(statement)
            return connection.execute(sa.delete(entries).where(*_where(entries, chosen))).rowcount

        await self.flush()
        deleted = await self._call(self._database.write(change))
        await self._call(self._writer.tidy(now=True))  # what was deleted is still in the journal
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
        after: list[sa.ColumnElement[bool]] = []
        while True:
            page = await self._entries(entries, selection, *after, limit=size)
            if page:
                yield page
            if len(page) < size:
                return
            at, key, last = entries.c.at, entries.c.id, page[-1][0]
            place = sa.tuple_(sa.literal(last.at, at.type), sa.literal(last.id, key.type))
            after = [sa.tuple_(at, key) > place]

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
        amounts = ("cost_usd", "cost_basis", "saved_usd", "basis", "baseline_usd")
        totals: dict[str, Total] = {}
        for group, cost, cost_basis, saved, basis, baseline in await self.rows(
            selection, [by, *amounts]
        ):
            total = totals.setdefault(group or "", Total())
            total.entries += 1
            total.cost_usd = total.cost_usd.plus(cost, cost_basis)
            total.saved_usd = total.saved_usd.plus(saved, basis)
            total.baseline_usd = total.baseline_usd.plus(baseline, basis)
        return totals

    @override
    async def spent(self, node: str, since: datetime) -> Amounts:
        # Added up here, as SQLite cannot add exactly, but equal costs at once.
        columns = (entries.c.cost_usd, entries.c.cost_basis, entries.c.assumed_usd)
        chosen = _where(entries, Selection(node=node, since=since))
        statement = sa.select(*columns, sa.func.count()).where(*chosen).group_by(*columns)
        sum_of = Amounts()
        for row in await self._read(lambda c: c.execute(statement).all()):
            sum_of = sum_of.plus_spend(*row)
        return sum_of

    async def export(
        self, path: str | Path, selection: Selection = EVERYTHING, *, notes: bool = False
    ) -> int:
        """Number of entries written to a new file, `.jsonl` or `.csv`.

        Amounts are decimal text, times UTC, and what is unknown is null (empty in CSV). With
        `notes` also those of failed calls, which may quote a server's address and words.

        Raises:
            ConfigurationError: the name has none of these endings.
        """
        n = 0
        with open_export(Path(path)) as add:

            def write(page: Sequence[Tagged]) -> None:
                for entry, tags in page:
                    add(flat_row(entry, tags, notes=notes))

            async with aclosing(self.pages(selection)) as pages:
                async for page in pages:
                    await asyncio.to_thread(write, page)
                    n += len(page)
        return n

    @override
    async def ready(self) -> str | None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._call(self._database.write(lambda c: c.execute(PROBE).rowcount))
        except TimeoutError:
            return f"{self._database.place} has not answered for {PATIENCE_S} s."
        except LedgerError as error:
            return str(error)
        return None

    async def _read(self, work: Callable[[sa.Connection], T]) -> T:
        await self.flush()
        return await self._call(self._database.read(work))

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
        if self._database.read_only:
            return
        mark = self._mark()
        while not mark.done():
            await asyncio.wait([asyncio.wrap_future(mark)], timeout=PATIENCE_S)
            self._give_up_on(mark)
        mark.result()

    @override
    def close(self) -> None:
        with self._closing:
            thread = self._thread
            if thread is None or self._pid != os.getpid():
                return
            if self.waiting or self._refused:  # else the database need not be within reach
                mark = self._mark()
                while not mark.done():
                    wait([mark], timeout=PATIENCE_S)
                    self._give_up_on(mark)
                mark.result()
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

    def _put(self, items: Sequence[_Item]) -> None:
        """Put changes in the queue, all of them or none."""
        if self._database.read_only:
            raise LedgerError(f"{self._database.place} is open for reading only.")
        urgent = any(item.done is not None for item in items)
        with self._room:
            self._run()
            if not urgent and len(self._items) >= QUEUE:
                self._room.wait_for(lambda: len(self._items) < QUEUE or self._problem, timeout=1.0)
                if len(self._items) >= QUEUE:
                    raise self._unwritable(f"{QUEUE:,} changes wait for it")
            self._items.extend(items)
            self._wake(urgent=urgent or len(self._items) >= BATCH)

    def _take_back(self, item: _Item, entry_id: str) -> None:
        """Forget a call whose caller waits no more: it is not sent."""
        with self._room:
            if item in self._items:
                self._items.remove(item)
            elif self._thread is not None:  # it may have been written
                self._items.append(_Item(Write("withdraw", entry_id)))
                self._wake(urgent=False)

    def _mark(self) -> Future[None]:
        """Done when everything that was handed over so far is written."""
        done: Future[None] = Future()
        self._put([_Item(None, done)])
        return done

    def _unwritable(self, and_so: str) -> LedgerError:
        why = f": {self._problem.rstrip('.')}" if self._problem else " now"
        return LedgerError(f"{self._database.place} cannot be written{why}; {and_so}.")

    def _give_up_on(self, mark: Future[None]) -> None:
        """Tell who flushes that the database is away."""
        hangs = bool(self._writing) and time.monotonic() - self._began > 2 * PATIENCE_S
        if self._problem is not None or hangs:
            _tell(mark, self._unwritable(f"{self.waiting:,} changes wait for it"))

    def _write_group(self, loop: asyncio.AbstractEventLoop) -> None:
        """Write down the calls that begin in this round of an event loop."""
        group = [item for item in self._groups.pop(loop) if item.done and not item.done.cancelled()]
        error = None
        try:
            if not group or not self._write_at_once(group):
                self._put(group)
                return
        except LedgerError as raised:
            error = raised
        for item in group:
            _tell(item.done, error)

    def _write_at_once(self, group: Sequence[_Item]) -> bool:
        """Whether calls were written in the thread that asks, with what waits. Not while the other
        thread writes, or more waits than an event loop should write."""
        with self._room:
            self._run()
            if self._problem is not None or self._writing or len(self._items) > MOST_AT_ONCE:
                return False
            waited = list(self._items)
            if not self._writer.write_now(_writes([*waited, *group])):
                return False
            self._items.clear()
            self._room.notify_all()
            if self._writer.untidy:
                self._wake(urgent=False)
        self._finish(waited)
        return True

    def _finish(self, items: Sequence[_Item]) -> None:
        """Tell who waits that it is written; who flushes, also what was refused."""
        for item in items:
            error = None
            if item.write is None and self._refused:
                error = LedgerError(f"the database refused entries: {'; '.join(self._refused)}")
                self._refused.clear()
            _settle(item.done, error)

    def _safe(self, words: str) -> str:
        """What redaction leaves of a text."""
        try:
            return self._redact(words) if self._redact is not None and words else words
        except Exception:
            logger.exception("redaction failed: a text is not stored")
            return "[redaction failed]"

    # --- the thread that empties the queue

    async def _call(self, asked: Coroutine[Any, Any, T]) -> T:
        """Run something of the database's in the thread's event loop."""
        try:
            with self._room:
                self._run()
                future = asyncio.run_coroutine_threadsafe(asked, self._loop)
        except LedgerError:
            asked.close()
            raise
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
            self._pid, self._signalled, self._opened = os.getpid(), 0, Future[None]()
            ready = threading.Event()
            self._thread = threading.Thread(
                target=lambda: asyncio.run(self._serve(ready)), name="cascade-ledger", daemon=True
            )
            self._thread.start()
            ready.wait()
            atexit.register(self._at_exit)

    def _at_exit(self) -> None:
        try:
            self.close()
        except LedgerError as error:
            logger.error("the ledger could not be closed at exit: %s", error)
            for write in _writes((*self._writing, *self._items)):
                if write.kind == "entry":
                    said = _said(write)
                    logger.error("the process ends before an entry was written: %s", said)

    def _wake(self, *, urgent: bool) -> None:
        # Waking the other thread costs a system call: only where it may be asleep.
        level = 2 if urgent else 1
        if level > self._signalled:
            self._signalled = level
            self._loop.call_soon_threadsafe(self._heard, urgent)

    def _heard(self, urgent: bool) -> None:
        if urgent:
            self._due.set()
        else:
            self._loop.call_later(LINGER_S, self._due.set)

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = asyncio.Event()
        ready.set()
        with suppress(Exception):  # the first write tells it
            await self._writer.open()
        self._opened.set_result(None)
        while self._items or not self._stopping:
            await self._due.wait()
            items = self._take()
            written = await self._write(items)
            self._writing = ()
            if written:
                self._finish(items)
            await self._writer.tidy()
        await asyncio.sleep(0)  # what was asked a moment ago is a task after that
        reads = asyncio.all_tasks() - {asyncio.current_task()}
        if reads:
            await asyncio.wait(reads, timeout=30)
        await self._writer.aclose()

    def _take(self) -> list[_Item]:
        with self._room:
            n = min(len(self._items), BATCH)
            self._writing = taken = [self._items.popleft() for _ in range(n)]
            self._began = time.monotonic()
            if not self._items:
                self._signalled = 0
                self._due.clear()
            self._room.notify_all()
            return taken

    async def _write(self, items: Sequence[_Item]) -> bool:
        """Write them, and try again for as long as it takes, or until the store is closed."""
        pause_s, writes = FIRST_PAUSE_S, _writes(items)
        while writes:
            try:
                await self._writer.write(writes)
            except CascadeError as error:
                if self._problem is None:
                    logger.warning("the ledger cannot be written, trying again: %s", error)
                self._problem = str(error)
                if self._stopping:  # no entry waits, see `close`
                    return False
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            except Exception as error:  # noqa: BLE001 - it is told to who waits, or flushes
                if len(items) == 1:
                    self._refuse(items[0], error)
                else:
                    for item in items:
                        await self._write([item])
                return True
            else:
                if self._problem is not None:
                    logger.warning("the ledger is written again")
                self._problem = None
                break
        return True

    def _refuse(self, item: _Item, error: Exception) -> None:
        """Name something that can never be written; the rest is written."""
        said = "nothing" if item.write is None else _said(item.write)
        logger.error("the ledger's database refused an entry: %s: %s", error, said)
        self._refused.append(f"{said} ({error})")
        _settle(item.done, LedgerError(f"the ledger cannot keep {said}: {error}"))


open_store = SqlLedger
"""Makes a store: `open_store("sqlite:///ledger.db")`."""


def _writes(items: Iterable[_Item]) -> list[Write]:
    return [item.write for item in items if item.write is not None]


def _said(write: Write) -> str:
    """A change for the log, without free texts."""
    if not isinstance(write.what, LedgerEntry):
        return f"{write.kind} {write.what!r}"
    entry = write.what.model_dump(mode="json", exclude_defaults=True, exclude={"note", "decision"})
    return json.dumps({**entry, "tags": dict(write.tags)})


def _settle(done: asyncio.Future[None] | Future[None] | None, error: LedgerError | None) -> None:
    """Tell who waits how it ended, from another thread."""
    if isinstance(done, asyncio.Future):
        with suppress(RuntimeError):  # its loop was closed, and nothing waits there any more
            done.get_loop().call_soon_threadsafe(_tell, done, error)
    else:
        _tell(done, error)


def _tell(done: asyncio.Future[None] | Future[None] | None, error: LedgerError | None) -> None:
    with suppress(asyncio.InvalidStateError, InvalidStateError):  # it was told, or gave up
        if done is not None and error is not None:
            done.set_exception(error)
        elif done is not None:
            done.set_result(None)


def _where(table: sa.Table, selection: Selection) -> Iterator[sa.ColumnElement[bool]]:
    for name in ("run_id", "node", "tier"):
        value = getattr(selection, name)
        if value is not None:  # jobs have no node and no tier
            yield table.c[name] == value if name in table.c else sa.false()
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
