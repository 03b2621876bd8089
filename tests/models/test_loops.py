"""Event loops: several of them, closing from any of them, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import pytest

from cascade._portal import iterate_here, on_portal, portal_loop, run_sync
from cascade.models import Model
from tests.acceptance.upstream import Upstream
from tests.models.asking import ask


@contextmanager
def loop_elsewhere() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()

    def run() -> None:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


# Closing


async def test_connections_of_other_loops_are_closed_there_and_not_waited_for(
    model: Model, server: Upstream
) -> None:
    with loop_elsewhere() as other:
        await asyncio.to_thread(asyncio.run_coroutine_threadsafe(ask(model), other).result)
        await model.aclose()
        await server.has_closed_connections()
    await ask(model)
    run_sync(model.aclose())  # holds up this loop, in which the connections are
    await server.has_closed_connections()


async def test_connections_of_a_model_that_is_dropped_are_closed(
    opened: Callable[[str], Model], server: Upstream
) -> None:
    await ask(opened("openai"))
    gc.collect()
    await server.has_closed_connections()


async def test_loops_of_other_threads_may_come_and_go_meanwhile(
    openai_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere() -> None:
        thread = threading.Thread(target=lambda: asyncio.run(ask(openai_model)))
        thread.start()
        thread.join()

    closed, came = asyncio.SelectorEventLoop.is_closed, threading.Event()

    def is_closed(loop: asyncio.SelectorEventLoop) -> bool:
        if closed(loop) and not came.is_set():
            came.set()
            elsewhere()
        return closed(loop)

    elsewhere()
    monkeypatch.setattr(asyncio.SelectorEventLoop, "is_closed", is_closed)
    await ask(openai_model)
    assert came.is_set()


# A home for clients of others


async def test_a_stream_is_read_and_closed_on_the_background_loop() -> None:
    closed_on = SimpleQueue[asyncio.AbstractEventLoop]()

    async def numbers() -> AsyncGenerator[int]:
        try:
            for number in range(1000):
                yield number
        finally:
            closed_on.put(asyncio.get_running_loop())

    reading = iterate_here(numbers())
    assert [await anext(reading) for _ in range(3)] == [0, 1, 2]
    await reading.aclose()
    assert await asyncio.to_thread(closed_on.get, timeout=300) is portal_loop()


async def test_a_caller_that_is_cancelled_goes_on_once_its_work_has_ended() -> None:
    """What it has spent is in the ledger then."""
    booked: list[int] = []
    begun = threading.Event()

    async def spend() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            time.sleep(0.05)  # noqa: ASYNC251 - the background loop is busy
            booked.append(1)

    asking = asyncio.create_task(on_portal(spend()))
    await asyncio.to_thread(begun.wait)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert booked == [1]
