"""The thread that writes: batches, group commits, back-pressure, and patience with databases."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from cascade.errors import LedgerError
from cascade.ledger.store.base import Attempt, Backend, Stored, UnavailableError
from cascade.ledger.store.waiting import Done, Item, Kept, as_json, batch_of, is_entry_of, settle

logger = logging.getLogger("cascade")

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 2.0
"""Between two tries to write; each pause is twice the one before."""

MOST_AT_ONCE = 128
"""So much is written by who waits in an event loop; more is for the writer's thread."""

WORTH_IT = 24
"""So much has to wait that it is written by who waits in an event loop for something else."""

MOST_TOLD = 100
"""So many of the entries that were refused last are told to whoever flushes; all are logged."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes and times of the queue.

    Attributes:
        queue: entries that may wait to be written. When it is full, `append` waits.
        batch: entries of one transaction at most.
        linger_s: how long entries may wait for others, unless somebody waits for them.
        patience_s: how long to wait for a database that cannot be reached, before those who
            wait get a `LedgerError`; entries stay in the queue and are tried again.
        full_s: how long `append` waits for room in a full queue, before it raises `LedgerError`.
            After that it does not wait again until there was room.
    """

    queue: int = 10_000
    batch: int = 1_000
    linger_s: float = 0.05
    patience_s: float = 30.0
    full_s: float = 5.0


