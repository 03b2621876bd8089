"""Event loops: connections belong to the one that opened them.

A pool of connections of our own is made once for each loop. A client whose inside is not known,
such as LangChain's, has one home: the background loop, on which callers of all loops wait.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from cascade._portal import portal_loop

T = TypeVar("T")

DELAY_S = 1.0
"""How long after its owner a forgotten pool is closed. A loop that ends sooner closes it itself,
and would be ended in the midst of a task that closes it."""


class PerLoop:
    """One pool of connections for each event loop, made in it and closed in it.

    Args:
        make: makes one, inside the loop. It must not know the owner of this, which would never be
            forgotten then. `aclose` of a pool closes it, inside its loop; `abandon` sees to it that
            nothing is printed when it is collected, from any thread.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._kept: dict[asyncio.AbstractEventLoop, tuple[Any, weakref.finalize[Any, Any]]] = {}

    async def get(self) -> Any:
        """The pool of the running loop."""
        loop = asyncio.get_running_loop()
        kept = self._kept.get(loop)
        if kept is None:
            for other in [other for other in list(self._kept) if other.is_closed()]:
                self._kept.pop(other)[1]()
            pool = self._make()
            guardian = _guard(pool)
            await anext(guardian)
            kept = self._kept[loop] = pool, weakref.finalize(self, _forget, loop, pool, guardian)
        return kept[0]

    async def aclose(self) -> None:
        """Close all pools. Those of other loops are closed there, and not waited for: such a loop
        may be held up by the very caller of this."""
        all_kept, self._kept = self._kept, {}
        pool, forgetting = all_kept.pop(asyncio.get_running_loop(), (None, None))
        for _, forget in all_kept.values():
            forget()
        if pool is not None and forgetting is not None:
            forgetting.detach()
            await pool.aclose()


async def _guard(pool: Any) -> AsyncGenerator[None]:
    """Closes its pool when it is closed: a loop does that before it ends (`asyncio.run`)."""
    try:
        yield
    finally:
        await pool.aclose()


def _forget(loop: asyncio.AbstractEventLoop, pool: Any, guardian: AsyncGenerator[None]) -> None:
    """The owner of a pool was collected or closed, or the process ends."""
    pool.abandon()
    if loop.is_running():
        with suppress(RuntimeError):  # it was closed this moment
            loop.call_soon_threadsafe(loop.call_later, DELAY_S, _close_soon, guardian)


_closing: set[asyncio.Task[None]] = set()


def _close_soon(guardian: AsyncGenerator[None]) -> None:
    async def close() -> None:
        with suppress(RuntimeError):  # the loop is ending, and closes the generator itself
            await guardian.aclose()

    task = asyncio.get_running_loop().create_task(close())
    _closing.add(task)
    task.add_done_callback(_closing.discard)


async def stream_at_home(items: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """Read a generator on the background loop, from any loop; closing this closes it there."""
    here, home = asyncio.get_running_loop(), portal_loop()
    arrived: asyncio.Queue[tuple[T] | BaseException | None] = asyncio.Queue()

    def tell(item: tuple[T] | BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop of the reader is closed
            here.call_soon_threadsafe(arrived.put_nowait, item)

    async def pump() -> None:
        try:
            async with aclosing(items):
                async for item in items:
                    tell((item,))
        except BaseException as error:
            tell(error)
            raise
        tell(None)

    pumping = asyncio.run_coroutine_threadsafe(pump(), home)
    try:
        while (arrival := await arrived.get()) is not None:
            if isinstance(arrival, BaseException):
                raise arrival
            yield arrival[0]
    finally:
        pumping.cancel()
