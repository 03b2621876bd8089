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
import csv
import json
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future, InvalidStateError
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from cascade.errors import CascadeError, ConfigurationError, LedgerError, MissingDependencyError
from cascade.ledger.base import (
    EVERYTHING,
    LEASE,
    NO_TAGS,
    Amounts,
    Grouping,
    Job,
    LedgerStore,
    Selection,
    Total,
    UnavailableError,
    Write,
    checked_tags,
)
from cascade.state import LedgerEntry, new_id

if TYPE_CHECKING:
    from cascade.ledger.sql import LedgerSql

__all__ = ["Selection", "SqlLedger", "UnavailableError", "open_store"]

logger = logging.getLogger("cascade")

T = TypeVar("T")

Tagged = tuple[LedgerEntry, Mapping[str, str]]
"""An entry with its tags."""

Done = asyncio.Future[None] | Future[None]
"""What a caller waits for, in an event loop or a thread."""

Redact = Callable[[str], str]
"""Takes out of a text what must not be stored."""

QUEUE = 10_000
"""Changes that may wait to be written; when there is no room, `append` waits for a second."""

BATCH = 1_000
"""Changes of one transaction at most."""

MOST_AT_ONCE = 128
"""Changes that an event loop writes itself; more are for the thread."""

LINGER_S = 0.05
"""Time that changes wait for others, unless somebody waits for them."""

