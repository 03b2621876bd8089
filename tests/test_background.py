"""Work after the reply: done for sure, in bounds, and belonging to nobody's request."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import pytest

from cascade._background import Background
from cascade._portal import run_sync

whose: ContextVar[str] = ContextVar("whose", default="nobody")


def held(background: Background) -> threading.Event:
    """Keeps one piece of work going until the event is set."""
    free, going = threading.Event(), threading.Event()

    async def work() -> None:
        going.set()
        await asyncio.to_thread(free.wait)

    assert background.start(work)
    assert going.wait(5)
    return free


def adding(done: list[int], number: int) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        done.append(number)

    return work


def test_work_is_done_in_order_without_anybody_waiting() -> None:
    background, done = Background(concurrency=1), list[int]()
    for i in range(100):
        assert background.start(adding(done, i))
    assert background.wait(5)
    assert done == list(range(100))
    assert background.outstanding == 0


def test_no_more_is_under_way_at_once_than_allowed() -> None:
    background, under_way, most = Background(concurrency=3), 0, 0

    async def work() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.002)
        under_way -= 1

    for _ in range(30):
        background.start(work)
    assert background.wait(5)
    assert most == 3


def test_what_comes_on_top_of_a_full_queue_is_refused_and_the_rest_is_done() -> None:
    background, done = Background(concurrency=1, most_waiting=2), list[int]()
    free = held(background)
    assert [background.start(adding(done, i)) for i in range(4)] == [True, True, False, False]
    assert background.outstanding == 3
    free.set()
    assert background.wait(5)
    assert done == [0, 1]
    assert background.start(adding(done, 5))
    assert background.wait(5)
    assert done == [0, 1, 5]


def test_a_failure_is_logged_and_stops_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    background, done = Background(concurrency=1), list[int]()

    async def fails() -> None:
        raise ValueError("the judge is ill")

    background.start(fails)
    background.start(adding(done, 1))
    assert background.wait(5)
    assert done == [1]
    assert "the judge is ill" in caplog.text
    assert caplog.records[0].levelno == logging.ERROR


def test_cancelled_work_does_not_take_its_worker_along() -> None:
    background, done = Background(concurrency=1), list[int]()

    async def cancelled() -> None:
        raise asyncio.CancelledError

    background.start(cancelled)
    background.start(adding(done, 1))
    assert background.wait(5)
    assert done == [1]


def test_work_belongs_to_no_request() -> None:
    background, seen = Background(), list[str]()

    async def work() -> None:
        seen.append(whose.get())

    whose.set("the caller's")
    background.start(work)
    assert background.wait(5)
    assert seen == ["nobody"]


def test_waiting_ends_when_its_time_is_over() -> None:
    background = Background()
    free = held(background)
    assert not background.wait(0.01)
    free.set()
    assert background.wait(5)


async def test_finishing_holds_up_no_event_loop() -> None:
    background = Background()
    assert await background.finish()
    free = held(background)
    finishing = asyncio.create_task(background.finish(5))
    began = time.monotonic()
    await asyncio.sleep(0.02)
    assert time.monotonic() - began < 2
    assert not finishing.done()
    free.set()
    assert await finishing


def test_many_may_wait_for_work_that_needs_a_thread() -> None:
    background = Background()

    async def work() -> None:
        await asyncio.sleep(0.05)
        await asyncio.to_thread(time.sleep, 0)

    async def everybody() -> list[bool]:
        background.start(work)
        return await asyncio.gather(*(background.finish(5) for _ in range(40)))

    assert all(run_sync(everybody()))


async def test_finishing_ends_when_its_time_is_over() -> None:
    background = Background()
    free = held(background)
    assert not await background.finish(0.01)
    free.set()
    assert await background.finish(5)


async def test_work_may_start_more_work() -> None:
    background, done = Background(concurrency=1), list[int]()

    async def first() -> None:
        background.start(adding(done, 2))
        done.append(1)

    background.start(first)
    assert await background.finish(5)
    assert done == [1, 2]


def test_many_threads_may_start_work() -> None:
    background, done = Background(most_waiting=10_000), list[int]()
    threads = [
        threading.Thread(target=lambda: [background.start(adding(done, i)) for i in range(200)])
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert background.wait(10)
    assert sorted(done) == sorted([*range(200)] * 5)
