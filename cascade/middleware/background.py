"""Background work of middleware, in the home loop of the process, and patience with what hangs."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any

from cascade._portal import on_portal, portal_loop
from cascade.ledger.base import current_tags
from cascade.run import Run

logger = logging.getLogger("cascade")

MOST_WAITING = 1_000
"""Work that waits, at most; more is refused. Of so many runs it is known that theirs was begun."""

AT_ONCE = 8
"""Work that is under way at the same time: it must not push requests aside."""

PATIENCE_S = 2.0
"""Seconds that a question waits for a database or a cache of a middleware, at most."""

Work = Callable[[], Coroutine[Any, Any, None]]


def lot(key: str, purpose: str) -> float:
    """A number in [0, 1) that is uniform over keys, and always the same for one of them; draws of
    different purposes are independent."""
    digest = hashlib.blake2b(f"{purpose}\0{key}".encode(), digest_size=7).digest()
    return (int.from_bytes(digest) >> 3) / 2**53


class Background:
    """Work after replies, some of it at once. May be started from any thread and event loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._begun: deque[str] = deque(maxlen=MOST_WAITING)

    @property
    def full(self) -> bool:
        """True if more work would be refused."""
        return len(self._tasks) >= MOST_WAITING

    def start(self, work: Work, run_id: str = "") -> bool:
        """Do it when its turn comes, once for a run, whose last step may be executed again; False
        where too much waits already."""
        if run_id and run_id in self._begun:
            return True
        if self.full:
            return False
        self._begun.append(run_id)
        portal_loop().call_soon_threadsafe(self._begin, work)
        return True

    async def finish(self) -> None:
        """Return once all of it is done."""
        if self._begun:
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
        await asyncio.sleep(0)  # what was started a moment ago begins
        while self._tasks and self._loop is asyncio.get_running_loop():
            await asyncio.wait(self._tasks)


@asynccontextmanager
async def patience(whose: str) -> AsyncIterator[None]:
    """A block that is left with a warning where a ledger or a cache fails in it, or hangs: the
    question can do without."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield
    except Exception as error:  # noqa: BLE001 - a store of the user's raises what it likes
        said = str(error).partition("\n")[0]  # further lines may quote an answer
        logger.warning("%s cannot be used now: %s: %s", whose, type(error).__name__, said)


async def call_user(function: Callable[..., Any], *given: Any) -> Any:
    """Result of a function of the user's, which is called in a thread and may be async."""
    found = await asyncio.to_thread(function, *given)
    return await found if inspect.isawaitable(found) else found


def tags_of(run: Run) -> dict[str, str]:
    """Tags of a run: its own, and those around the call. Background work does not see these."""
    return {**current_tags(), **(run.settings.get("tags") or {})}
