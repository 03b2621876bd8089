"""Writer of a database: a queue of changes, which a background loop writes in batches."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from cascade.errors import CascadeError, LedgerError
from cascade.ledger.base import UnavailableError
from cascade.ledger.database import ANSWER_S, Database, background

logger = logging.getLogger("cascade")

BATCH, LITTLE, JOURNAL = 1_000, 200, 4_000
"""Changes of one transaction, and of one that an event loop makes; transactions by event loops,
some 40 MB, after which SQLite's journal is moved."""

PATIENCE_S, PAUSE_S = 0.9, 0.1
"""Longest wait for a database that could not be written, and time between two tries."""


@dataclass(eq=False, slots=True)
class Change:
    """A change that waits to be written; `work` is None where only its turn is waited for. One that
    is `kept` must not be lost."""

    work: Any
    kept: bool = False
    done: asyncio.Future[None] | None = None


class Writer:
    """Queue of changes of a database, written in their order, for any thread and event loop; where
    that fails, they are tried again.

    Args:
        write: makes changes, by their `work`, in a transaction.
        linger_s: time that changes wait for others, unless a caller waits for one.
        slow_s: longest wait for the database.
    """

    def __init__(
        self,
        database: Database,
        write: Callable[[Sequence[Any], Any], object],
        linger_s: float,
        slow_s: float = ANSWER_S,
    ) -> None:
        self.database, self._write = database, write
        self._linger_s, self._slow_s = linger_s, slow_s
        self.queue: deque[Change] = deque()
        self.room, self._urgent = threading.Condition(), asyncio.Event()
        self.problem: str | None = None
        self._writing: Sequence[Change] = ()  # in the background, now: callers must not write
        self._serving = False
        self._process: int | None = None  # that uses it

    @property
    def waiting(self) -> list[Change]:
        """The changes that must not be lost."""
        with self.room:
            return [change for change in (*self._writing, *self.queue) if change.kept]

    def put(self, *changes: Change, urgent: bool = False) -> None:
        """Hand changes over."""
        with self.room:
            self._begin_use()
            self.queue.extend(changes)
            self._wake(urgent=urgent or len(self.queue) >= LITTLE)

    async def written(self, work: Any = None, undo: Any = None) -> None:
        """Wait until a change is written, with all before it. Where it is given up after a try,
        which may have come through, `undo` is put; an `UnavailableError` says why."""
        done = asyncio.get_running_loop().create_future()
        change = Change(work, done=done)
        self.put(change, urgent=True)
        try:
            async with asyncio.timeout(PATIENCE_S if self.problem else self._slow_s):
                await done
        except BaseException as error:
            with self.room:
                if change in self.queue:
                    self.queue.remove(change)
                elif undo is not None:
                    self.put(Change(undo))
            if isinstance(error, TimeoutError):
                raise self.unavailable() from None
            raise

    def write_now(self, work: Any) -> bool:
        """True if the thread that asks has written a change, with what waits: to hand it over takes
        five times as long. Not while the background writes."""
        with self.room:
            self._begin_use()
            works = [*(change.work for change in self.queue), work]
            busy = self._writing or self.problem or self.database.in_journal >= 2 * JOURNAL
            if busy or len(works) > LITTLE:
                return False
            if not self.database.write_now(partial(self._write, works)):
                return False
            written, self.queue = self.queue, deque()
            if self.database.in_journal >= JOURNAL:
                self._wake()
        _tell(written)
        return True

    def close(self) -> None:
        """Write what is left, and disconnect; an `UnavailableError` where that cannot be done yet.
        It may be used again."""
        with self.room:
            if self._process not in (None, os.getpid()):
                return  # it belongs to the process before a fork
            if self._serving:
                self._wake(urgent=True)
            self.room.wait_for(lambda: self.problem or not self._serving, self._slow_s)
            self.room.wait_for(lambda: not self._serving, PATIENCE_S)
            if left := self.waiting:
                why = self.unavailable()
                _tell(left, why)
                raise why
            self._process = None
            atexit.unregister(self._at_exit)
        self.database.close()

    def unavailable(self) -> UnavailableError:
        """The error that says what is wrong with the database."""
        slow = f"{self.database.place} has not answered for {self._slow_s} s"
        why, n = (self.problem or slow).rstrip("."), len(self.waiting)
        return UnavailableError(f"{why}; {n:,} changes wait, no call is sent.")

    def _at_exit(self) -> None:
        with suppress(LedgerError):
            self.close()
        for change in self.waiting:
            logger.error("the process ends before this was written: %s", change.work)

    def _begin_use(self) -> None:
        if self.database.read_only:
            raise LedgerError(f"{self.database.place} is open for reading only.")
        if self._process is None:
            self._process = os.getpid()
            atexit.register(self._at_exit)
        elif self._process != os.getpid():
            raise LedgerError(
                f"{self.database.place} was in use before the process forked: open a store of its "
                "own in each process, with open_store(…)."
            )

    # --- in the background

    def _wake(self, *, urgent: bool = False) -> None:
        if not self._serving:
            self._serving = True
            asyncio.run_coroutine_threadsafe(self._serve(), background.loop())
        if urgent and not self._urgent.is_set():
            background.loop().call_soon_threadsafe(self._urgent.set)

    async def _serve(self) -> None:
        """Write what is in the queue, until it is empty."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._urgent.wait(), self._linger_s)
        if self.database.in_journal >= JOURNAL:
            self.database.move_journal()
        while True:
            with self.room:
                self._writing = [self.queue.popleft() for _ in range(min(BATCH, len(self.queue)))]
                self.room.notify_all()
                if not self._writing:
                    self._serving = False
                    self._urgent.clear()
                    return
            await self._make(self._writing)

    async def _make(self, changes: Sequence[Change]) -> None:
        """Write changes, as often as it takes; those that can never be kept are refused."""
        while works := [change.work for change in changes if change.work is not None]:
            try:
                await self.database.write(partial(self._write, works))
            except CascadeError as error:
                if self.problem is None:
                    logger.warning("a database cannot be written, trying again: %s", error)
                self.problem = str(error)
                with self.room:
                    told = [change for change in (*changes, *self.queue) if not change.kept]
                    _tell(told, self.unavailable())
                    self.room.notify_all()
                if self._process is None:  # it was closed, and nothing must be kept
                    return
                await asyncio.sleep(PAUSE_S)
            except Exception as error:  # noqa: BLE001 - the caller is told, or the log
                if len(changes) > 1:
                    for each in changes:
                        await self._make([each])
                else:
                    refused = LedgerError(f"{self.database.place} refused {works[0]} ({error})")
                    logger.error("%s", refused)
                    _tell(changes, refused)
                return
            else:
                if self.problem is not None:
                    logger.warning("%s is written again", self.database.place)
                    self.problem = None
                break
        _tell(changes)


def _tell(changes: Iterable[Change], error: LedgerError | None = None) -> None:
    """Tell the callers who wait that it is written, or why not: each event loop once."""
    waiting: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for done in [change.done for change in changes if change.done is not None]:
        waiting.setdefault(done.get_loop(), []).append(done)
    for loop, its in waiting.items():
        with suppress(RuntimeError):  # it is closed
            loop.call_soon_threadsafe(_end, its, error)


def _end(waiting: Iterable[asyncio.Future[None]], error: LedgerError | None) -> None:
    for done in waiting:
        if not done.done() and error is None:
            done.set_result(None)
        elif not done.done() and error is not None:
            done.set_exception(error)
