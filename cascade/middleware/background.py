"""Background work of middleware: after the reply, in the home loop of the process.

The loop of the caller may end with the reply, and its context holds the callbacks and the stream of
the run that was answered; background work has neither. Work that must outlive the process is a job
of the ledger's store as long as it is not done.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from contextvars import Context
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from langchain_core.messages import messages_from_dict, messages_to_dict

from cascade._portal import on_portal, portal_loop, running_loop
from cascade.errors import CascadeError
from cascade.ledger.base import Job, current_tags
from cascade.run import Kernel, Kind, Run

logger = logging.getLogger("cascade")

MOST_WAITING = 1_000
"""Work that waits, at most; more is refused."""

AT_ONCE = 8
"""Work that is under way at the same time: it must not push requests aside."""

REMEMBERED = 10_000
"""Runs of this process whose work was begun: a step that is executed again begins none twice."""

STALE = timedelta(minutes=10)
"""A job that old belongs to a process that has died, or to one that is far behind."""

GIVEN_UP = timedelta(days=1)
"""A job that old is dropped: what it compares with has changed meanwhile."""

Work = Callable[[], Coroutine[Any, Any, None]]


def lot(key: str, purpose: str) -> float:
    """A number in [0, 1) that is uniform over keys, and always the same for one of them.

    A step that is executed again, also in another process, draws the same; draws of different
    purposes are independent.
    """
    digest = hashlib.blake2b(f"{purpose}\0{key}".encode(), digest_size=7).digest()
    return (int.from_bytes(digest) >> 3) / 2**53


class Background:
    """Work after replies, some of it at once. May be started from any thread and event loop."""

    def __init__(self) -> None:
        self._used = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(AT_ONCE)

    @property
    def full(self) -> bool:
        """Whether more work would be refused."""
        return len(self._tasks) >= MOST_WAITING

    def start(self, work: Work) -> bool:
        """Do it when its turn comes; False where too much waits already."""
        if self.full:
            return False
        loop, self._used = portal_loop(), True
        if running_loop() is loop:
            self._begin(work)
        else:
            loop.call_soon_threadsafe(self._begin, work)
        return True

    async def finish(self, grace_s: float | None = None) -> None:
        """Return once all of it is done, or cancelled when it takes longer than this."""
        if self._used:
            await on_portal(self._finish(grace_s))

    def _begin(self, work: Work) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the first work of this process, or since it was forked
            self._loop, self._places, self._tasks = loop, asyncio.Semaphore(AT_ONCE), set()
        # A context of its own: the caller's has the callbacks of a run that is over.
        task = loop.create_task(self._work(work), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, work: Work) -> None:
        async with self._places:
            try:
                await work()
            except Exception:
                logger.exception("work after a reply has failed")

    async def _finish(self, grace_s: float | None) -> None:
        while self._tasks and self._loop is asyncio.get_running_loop():
            _, late = await asyncio.wait(self._tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            if late:
                logger.warning("%d pieces of work after replies are cancelled", len(late))
                await asyncio.wait(late)


Do = Callable[[Run, Kernel], Coroutine[Any, Any, bool]]
"""Does a background run; False where it is to be tried again later."""


class BackgroundRuns(Background):
    """Background runs of one kind: each is begun once, and is a job of the store until it is done.

    What takes longer than `finish` may wait stays a job.
    """

    def __init__(self, kind: Kind, do: Do) -> None:
        super().__init__()
        self._kind, self._do = kind, do
        self._begun: OrderedDict[str, None] = OrderedDict()
        self._looked: WeakKeyDictionary[Kernel, float] = WeakKeyDictionary()
        self._lock = Lock()

    def take(self, run: Run, kernel: Kernel) -> bool:
        """Do a run of this kind after the reply, unless it was begun before; False where too much
        waits."""
        # The context of the caller, which has tags as well, stays behind.
        tags = run.settings["tags"] = {**current_tags(), **(run.settings.get("tags") or {})}
        store = kernel.ledger.store
        if store is not None and not self.full:
            try:
                kept = {"run": run.to_json(), "messages": messages_to_dict(run.messages)}
                # What is no JSON, such as a tool's artifact, is not sent to models either.
                payload = json.dumps(kept, default=str, skipkeys=True)
                kind = self._job_kind(kernel)
                store.put_job(Job(kind=kind, run_id=run.id, payload=payload, tags=tags))
            except (CascadeError, ValueError, TypeError) as error:
                logger.warning("a background run would not survive a crash: %s", error)
        return self._begin_once(run, kernel)

    def look(self, kernel: Kernel) -> None:
        """Take on what other processes have left, now and then and without waiting for it."""
        now = time.monotonic()
        if now - self._looked.get(kernel, -math.inf) >= STALE.total_seconds():
            self._looked[kernel] = now
            if kernel.ledger.store is not None:
                self.start(partial(self.resume, kernel))

    async def resume(self, kernel: Kernel, older_than: timedelta = STALE) -> None:
        """Take on what other processes have left so long ago; nothing, where none is at work."""
        store, kind = kernel.ledger.store, self._job_kind(kernel)
        assert store is not None
        for job in await store.claim_jobs(kind, older_than):
            run = _read(job)
            if run is None or datetime.now(UTC) - job.at > GIVEN_UP:
                store.drop_job(kind, job.run_id)
            else:
                self._begin_once(run, kernel)

    def _begin_once(self, run: Run, kernel: Kernel) -> bool:
        with self._lock:
            if run.id in self._begun:
                return True
            self._begun[run.id] = None
            if len(self._begun) > REMEMBERED:
                self._begun.popitem(last=False)
        started = self.start(partial(self._do_one, run, kernel))
        if not started:
            self._begun.pop(run.id, None)
        return started

    async def _do_one(self, run: Run, kernel: Kernel) -> None:
        done = False
        try:
            done = await self._do(run, kernel)
        except Exception:
            logger.exception("a background run of kind %s has failed", self._kind)
            done = True
        finally:
            if not done:
                self._begun.pop(run.id, None)
        if done and kernel.ledger.store is not None:
            kernel.ledger.store.drop_job(self._job_kind(kernel), run.id)

    def _job_kind(self, kernel: Kernel) -> str:
        """The kind of its jobs: other cascades that share a store leave them alone."""
        return f"{self._kind}-{fingerprint(kernel)}"


def fingerprint(kernel: Kernel) -> str:
    """What tells a cascade from those of another name or with other models that share a store."""
    told = [kernel.parts.name, *((tier.name, tier.model.name) for tier in kernel.tiers)]
    return hashlib.blake2b(repr(told).encode(), digest_size=4).hexdigest()


def _read(job: Job) -> Run | None:
    try:
        kept = json.loads(job.payload)
        messages: Any = messages_from_dict(kept["messages"])
        return Run.from_json(kept["run"], messages)
    except (KeyError, TypeError, ValueError) as error:
        # Without the words of the error, which quote the conversation.
        logger.warning("the job of run %s cannot be read: %s", job.run_id, type(error).__name__)
        return None
