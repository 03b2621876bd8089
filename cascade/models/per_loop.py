"""HTTP clients belong to the event loop that opened their sockets: one client per loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class PerLoop(Generic[T]):
    """Something that is made once per running event loop and closed with it.

    Args:
        make: makes one, inside the loop.
        close: closes one, inside the same loop.
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[object]]) -> None:
        self._make = make
        self._close = close
        self._kept: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None]]] = (
            WeakKeyDictionary()
        )
        self._lock = threading.Lock()

    async def get(self) -> T:
        """The one of the running loop."""
        loop = asyncio.get_running_loop()
        kept = self._kept.get(loop)
        if kept is not None:
            return kept[0]
        value = self._make()
        # A loop closes its open async generators before it ends (asyncio.run does). So one that
        # waits inside try/finally closes the client in time, also when nobody calls aclose().
        guardian = _guardian(value, self._close)
        with self._lock:
            for old in [old for old in self._kept if old.is_closed()]:
                del self._kept[old]
            self._kept[loop] = (value, guardian)
        await anext(guardian)
        return value

    async def aclose(self) -> None:
        """Close what was made, in whatever loop it lives."""
        with self._lock:
            kept = list(self._kept.items())
            self._kept.clear()
        for loop, (_, guardian) in kept:
            await _close_in(loop, guardian)


async def _guardian(value: T, close: Callable[[T], Awaitable[object]]) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await close(value)


async def _close_in(loop: asyncio.AbstractEventLoop, guardian: AsyncGenerator[None]) -> None:
    if loop is asyncio.get_running_loop():
        await guardian.aclose()
    elif loop.is_running():
        # The other loop may end meanwhile; it then closes the generator itself.
        with contextlib.suppress(RuntimeError):
            closing = asyncio.run_coroutine_threadsafe(guardian.aclose(), loop)
            await asyncio.wrap_future(closing)