PATIENCE_S = 0.9
"""Longest wait for a write; then its caller is told that it cannot be made."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.25
"""Between two tries to write; each pause is twice the one before."""

MOST_TOLD = 100
"""Entries that were refused last, of which a flush tells; all are logged."""


def open_store(
    url: str,
    *,
    read_only: bool = False,
    crash_safe: bool = True,
    durable: bool = False,
    jobs: bool = False,
    redact: Redact | None = None,
    tags: Mapping[str, str] = NO_TAGS,
) -> SqlLedger:
    """A store for `Cascade(ledger=…)`. It connects with its first entry, not here.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db`, `postgresql://…`, or `memory://`
            for one that is gone with its process. A file is made with mode 0600.
        read_only: read what is there, and change nothing: no file is made, and SQLite's may be in
            a folder that cannot be written. Whatever would write raises `LedgerError`.
        crash_safe: write down each call before it is sent, so that a killed process leaves a list
            of the calls whose outcome is unknown.
        durable: survive a loss of power: each commit waits for the disk (SQLite: `synchronous =
            FULL`, PostgreSQL: `synchronous_commit = on`).
        jobs: keep background jobs, such as audits that are drawn and not done, so that a restart
            loses none. They hold prompts and answers.
        redact: takes out of notes what must not be stored; a job that it would change is not kept.
        tags: of every entry of this store.

    Raises:
        ConfigurationError: the address has none of these forms, or a tag is no text.
        MissingDependencyError: the database's driver is not installed.
    """
    # They need SQLAlchemy, and take 0.2 s to load.
    from cascade.ledger.database import Database  # noqa: PLC0415
    from cascade.ledger.sql import LEDGER, LedgerSql  # noqa: PLC0415

    database = Database(url, LEDGER, durable=durable, read_only=read_only)
    return SqlLedger(
        LedgerSql(database), crash_safe=crash_safe, keeps_jobs=jobs, redact=redact, tags=tags
    )


@dataclass(slots=True)
class _Item:
    """A place in the queue.

    Attributes:
        write: what is to be written; None is nothing but a mark.
        done: what a caller waits for.
    """

    write: Write | None
    done: Done | None = None

    @property
    def given_up(self) -> bool:
        """Whether its caller waits no more: a call that is not sent needs no entry."""
        return self.done is not None and self.done.cancelled()


class SqlLedger(LedgerStore):
    """Store of ledger entries in SQLite or PostgreSQL; made by `open_store`.

    What is read has in it all that was appended before. Where the database is away, entries wait
    and are written when it is back; `begin`, `flush` and whatever reads raise `LedgerError` within
    a second. The queue is flushed by `close`, `aclose`, and at exit.

    Args:
        sql: the database.
        crash_safe: write each call down before it is sent.
        keeps_jobs: keep background jobs.
        redact: takes out of notes what must not be stored.
        tags: of every entry.
    """

    def __init__(
        self,
        sql: LedgerSql,
        *,
        crash_safe: bool = True,
        keeps_jobs: bool = False,
        redact: Redact | None = None,
        tags: Mapping[str, str] = NO_TAGS,
    ) -> None:
        self._sql = sql
        self._crash_safe = crash_safe
        self._keeps_jobs = keeps_jobs
        self._redact = redact
        self._tags = checked_tags(tags, "the store")
        self._items: deque[_Item] = deque()
        self._writing: Sequence[_Item] = ()
        self._room = threading.Condition()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._stopping = False
        self._problem: str | None = None
        self._refused: list[str] = []
        self._groups: WeakKeyDictionary[asyncio.AbstractEventLoop, list[_Item]] = (
            WeakKeyDictionary()
        )

    @property
    def waiting(self) -> int:
        """Changes that were handed over and are not written yet."""
        with self._room:
            return sum(item.write is not None for item in (*self._writing, *self._items))

    def append(self, entries: Sequence[LedgerEntry], tags: Mapping[str, str] = NO_TAGS) -> None:
        """Hand over entries, to be written soon.

        Raises:
            LedgerError: there is no room for them, as the database is away; or the store is open
                for reading only.
        """
        tags = {**self._tags, **tags} if tags else self._tags
        self._put([Write("entry", self._redacted(entry), tags) for entry in entries])

    async def begin(self, entry: LedgerEntry, tags: Mapping[str, str] = NO_TAGS) -> None:
        """Write down a call that is about to be sent; returns once it is in the database, and what
        came before it in its run as well.

        Raises:
            LedgerError: it cannot be written down within a second; the call must not be sent.
        """
        if not self._crash_safe:
            return
        loop = asyncio.get_running_loop()
        tags = {**self._tags, **tags} if tags else self._tags
        item = _Item(Write("begin", entry, tags), loop.create_future())
        group = self._groups.get(loop)
        if group is None:  # what begins in one round of an event loop is written together
            group = self._groups[loop] = []
            loop.call_soon(self._write_group, loop)
        group.append(item)
        try:
            await self._told(item)
        except BaseException:
            with self._room:
                skipped = any(each is item for each in self._items)
            if not skipped:  # it may have been written in the same moment
                with suppress(LedgerError):
                    self.withdraw(entry.id)
            raise

    def withdraw(self, entry_id: str) -> None:
        """Forget a call that was begun and not sent."""
        if self._crash_safe:
            self._put([Write("withdraw", entry_id)])

    async def of_run(self, run_id: str) -> list[LedgerEntry]:
        """The entries of a run, oldest first."""
        return await self.entries(Selection(run_id=run_id))

    async def entries(
        self, selection: Selection = EVERYTHING, *, limit: int | None = None
    ) -> list[LedgerEntry]:
        """Entries ordered by time, then id; the oldest `limit` of them. Calls that were begun and
        not completed are not among them, see `unfinished`."""
        await self.flush()
        found = await self._call(lambda: self._sql.page(selection, None, limit))
        return [entry for entry, _ in found]

    async def pages(
        self, selection: Selection = EVERYTHING, *, size: int = 1_000
    ) -> AsyncGenerator[list[Tagged]]:
        """Entries with their tags, so many at a time: a million of them with flat memory."""
        await self.flush()
        place: tuple[datetime, str] | None = None
        while True:
            after = place
            page = await self._call(lambda: self._sql.page(selection, after, size))  # noqa: B023
            if page:
                yield page
            if len(page) < size:
                return
            place = (page[-1][0].at, page[-1][0].id)

    async def rows(
        self,
        selection: Selection = EVERYTHING,
        columns: Sequence[str] = ("run_id", "node", "cost_usd"),
        *,
        limit: int | None = None,
    ) -> list[tuple[Any, ...]]:
        """Columns of entries as plain tuples, ordered by time: for reports over many entries.

        Args:
            selection: which entries.
            columns: names of fields of `LedgerEntry` (the range of a baseline is
                `baseline_low_usd` and `baseline_high_usd`), `tags`, a tag as `tags.user`, or a
                field of the decision as `decision.action`, `decision.confidence`, ….
            limit: the oldest so many.

        Raises:
            ConfigurationError: there is no such column.
        """
        await self.flush()
        return await self._call(lambda: self._sql.rows(selection, columns, limit))

    async def unfinished(
        self, selection: Selection = EVERYTHING, *, older_than: timedelta = timedelta()
    ) -> list[LedgerEntry]:
        """Calls with an unknown outcome: begun, and never completed.

        Their process was killed, or is still at it; with `older_than` longer than any call takes,
        only the killed ones are left. What they cost is unknown.
        """
        await self.flush()
        latest = datetime.now(UTC) - older_than
        found = await self._call(lambda: self._sql.unfinished(selection))
        return [entry for entry in found if entry.at <= latest]

    async def totals(
        self, selection: Selection = EVERYTHING, *, by: Grouping = "node"
    ) -> dict[str, Total]:
        """Cost and saving of groups, to the last digit, in the order of their first entries; an
        entry without a tier or model is in the group `""`."""
        amounts = ("cost_usd", "cost_basis", "saved_usd", "basis", "baseline_usd")
        totals: dict[str, Total] = {}
        for group, *row in await self.rows(selection, ["at" if by == "day" else by, *amounts]):
            name = group.date().isoformat() if by == "day" else group or ""
            cost, cost_basis, saved, basis, baseline = row
            so_far = totals.get(name, Total())
            totals[name] = Total(
                so_far.entries + 1,
                so_far.cost_usd.plus(cost, cost_basis),
                so_far.saved_usd.plus(saved, basis),
                so_far.baseline_usd.plus(baseline, basis),
            )
        return totals

    async def spent(self, node: str, since: datetime) -> Amounts:
        """Cost of a node's entries since a time, an unknown cost as what is assumed."""
        return await self.cost(Selection(node=node, since=since))

    async def cost(self, selection: Selection = EVERYTHING) -> Amounts:
        """Cost of entries; an unknown one counts among the estimated at what is assumed, and stays
        unknown where nothing is."""
        await self.flush()
        return await self._call(lambda: self._sql.spent(selection))

    def put_job(self, job: Job) -> None:
        """Keep a job until it is dropped, where the store keeps jobs."""
        if self._keeps_jobs and _may_be_kept(job, self._redact):
            self._put([Write("put", job)])

    def drop_job(self, kind: str, run_id: str) -> None:
        """Forget a job: it is done, or never will be."""
        if self._keeps_jobs:
            self._put([Write("drop", (kind, run_id))])

    async def jobs(self, selection: Selection = EVERYTHING) -> list[Job]:
        """The jobs that are not done, claimed or not, oldest first."""
        await self.flush()
        return await self._call(lambda: self._sql.jobs(selection))

    async def claim_jobs(
        self, kind: str, older_than: timedelta = timedelta(), *, lease: timedelta = LEASE
    ) -> list[Job]:
        """Take on jobs; of several processes each gets others. Their clocks should agree within
        seconds."""
        if not self._keeps_jobs:
            return []
        await self.flush()
        now = datetime.now(UTC)
        span = (now, now - older_than, now - lease)
        return await self._call(lambda: self._sql.claim(kind, new_id(), *span))

    async def delete(
        self,
        selection: Selection | None = None,
        *,
        older_than: timedelta | None = None,
        everything: bool = False,
    ) -> int:
        """Delete entries with their begun calls and jobs. What is deleted is overwritten.

        Args:
            selection: what to delete.
            older_than: delete what is older than this, for retention.
            everything: must be True to delete all there is.

        Returns:
            how many entries were deleted.

        Raises:
            ConfigurationError: it is not said what to delete, or in two ways.
        """
        if selection is not None and older_than is not None:
            raise ConfigurationError("give a selection or older_than, not both.")
        if older_than is not None:
            selection = Selection(until=datetime.now(UTC) - older_than)
        chosen = selection or EVERYTHING
        if chosen.everything and not everything:
            raise ConfigurationError(
                "this would delete the whole ledger: give a selection, or everything=True."
            )
        await self.flush()
        return await self._call(lambda: self._sql.delete(chosen))

    async def export(
        self, path: str | Path, selection: Selection = EVERYTHING, *, notes: bool = False
    ) -> int:
        """Write entries to a file: `.jsonl`, `.csv` or `.parquet`; returns how many.

        Amounts are decimal text, times UTC, and what is unknown is null (empty in CSV).

        Args:
            path: of a new file; the ending names the format.
            selection: which entries.
            notes: also the notes of failed calls, which may quote a server's address and words.

        Raises:
            ConfigurationError: the name has none of these endings.
            MissingDependencyError: Parquet without pyarrow.
        """
        n = 0
        with _exporting(Path(path)) as add:
            async with aclosing(self.pages(selection)) as pages:
                async for page in pages:
                    rows = [_exported(entry, tags, notes=notes) for entry, tags in page]
                    await asyncio.to_thread(add, rows)
                    n += len(page)
        return n

    async def ready(self) -> str | None:
        """Why entries cannot be written now, in words; None where they can."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._call(self._sql.probe)
        except TimeoutError:
            return f"{self._sql.database.place} has not answered for {PATIENCE_S} s."
        except LedgerError as error:
            return str(error)
        return None

    async def flush(self) -> None:
        """Return once everything appended so far is in the database.

        Raises:
            LedgerError: the database is away, or refused an entry.
        """
        item = _Item(None, asyncio.get_running_loop().create_future())
        if self._sql.database.read_only:
            return
        self._put([], item)
        while not item.done.done():
            await asyncio.wait([item.done], timeout=PATIENCE_S)
            self._give_up_on(item)
        item.done.result()

    def close(self) -> None:
        """Write what is left, disconnect, and end the thread. The store may be used again.

        Raises:
            LedgerError: something could not be written; it is still in the queue.
        """
        if self._thread is None or self._pid != os.getpid():
            return
        if self.waiting or self._refused:  # else the database need not be within reach
            item = _Item(None, Future())
            self._put([], item)
            while not item.done.done():
                with suppress(TimeoutError):
                    item.done.exception(timeout=PATIENCE_S)
                self._give_up_on(item)
            item.done.result()
        with self._room:
            thread = self._thread
            if thread is None or self._stopping:  # another caller closes it
                self._room.wait_for(lambda: not self._stopping)
                return
            self._stopping = True
            self._wake(urgent=True)
        thread.join()
        with self._room:
            self._thread, self._stopping = None, False
            self._room.notify_all()
        atexit.unregister(self._at_exit)

    async def aclose(self) -> None:
        """`close`, without holding up the event loop."""
        await asyncio.to_thread(self.close)

    def _redacted(self, entry: LedgerEntry) -> LedgerEntry:
        """The entry as it may be stored. Its note may repeat what a provider quoted."""
        if self._redact is None or not entry.note:
            return entry
        try:
            note = self._redact(entry.note)
        except Exception:
            logger.exception("redaction failed: an entry is stored without its note")
            note = "[redaction failed]"
        return entry.model_copy(update={"note": note})

    def _put(self, writes: Sequence[Write], *marks: _Item) -> None:
        """Put changes in the queue, all of them or none.

        Raises:
            LedgerError: there is no room, or the store is open for reading only.
        """
        if self._sql.database.read_only:
            raise LedgerError(f"{self._sql.database.place} is open for reading only.")
        with self._room:
            self._run()
            if writes and len(self._items) >= QUEUE:
                self._room.wait_for(lambda: len(self._items) < QUEUE or self._problem, timeout=1.0)
                if len(self._items) >= QUEUE:
                    raise LedgerError(
                        f"{self._sql.database.place}: {QUEUE:,} entries wait to be written"
                        f"{self._because()}."
                    )
            self._items.extend(map(_Item, writes))
            self._items.extend(marks)
            self._wake(urgent=bool(marks) or len(self._items) >= BATCH)

    def _because(self) -> str:
        return f" ({self._problem.rstrip('.')})" if self._problem else ""

    async def _told(self, item: _Item) -> None:
        """Wait until a call is written down, for a second at most.

        Raises:
            LedgerError: it is not.
        """
        # Where it is known that nothing can be written, one more try is enough.
        patience_s = PATIENCE_S if self._problem is None else 2 * LONGEST_PAUSE_S
        try:
            async with asyncio.timeout(patience_s):
                await item.done
        except TimeoutError as error:
            raise LedgerError(
                f"{self._sql.database.place} cannot be written{self._because()}; nothing was sent."
            ) from error

    def _write_group(self, loop: asyncio.AbstractEventLoop) -> None:
        """Write down the calls that begin in this round of an event loop."""
        group = [item for item in self._groups.pop(loop) if not item.given_up]
        if not group:
            return
        try:
            if self._write_at_once(group):
                self._finish(group, at_once=True)
            else:
                self._put([], *group)
        except LedgerError as error:
            _settle({item.done: error for item in group if item.done is not None})

    def _write_at_once(self, group: Sequence[_Item]) -> bool:
        """Write calls in the thread that asks, with what waits: once a call is sent, what came
        before it in its run is in the database.

        Returns:
            whether that was done. Not while the thread writes entries of these runs, or more of
            them wait than an event loop should write.
        """
        runs = {item.write.what.run_id for item in group if item.write is not None}
        with self._room:
            self._run()
            if self._problem is not None or _are_of(runs, self._writing):
                return False
            items = list(self._items)
            if len(items) > MOST_AT_ONCE:
                if _are_of(runs, items):
                    return False
                items = []
            writes = _writes([*items, *group])
            if not self._sql.write_now(writes):
                return False
            if items:
                self._items.clear()
                self._room.notify_all()
            if self._sql.untidy:
                self._wake(urgent=False)
        self._finish(items)
        return True

    async def _call(self, action: Callable[[], Awaitable[T]]) -> T:
        """Run something of the database's in the thread's event loop."""

        async def run() -> T:
            return await action()

        with self._room:
            self._run()
            future = asyncio.run_coroutine_threadsafe(run(), self._loop)
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
            for write in _writes([*self._writing, *self._items]):
                if write.kind == "entry":
                    logger.error("the process ends before an entry was written: %s", _said(write))

    def _wake(self, *, urgent: bool) -> None:
        # Waking the other thread costs a system call: only where it may be asleep.
        level = 2 if urgent else 1
        if level > self._signalled:
            self._signalled = level
            self._loop.call_soon_threadsafe(self._heard, urgent)

    def _heard(self, urgent: bool) -> None:
        self._something.set()
        if urgent:
            self._urgent.set()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._something, self._urgent = asyncio.Event(), asyncio.Event()
        ready.set()
        with suppress(Exception):  # the first write tells it
            await self._sql.open()
        while self._items or not self._stopping:
            await self._something.wait()
            # Not wait_for: in Python 3.11 it may let its own cancellation out, which ends the loop.
            timer = self._loop.call_later(LINGER_S, self._urgent.set)
            await self._urgent.wait()
            timer.cancel()
            await self._write(self._take())
            self._writing = ()
            await self._sql.tidy()
        await asyncio.sleep(0)  # what was asked a moment ago is a task after that
        reads = asyncio.all_tasks() - {asyncio.current_task()}
        if reads:
            await asyncio.wait(reads, timeout=30)
        await self._sql.aclose()

    def _take(self) -> list[_Item]:
        with self._room:
            n = min(len(self._items), BATCH)
            self._writing = taken = [self._items.popleft() for _ in range(n)]
            self._began = time.monotonic()
            if not self._items:
                self._signalled = 0
                self._something.clear()
                self._urgent.clear()
            self._room.notify_all()
            return taken

    async def _write(self, items: Sequence[_Item]) -> None:
        """Write them, and try again for as long as it takes."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                writes = _writes(items)
                if writes:
                    await self._sql.write(writes)
            except CascadeError as error:
                if self._problem is None:
                    logger.warning("the ledger cannot be written, trying again: %s", error)
                self._problem = str(error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            except Exception as error:  # noqa: BLE001 - it is told to who waits, or flushes
                if len(items) == 1:
                    self._refuse(items[0], error)
                    return
                for item in items:
                    await self._write([item])
                return
            else:
                if self._problem is not None:
                    logger.warning("the ledger is written again")
                    self._problem = None
                self._finish(items)
                return

    def _refuse(self, item: _Item, error: Exception) -> None:
        """Something that can never be written: it is named, and the rest is written."""
        said = repr(item.write and item.write.what)
        if item.write is not None and item.write.kind == "entry":
            said = _said(item.write)
        logger.error("the ledger's database refused an entry: %s: %s", error, said)
        self._refused = [*self._refused, f"{said} ({error})"][-MOST_TOLD:]
        if item.done is not None:
            _settle({item.done: LedgerError(f"the ledger cannot keep {said}: {error}")})

    def _finish(self, items: Sequence[_Item], *, at_once: bool = False) -> None:
        outcomes: dict[Done, LedgerError | None] = {}
        for item in items:
            if item.done is not None:
                outcomes[item.done] = None
                if item.write is None and self._refused:
                    refused = "; ".join(self._refused)
                    outcomes[item.done] = LedgerError(f"the database refused entries: {refused}")
                    self._refused = []
        if at_once:
            for done in outcomes:
                _tell(done, None)
        else:
            _settle(outcomes)

    def _give_up_on(self, mark: _Item) -> None:
        """Tell who flushes that the database is away."""
        hangs = bool(self._writing) and time.monotonic() - self._began > 2 * PATIENCE_S
        if (self._problem is not None or hangs) and mark.done is not None:
            why = self._because() or " (it does not answer)"
            error = LedgerError(
                f"{self._sql.database.place} cannot be written{why}; {self.waiting:,} entries wait."
            )
            _tell(mark.done, error)


def _writes(items: Sequence[_Item]) -> list[Write]:
    return [item.write for item in items if item.write is not None and not item.given_up]


def _are_of(runs: Collection[str], items: Sequence[_Item]) -> bool:
    """Whether there are entries of these runs among them."""
    return any(
        item.write is not None and item.write.kind == "entry" and item.write.what.run_id in runs
        for item in items
    )


def _said(write: Write) -> str:
    """An entry for the log, without its free texts."""
    entry = write.what.model_dump(mode="json", exclude_defaults=True, exclude={"note", "decision"})
    return json.dumps({**entry, "tags": dict(write.tags)})


def _settle(outcomes: Mapping[Done, LedgerError | None]) -> None:
    """Tell all who wait how it ended; those of one event loop together, which wakes it once."""
    loops: dict[asyncio.AbstractEventLoop, list[Done]] = {}
    for done, error in outcomes.items():
        if isinstance(done, asyncio.Future):
            loops.setdefault(done.get_loop(), []).append(done)
        else:
            _tell(done, error)
    for loop, waiting in loops.items():
        with suppress(RuntimeError):  # the loop was closed, and nothing waits there any more
            loop.call_soon_threadsafe(_tell_all, waiting, outcomes)


def _tell_all(waiting: Sequence[Done], outcomes: Mapping[Done, LedgerError | None]) -> None:
    for done in waiting:
        _tell(done, outcomes[done])


def _tell(done: Done, error: LedgerError | None) -> None:
    with suppress(asyncio.InvalidStateError, InvalidStateError):  # it was told, or gave up
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)


