"""The synchronous edge: one background event loop per process, on which sync callers wait.

A persistent loop keeps connection pools warm between calls, and being another thread's it also
serves callers that are inside a running loop themselves.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import CancelledError, Future, wait
from contextlib import aclosing, suppress
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LAST_WORDS_S = 2.0
"""Seconds that an interrupted caller waits for the work that it has cancelled, which closes its
connection and books what was spent in milliseconds."""


class Portal:
    """Background thread with an event loop, for one process; begun by its first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread()  # one that never lives, until the first call

    def loop(self, *, waits: bool = True) -> asyncio.AbstractEventLoop:
        """The background loop.

        Raises:
            RuntimeError: a caller that `waits` is in the loop itself, and would wait for itself; or
                the interpreter ends, and what is thrown away then can begin no thread any more.
        """
        with self._lock:
            if waits and self.is_here():
                raise RuntimeError(
                    "a synchronous call of the cascade was made from inside one of its own "
                    "coroutines (a verifier, router or tool): use the async form there (ainvoke)."
                )
            # After a fork the thread is gone, though the object is still there.
            if not self._thread.is_alive():
                if sys.is_finalizing():  # before Python 3.12 it would hang
                    raise RuntimeError("the interpreter ends: no thread can begin any more.")
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop,), name="cascade-portal", daemon=True
                )
                self._thread.start()
            return self._loop

    def is_here(self) -> bool:
        """True if this is the thread of the background loop."""
        return threading.current_thread() is self._thread


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    while not loop.is_closed():
        # An interrupt belongs to the call that raised it and reaches that caller; others go on.
        with suppress(KeyboardInterrupt, SystemExit):
            loop.run_forever()


_portal = Portal()


def portal_loop() -> asyncio.AbstractEventLoop:
    """The background loop, for work without a waiting caller; the loop itself may ask for it."""
    return _portal.loop(waits=False)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop in which this is called; None outside of any."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop and wait for it.

    The caller's context variables (callbacks, tracing) go with it. An interrupt of the waiting
    thread cancels the coroutine, and goes on once that has ended.
    """
    work = _Work(coroutine, waits=True)
    try:
        return work.ended.result()
    finally:
        work.stop()


def synchronous(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """A coroutine method for synchronous callers, also inside a running event loop."""

    @wraps(method)
    def waited_for(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_sync(method(*args, **kwargs))

    return _renamed(waited_for)


def iterated(method: Callable[P, AsyncGenerator[T]]) -> Callable[P, Generator[T]]:
    """The same of a method that generates, which is closed with the iterator."""

    @wraps(method)
    def iterate(*args: P.args, **kwargs: P.kwargs) -> Generator[T]:
        arrived: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()
        pumping = _Work(_pump(method(*args, **kwargs), arrived.put), waits=True)
        try:
            while (arrival := arrived.get()) is not None:
                if isinstance(arrival, BaseException):
                    raise arrival
                yield arrival[0]
        finally:
            pumping.stop()

    return _renamed(iterate)


def _renamed(method: Callable[P, T]) -> Callable[P, T]:
    """Else help, traces and error messages would call `invoke` `ainvoke`."""
    name, method.__name__ = method.__name__, method.__name__.removeprefix("a")
    method.__qualname__ = method.__qualname__.replace(name, method.__name__)
    return method


async def on_portal(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop and wait for it in the loop of the caller.

    For what belongs to one loop, such as connections, and is asked for in many. A caller that is
    cancelled goes on once the coroutine has ended, which may still have to book what it has spent.
    """
    if _portal.is_here():
        return await coroutine
    work = _Work(coroutine)
    ended = asyncio.wrap_future(work.ended)
    try:
        return await asyncio.shield(ended)
    except asyncio.CancelledError:
        work.cancel()
        await asyncio.wait([ended], timeout=LAST_WORDS_S)
        ended.cancel()  # the loop of the caller may close before the work ends
        raise


class _Work(Generic[T]):
    """A coroutine under way on the background loop, in a copy of the caller's context; `ended` once
    it has ended, also if cancelled."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], *, waits: bool = False) -> None:
        self.ended: Future[T] = Future()
        self.ended.set_running_or_notify_cancel()  # only the coroutine's end ends it
        try:
            self._loop = _portal.loop(waits=waits)
        except RuntimeError:
            coroutine.close()
            raise
        self._task: asyncio.Task[T]
        self._loop.call_soon_threadsafe(self._begin, coroutine)

    def cancel(self) -> None:
        """Cancel the coroutine, if it has not ended."""
        self._loop.call_soon_threadsafe(self._cancel)

    def stop(self) -> None:
        """Cancel the coroutine, if it has not ended, and let it end."""
        if not self.ended.done():
            self.cancel()
            if not _portal.is_here():
                wait([self.ended], LAST_WORDS_S)

    def _begin(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._task = self._loop.create_task(coroutine)
        self._task.add_done_callback(self._end)

    def _cancel(self) -> None:
        self._task.cancel()

    def _end(self, task: asyncio.Task[T]) -> None:
        error = CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self.ended.set_result(task.result())
        else:
            self.ended.set_exception(error)


async def iterate_here(items: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """Iterate a generator of the background loop in any other; closing this closes it there."""
    here = asyncio.get_running_loop()
    arrived: asyncio.Queue[tuple[T] | BaseException | None] = asyncio.Queue()

    def tell(arrival: tuple[T] | BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop of the reader is closed
            here.call_soon_threadsafe(arrived.put_nowait, arrival)

    pumping = _Work(_pump(items, tell))
    try:
        while (arrival := await arrived.get()) is not None:
            if isinstance(arrival, BaseException):
                raise arrival
            yield arrival[0]
    finally:
        pumping.cancel()


async def _pump(
    items: AsyncGenerator[T], tell: Callable[[tuple[T] | BaseException | None], object]
) -> None:
    """Hand over each item, and then the error with which it ended, or None."""
    end: BaseException | None = None
    try:
        async with aclosing(items):
            async for item in items:
                tell((item,))
    except BaseException as error:  # noqa: BLE001 - it belongs to the reader
        end = error
    tell(end)
