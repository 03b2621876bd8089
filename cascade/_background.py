"""Work that is done after the reply: on the background loop, so that no caller waits for it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar

from cascade._portal import portal_loop, running_loop

MOST_WAITING = 1_000
"""Pieces of work that may wait; what comes on top is refused, and its caller says so."""

LOOK_S = 0.005
"""How often to look whether all is done."""

logger = logging.getLogger("cascade")

Work = Callable[[], Awaitable[None]]

_reply_loop: ContextVar[asyncio.AbstractEventLoop | None] = ContextVar("reply_loop", default=None)


def reply_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of the reply after which this is done; None outside of such work."""
    return _reply_loop.get()


class Background:
    """A bounded queue of work that goes on while callers have their replies.

    Work runs in an empty context: it belongs to no request, and no callback or collected ledger
    of one sees it.

    Args:
        concurrency: pieces under way at once.
        most_waiting: pieces that may wait.
    """

    def __init__(self, concurrency: int = 4, most_waiting: int = MOST_WAITING) -> None:
        self._concurrency = concurrency
        self._most_waiting = most_waiting
        self._open = 0
        self._running = 0
        self._waiting: list[tuple[Work, asyncio.AbstractEventLoop | None]] = []
        self._changed = threading.Condition()

    @property
    def outstanding(self) -> int:
        """Pieces of work that are not done yet."""
        return self._open

    def start(self, work: Work) -> bool:
        """Do this later; False where too much is waiting already, and it will not be done."""
        begun_on = _reply_loop.get() or running_loop()
        with self._changed:
            if len(self._waiting) >= self._most_waiting:
                return False
            self._open += 1
            self._waiting.append((work, begun_on))
            if self._running >= self._concurrency:
                return True
            self._running += 1
        loop = portal_loop()
        loop.call_soon_threadsafe(lambda: _keep(loop.create_task(self._work())), context=Context())
        return True

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait in this thread until all is done; False when the time was over first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._open == 0, timeout_s)

    async def finish(self, timeout_s: float | None = None) -> bool:
        """`wait`, without holding up the event loop.

        It takes no thread either: the work itself may need one of the few that a loop has.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while self._open:
            if until is not None and time.monotonic() >= until:
                return False
            await asyncio.sleep(LOOK_S)
        return True

    async def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._running -= 1
                    return
                work, begun_on = self._waiting.pop(0)
            _reply_loop.set(begun_on)
            try:
                await work()
            except (Exception, asyncio.CancelledError):
                # A piece that was cancelled, by a time limit of its own for instance, must not
                # take the worker along: nobody would do what waits.
                logger.exception("work after a reply failed")
            finally:
                with self._changed:
                    self._open -= 1
                    self._changed.notify_all()


_tasks: set[asyncio.Task[None]] = set()


def _keep(task: asyncio.Task[None]) -> None:
    """The loop itself holds tasks only weakly."""
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