def _may_be_kept(job: Job, redact: Redact | None) -> bool:
    """Whether redaction would leave a job as it is: else it would measure something else."""
    if redact is None:
        return True
    try:
        return redact(job.payload) == job.payload
    except Exception:
        logger.exception("redaction failed: a job is not stored")
        return False


COUNTS = (
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cache_write_tokens",
)
NUMBERS = ("latency_ms", "loss", "confidence", "audit_rate")
DECISION = ("action", "confidence", "calibrated", "audit_rate", "signals")
"""Of the decision, in columns of their own."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")


def _exported(entry: LedgerEntry, tags: Mapping[str, str], *, notes: bool) -> dict[str, Any]:
    """An entry for another program: flat, but for signals and tags."""
    row = entry.model_dump(mode="json", exclude={"decision", "baseline_range"})
    if not notes and entry.outcome not in ("ok", "not_sent"):
        row["note"] = ""
    low, high = entry.baseline_range or (None, None)
    row["baseline_low_usd"] = None if low is None else str(low)
    row["baseline_high_usd"] = None if high is None else str(high)
    decision = {} if entry.decision is None else entry.decision.model_dump(mode="json")
    return {**row, **{name: decision.get(name) for name in DECISION}, "tags": dict(tags)}


@contextmanager
def _exporting(path: Path) -> Generator[Callable[[Sequence[dict[str, Any]]], object]]:
    """A function that adds rows to a new file; the ending names the format."""
    columns = list(_exported(LedgerEntry(run_id="", node=""), {}, notes=False))
    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            yield lambda rows: file.writelines(
                json.dumps(row, ensure_ascii=False) + "\n" for row in rows
            )
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, columns)
            table.writeheader()
            yield lambda rows: table.writerows(
                {name: _cell(value) for name, value in row.items()} for row in rows
            )
    elif path.suffix == ".parquet":
        if find_spec("pyarrow") is None:
            raise MissingDependencyError(
                f'{path}: Parquet needs pyarrow: pip install "agent-cascade[parquet]", or export '
                "to .csv or .jsonl."
            )
        pa: Any = import_module("pyarrow")
        types = dict.fromkeys(columns, pa.string())
        types |= dict.fromkeys(COUNTS, pa.int64()) | dict.fromkeys(NUMBERS, pa.float64())
        types |= {"calibrated": pa.bool_(), "at": pa.timestamp("us", tz="UTC")}
        schema = pa.schema(list(types.items()))
        with import_module("pyarrow.parquet").ParquetWriter(path, schema) as file:
            yield lambda rows: file.write_table(
                pa.Table.from_pylist([_flat(row) for row in rows], schema)
            )
    else:
        raise ConfigurationError(
            f"{path}: the ending names the format; give one of .jsonl, .csv, .parquet."
        )


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = {
        name: json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
        for name, value in row.items()
    }
    return kept | {"at": datetime.fromisoformat(row["at"])}


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula, with the apostrophe that makes it text:
    models name tools, clients name tags, and opening a file must not run what they say.
    """
    if isinstance(value, dict):
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value[:1] in _FORMULA and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value