class Writer:
    """Writes what it is given, in order, in a thread and event loop of its own."""

    def __init__(self, backend: Backend, limits: Limits) -> None:
        self._backend = backend
        self.limits = limits
        self._items: deque[Item] = deque()
        self._room = threading.Condition()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._stopping = False
        self._stuck = False
        self._lost = 0
        self._writing: Sequence[Item] = ()
        self._refused: deque[str] = deque(maxlen=MOST_TOLD)

    @property
    def lost(self) -> int:
        """How many entries there was no room for, or were refused, or were left at exit."""
        return self._lost

    @property
    def waiting(self) -> int:
        """How many entries and the like are handed over and not written."""
        with self._room:
            return sum(item.what is not None for item in (*self._writing, *self._items))

    def put(self, *what: Kept) -> None:
        """Hand over what belongs together; waits while the queue is full.

        Raises:
            LedgerError: it stayed full for `full_s`, or the ledger is open for reading only;
                nothing of this is in it.
        """
        limits = self.limits
        with self._room:
            self._run()
            self._check_writable()
            # Where nothing was written for so long, waiting again would hold up every caller.
            longest_s = 0.0 if self._stuck else limits.full_s
            free = self._room.wait_for(lambda: len(self._items) < limits.queue, timeout=longest_s)
            self._stuck = not free
            if not free:
                self._lost += sum(isinstance(each, Stored) for each in what)
                raise LedgerError(
                    f"the ledger's queue is full ({limits.queue} entries) and nothing was written "
                    f"for {limits.full_s} s: is its database within reach?"
                )
            self._items.extend(map(Item, what))
            self._signal(urgent=len(self._items) >= limits.batch)

    def put_now(self, what: Kept | None) -> Future[None]:
        """Hand over something that somebody waits for; done once it is in the database."""
        done: Future[None] = Future()
        self._put_now(Item(what, done))
        return done

    def written(self) -> asyncio.Future[None]:
        """`flush` for who waits in an event loop; a cancelled waiter takes nothing back."""
        done = asyncio.get_running_loop().create_future()
        self._put_now(Item(None, done))
        return done

    def write_now(self, begun: Sequence[Attempt]) -> bool:
        """Write calls that are about to be sent in the thread that asks, after the entries of their
        runs: once a call is sent, what came before it in its run is in the database.

        Where so much waits that a transaction pays, it is written with them. For each row of its
        own the other thread would wait until this one lets go of the interpreter, and hold the
        database all that time.

        Returns:
            whether that was done. Not while the other thread writes such entries, or has more to
            write than an event loop should wait for.
        """
        runs = {attempt.run_id for attempt in begun}
        with self._room:
            if self._stopping or any(is_entry_of(runs, item) for item in self._writing):
                return False
            items = list(self._items)
            if not WORTH_IT <= len(items) <= MOST_AT_ONCE:
                if not any(is_entry_of(runs, item) for item in items):
                    items = []
                elif len(items) > MOST_AT_ONCE:
                    return False
            if not self._backend.write_now(batch_of([*items, *map(Item, begun)])):
                return False
            if items:
                self._items.clear()
                self._room.notify_all()
        self._finish(items)
        return True

    def hand_over(self, what: Kept, done: asyncio.Future[None]) -> None:
        """Have something written for who waits in an event loop."""
        self._put_now(Item(what, done))

    async def call(self, action: Callable[[], Awaitable[T]]) -> T:
        """Run something of the backend's in the writer's loop."""

        async def run() -> T:
            await self._open()
            return await action()

        with self._room:
            self._run()
            future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        return await asyncio.wrap_future(future)

    def flush(self) -> Future[None]:
        """Done when everything handed over so far is in the database."""
        return self.put_now(None)

    def close(self) -> None:
        """Write what is left and end the thread; waits for it. The next entry starts another.

        Raises:
            LedgerError: something could not be written; it is still in the queue.
        """
        if self._thread is None or self._pid != os.getpid():
            return
        if self.waiting or self._refused:  # else it need not be within reach
            self.flush().result()
        with self._room:
            thread = self._thread
            if thread is None or self._stopping:  # somebody else closes it
                self._room.wait_for(lambda: not self._stopping)
                return
            self._stopping = True
            self._signalled = 0
            self._signal(urgent=True)
        thread.join()
        with self._room:
            self._thread = None
            self._stopping = False
            self._room.notify_all()
        atexit.unregister(self._at_exit)

    def _put_now(self, item: Item) -> None:
        with self._room:
            self._run()
            if item.what is not None:
                self._check_writable()
            self._items.append(item)
            self._signal(urgent=True)

    def _check_writable(self) -> None:
        if self._backend.read_only:
            raise LedgerError(
                "this ledger is open for reading only: open_store(…, read_only=False) writes."
            )

    def _run(self) -> None:
        if self._thread is not None and self._pid != os.getpid():
            raise LedgerError(
                "this ledger was in use before the process forked: open a store of its own "
                "in each process, with open_store(…)."
            )
        # What comes while the thread ends would be lost with it: it is for the next one.
        self._room.wait_for(lambda: not self._stopping)
        if self._thread is not None:
            return
        self._pid = os.getpid()
        self._opened = False
        self._signalled = 0
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
            self._give_up()

    def _give_up(self) -> None:
        """The process ends, and the database is away: the log gets what waits for it."""
        with self._room:
            items = [*self._writing, *self._items]
        left = [item.what for item in items if isinstance(item.what, Stored)]
        self._lost += len(left)
        for stored in left:
            logger.error("the process ends before an entry was written: %s", as_json(stored))

    def _signal(self, *, urgent: bool) -> None:
        # Waking the other thread costs a system call: only when it may be asleep.
        level = 2 if urgent else 1
        if level > self._signalled:
            self._signalled = level
            self._loop.call_soon_threadsafe(self._wake, urgent)

    def _wake(self, urgent: bool) -> None:
        self._something.set()
        if urgent:
            self._urgent.set()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._something, self._urgent = asyncio.Event(), asyncio.Event()
        self._opening = asyncio.Lock()
        ready.set()
        with suppress(Exception):  # the first write reports it
            await self._open()
        while self._items or not self._stopping:
            await self._something.wait()
            # Not wait_for: in Python 3.11 it may let its own cancellation out, which ends the loop.
            timer = self._loop.call_later(self.limits.linger_s, self._urgent.set)
            await self._urgent.wait()
            timer.cancel()
            await self._write(self._take())
            self._writing = ()
            with suppress(Exception):  # the next write reports it
                await self._backend.tidy()
        await asyncio.sleep(0)  # what was asked a moment ago is a task after that
        reads = asyncio.all_tasks() - {asyncio.current_task()}
        if reads:
            await asyncio.wait(reads, timeout=self.limits.patience_s)
        await self._backend.aclose()

    def _take(self) -> list[Item]:
        with self._room:
            n = min(len(self._items), self.limits.batch)
            self._writing = taken = [self._items.popleft() for _ in range(n)]
            if not self._items:
                self._signalled = 0
                self._something.clear()
                self._urgent.clear()
            self._room.notify_all()
            return taken

    async def _open(self) -> None:
        async with self._opening:
            if not self._opened:
                await self._backend.open()
                self._opened = True

    async def _write(self, items: Sequence[Item]) -> None:
        """Write them, and try again for as long as it takes."""
        began, pause = time.monotonic(), FIRST_PAUSE_S
        while items:
            try:
                await self._open()
                if any(item.what is not None for item in items):
                    await self._backend.write(batch_of(items))
            except Exception as error:  # noqa: BLE001 - it is handed to whoever waits
                if self._opened and not isinstance(error, UnavailableError):
                    await self._write_one_by_one(items, error)
                    return
                if not self._opened or time.monotonic() - began > self.limits.patience_s:
                    self._writing = items = self._disappoint(items, error)
                    if not items:
                        return
                logger.warning("the ledger cannot be written, trying again: %s", error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                self._finish(items)
                return

    async def _write_one_by_one(self, items: Sequence[Item], error: Exception) -> None:
        """Something among them can never be written: it is named, and the rest is written."""
        if len(items) > 1:
            for item in items:
                await self._write([item])
            return
        what, done = items[0].what, items[0].done
        said = as_json(what) if isinstance(what, Stored) else repr(what)
        logger.error("an entry was refused by the ledger's database: %s: %s", error, said)
        self._lost += isinstance(what, Stored)
        self._refused.append(f"{what} ({error})")
        if done is not None:
            settle({done: LedgerError(f"the ledger cannot keep {what}: {error}")})

    def _finish(self, items: Sequence[Item]) -> None:
        outcomes: dict[Done, LedgerError | None] = {}
        for item in items:
            if item.done is None:
                continue
            outcomes[item.done] = None
            if item.what is None and self._refused:
                refused = "; ".join(self._refused)
                outcomes[item.done] = LedgerError(f"the database refused entries: {refused}")
                self._refused.clear()
        settle(outcomes)

    def _disappoint(self, items: Sequence[Item], error: Exception) -> Sequence[Item]:
        """Tell all who wait that the database cannot be had; returns the entries to keep.

        A call whose attempt could not be written is not sent: its attempt is forgotten.
        """
        with self._room:
            waiting = [item for item in (*items, *self._items) if item.done is not None]
            kept = deque(item for item in self._items if item.done is None)
            self._items = kept
            items = [item for item in items if item.done is None]
            left = len(items) + len(kept)
        done = "written" if self._opened else "opened"
        wait = f"; {left:,} entries wait for it" if left else ""
        error = LedgerError(f"the ledger cannot be {done}: {str(error).rstrip('.')}{wait}.")
        settle({item.done: error for item in waiting if item.done is not None})
        return items
