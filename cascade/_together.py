"""Coroutines that leave nothing behind: no call that runs on, no context variable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterable
from contextvars import Context
from threading import Lock
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

LOOK_S = 0.001
"""How often to look whether another has done."""


async def together(coroutines: Iterable[Awaitable[T]]) -> list[T]:
    """Their results, in order.

    The first failure cancels the others and is raised when they have ended. `asyncio.gather`
    would let them run on: calls that cost money, and of which nobody would hear.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def iterate_in(context: Context, items: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """The items of a generator that computes them in a context of its own.

    A generator shares the context of whoever takes its items: what it sets would be seen, and
    undone, by another. Closing this closes it.
    """
    loop = asyncio.get_running_loop()

    async def step() -> list[T]:
        async for item in items:
            return [item]
        return []

    async def close() -> None:
        await items.aclose()

    try:
        while got := await loop.create_task(step(), context=context):
            yield got[0]
    finally:
        await loop.create_task(close(), context=context)


class OneAtATime:
    """`async with` for what only one may do at a time, whichever event loop it is in.

    `asyncio.Lock` belongs to the loop that first waits for it. Whoever has to wait here looks again
    every millisecond: it is for what takes little longer than that.
    """

    def __init__(self) -> None:
        self._held = Lock()

    async def __aenter__(self) -> None:
        while not self._held.acquire(blocking=False):  # noqa: ASYNC110 - held in another loop
            await asyncio.sleep(LOOK_S)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held.release()
