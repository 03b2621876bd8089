"""Background work of middleware: after the reply, in the home loop of the process, since the
caller's may end with the reply."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from contextvars import Context
from threading import Lock
from typing import Any

from cascade._portal import on_portal, portal_loop, running_loop
from cascade.ledger.base import current_tags
from cascade.run import Kernel, Run

logger = logging.getLogger("cascade")

MOST_WAITING = 1_000
"""Work that waits, at most; more is refused."""

AT_ONCE = 8
"""Work that is under way at the same time: it must not push requests aside."""

REMEMBERED = 10_000
"""Runs whose work was begun: a step that is executed again begins none twice."""

Work = Callable[[], Coroutine[Any, Any, None]]


def lot(key: str, purpose: str) -> float:
    """A number in [0, 1) that is uniform over keys, and always the same for one of them; draws of
    different purposes are independent."""
    digest = hashlib.blake2b(f"{purpose}\0{key}".encode(), digest_size=7).digest()
    return (int.from_bytes(digest) >> 3) / 2**53


class Background:
    """Work after replies, some of it at once. May be started from any thread and event loop."""

    def __init__(self) -> None:
        self._used = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(AT_ONCE)
        self._begun: OrderedDict[str, None] = OrderedDict()
        self._lock = Lock()

    @property
    def full(self) -> bool:
        """True if more work would be refused."""
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

    def start_once(self, run_id: str, work: Work) -> bool:
        """`start`, unless the work of this run was begun before."""
        with self._lock:
            if run_id in self._begun:
                return True
            self._begun[run_id] = None
            if len(self._begun) > REMEMBERED:
                self._begun.popitem(last=False)
        started = self.start(work)
        if not started:
            self._begun.pop(run_id, None)
        return started

    async def finish(self) -> None:
        """Return once all of it is done."""
        if self._used:
            await on_portal(self._finish())

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

    async def _finish(self) -> None:
        while self._tasks and self._loop is asyncio.get_running_loop():
            await asyncio.wait(self._tasks)


async def call_user(function: Callable[..., Any], *given: Any) -> Any:
    """Result of a function of the user's, which is called in a thread and may be async."""
    found = await asyncio.to_thread(function, *given)
    return await found if inspect.isawaitable(found) else found


def tags_of(run: Run) -> dict[str, str]:
    """Tags of a run: its own, and those around the call. Background work does not see these."""
    return {**current_tags(), **(run.settings.get("tags") or {})}


def fingerprint(kernel: Kernel) -> str:
    """Identity of a cascade beside others that share its store: by its name and models."""
    told = [kernel.parts.name, *((tier.name, tier.model.name) for tier in kernel.tiers)]
    return hashlib.blake2b(repr(told).encode(), digest_size=4).hexdigest()
