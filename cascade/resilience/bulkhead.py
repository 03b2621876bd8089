"""Places for calls, and a queue for those that find none. For any number of event loops."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from threading import Lock

from cascade._portal import running_loop
from cascade.resilience.settings import Bulkhead

__all__ = ["NoPlaceError", "Places"]


class NoPlaceError(Exception):
    """There is no place for a call; the words say why."""


class _Waiter:
    """A call that waits, in its own event loop."""

    __slots__ = ("future", "granted", "loop", "turned_away")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        self.granted = False
        self.turned_away = False

    def wake(self) -> bool:
        """Tell it that it has a place; False where its loop is no more."""
        try:
            if running_loop() is self.loop:
                self._set()
            else:
                self.loop.call_soon_threadsafe(self._set)
        except RuntimeError:
            return False
        return True

    def _set(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Places:
    """So many calls at the same time, and so many that wait, first come, first served.

    A place is handed to the next one in the queue while the lock is held, so that nobody can get in
    between; one that was cancelled in that moment hands it on.

    Args:
        settings: how many.
    """

    def __init__(self, settings: Bulkhead) -> None:
        self.settings = settings
        self._lock = Lock()
        self._running = 0
        self._queue: OrderedDict[_Waiter, None] = OrderedDict()

    @property
    def running(self) -> int:
        """Calls that have a place."""
        return self._running

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return len(self._queue)

    def take(self) -> bool:
        """Take a place, where one is free."""
        with self._lock:
            if self._running >= self.settings.most:
                return False
            self._running += 1
            return True

    async def wait(self, most_s: float | None = None) -> None:
        """Take a place, or wait for one.

        Args:
            most_s: seconds, if that is less than the settings say.

        Raises:
            NoPlaceError: too many wait already, or none was free in time.
        """
        given = self.settings
        limit_s = given.wait_s if most_s is None else min(most_s, given.wait_s)
        waiter = self._line_up()
        if waiter is None:
            return
        try:
            async with asyncio.timeout(limit_s):
                await waiter.future
        except BaseException as error:
            has_place = self._step_out(waiter)
            if isinstance(error, TimeoutError):
                if has_place:
                    return
                if waiter.turned_away:
                    raise NoPlaceError("those who wait are turned away") from None
                raise NoPlaceError(f"none was free within {limit_s:g} s") from None
            if has_place:
                self.give_back()
            raise
        if waiter.turned_away:
            raise NoPlaceError("those who wait are turned away")

    def turn_away(self) -> None:
        """Let nobody wait any longer: what they wait for has failed."""
        with self._lock:
            waiting = list(self._queue)
            self._queue.clear()
            for waiter in waiting:
                waiter.turned_away = True
        for waiter in waiting:
            waiter.wake()

    def _line_up(self) -> _Waiter | None:
        """The place in the queue; None where a place was free after all."""
        with self._lock:
            if self._running < self.settings.most:
                self._running += 1
                return None
            if len(self._queue) >= self.settings.waiting:
                raise NoPlaceError(f"{len(self._queue)} wait already")
            waiter = _Waiter()
            self._queue[waiter] = None
            return waiter

    def _step_out(self, waiter: _Waiter) -> bool:
        """Leave the queue; returns whether the waiter was given a place in the same moment."""
        with self._lock:
            self._queue.pop(waiter, None)
            return waiter.granted

    def give_back(self) -> None:
        """Give a place to the next who waits, or free it."""
        while True:
            with self._lock:
                if not self._queue:
                    self._running -= 1
                    return
                waiter, _ = self._queue.popitem(last=False)
                waiter.granted = True
            if waiter.wake():
                return
            with self._lock:
                waiter.granted = False
