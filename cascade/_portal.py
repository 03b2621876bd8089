"""The synchronous edge: one background event loop per process, on which sync callers wait.

A persistent loop keeps connection pools warm between calls, and being another thread's it also
serves callers that are inside a running loop themselves.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import queue
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class _Portal:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid: int | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            # After a fork the thread is gone though the object is still there.
            if self._loop is None or self._pid != os.getpid():
                self._loop = asyncio.new_event_loop()
                self._pid = os.getpid()
                threading.Thread(
                    target=self._loop.run_forever, name="cascade-portal", daemon=True
                ).start()
            return self._loop


_portal = _Portal()


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop and wait for it.

    The caller's context variables (callbacks, tracing) go with it. An interrupt of the waiting
    thread cancels the coroutine.

    Raises:
        RuntimeError: called from the background loop itself, which would wait for itself.
    """
    loop = _portal.loop()
    if threading.current_thread().name == "cascade-portal":
        coroutine.close()
        raise RuntimeError(
            "a synchronous call of the cascade was made from inside one of its own coroutines "
            "(a verifier, router or tool): use the async form there (ainvoke)."
        )
    context = contextvars.copy_context()

    async def in_context() -> T:
        return await asyncio.get_running_loop().create_task(coroutine, context=context)

    future = asyncio.run_coroutine_threadsafe(in_context(), loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def iterate_sync(items: AsyncGenerator[T]) -> Generator[T]:
    """Iterate an asynchronous generator on the background loop; closing this closes it."""
    arrived: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    async def pump() -> None:
        try:
            async for item in items:
                arrived.put((True, item))
        except Exception as error:  # noqa: BLE001 - handed to the waiting thread
            arrived.put((False, error))
        else:
            arrived.put((False, None))
        finally:
            await items.aclose()

    future = asyncio.run_coroutine_threadsafe(pump(), _portal.loop())
    try:
        while True:
            more, item = arrived.get()
            if more:
                yield item
            elif item is None:
                return
            else:
                raise item
    finally:
        future.cancel()
