"""Places for calls: never more than there are, none is lost, first come, first served."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from turning import until

from cascade.resilience.bulkhead import NoPlaceError, Places
from cascade.resilience.settings import Bulkhead


def full(waiting: int = 10, wait_s: float = 30) -> Places:
    """Places that are all taken."""
    places = Places(Bulkhead(most=1, waiting=waiting, wait_s=wait_s))
    assert places.take()
    return places


async def in_line(places: Places, n: int, most_s: float | None = None) -> list[asyncio.Task[None]]:
    """Calls that wait, one behind the other."""
    tasks = []
    for _ in range(n):
        tasks.append(asyncio.create_task(places.wait(most_s)))
        await until(lambda: places.waiting == len(tasks))
    return tasks


async def test_so_many_calls_find_a_place_and_no_more() -> None:
    places = Places(Bulkhead(most=3))
    assert [places.take() for _ in range(4)] == [True, True, True, False]
    places.give_back()
    assert places.take()
    assert places.running == 3


async def test_who_waits_gets_the_place_that_is_given_back() -> None:
    places = full()
    first, second = await in_line(places, 2)
    places.give_back()
    await first
    assert not second.done()
    assert (places.running, places.waiting) == (1, 1)
    assert not places.take(), "nobody gets in before who waits"
    places.give_back()
    await second
    places.give_back()
    assert (places.running, places.waiting) == (0, 0)


async def test_a_place_that_is_free_by_then_is_taken_without_a_wait() -> None:
    places = Places(Bulkhead(most=1))
    await places.wait()
    assert (places.running, places.waiting) == (1, 0)


async def test_one_more_than_may_wait_fails_at_once() -> None:
    places = full(waiting=2)
    waiting = await in_line(places, 2)
    with pytest.raises(NoPlaceError, match="2 wait already"):
        await places.wait()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert (places.running, places.waiting) == (1, 0)


async def test_who_has_waited_long_enough_leaves_the_queue() -> None:
    places = full(wait_s=0.01)
    with pytest.raises(NoPlaceError, match=r"none was free within 0\.01 s"):
        await places.wait()
    assert (places.running, places.waiting) == (1, 0)


async def test_a_deadline_may_leave_less_time_to_wait() -> None:
    with pytest.raises(NoPlaceError, match="within 0 s"):
        await full().wait(0)


async def test_who_is_cancelled_leaves_the_queue() -> None:
    places = full()
    first, second = await in_line(places, 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    places.give_back()
    await second
    assert (places.running, places.waiting) == (1, 0)


async def test_a_place_given_to_who_is_cancelled_in_the_same_moment_goes_to_the_next() -> None:
    places = full()
    first, second = await in_line(places, 2)
    places.give_back()
    first.cancel()  # it was woken, and has not run yet
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    places.give_back()
    assert (places.running, places.waiting) == (0, 0)


async def test_a_place_given_as_the_time_is_over_is_a_place() -> None:
    places = full(wait_s=0.001)
    (task,) = await in_line(places, 1)
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + 0.02
    while loop.time() < ends_at:  # its time passes while the loop cannot tell it
        pass
    places.give_back()
    await task
    assert places.running == 1


async def test_all_who_wait_can_be_turned_away() -> None:
    places = full()
    waiting = await in_line(places, 3)
    places.turn_away()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert {str(error) for error in found} == {"those who wait are turned away"}
    assert (places.running, places.waiting) == (1, 0)
    places.give_back()
    assert places.running == 0


def test_a_place_is_not_given_to_an_event_loop_that_is_no_more() -> None:
    places = full()
    loop = asyncio.new_event_loop()
    lost = loop.create_task(places.wait())
    loop.run_until_complete(asyncio.sleep(0))
    assert places.waiting == 1

    async def go_on() -> None:
        (task,) = [asyncio.create_task(places.wait())]
        await until(lambda: places.waiting == 2)
        loop.close()
        places.give_back()
        await task

    asyncio.run(go_on())
    lost._log_destroy_pending = False  # type: ignore[attr-defined] - it is lost on purpose
    assert (places.running, places.waiting) == (1, 0)


def test_event_loops_in_many_threads_share_the_places() -> None:
    places, lock, most = Places(Bulkhead(most=3)), threading.Lock(), 0
    inside = 0

    async def call() -> None:
        nonlocal inside, most
        if not places.take():
            await places.wait()
        with lock:
            inside += 1
            most = max(most, inside)
        await asyncio.sleep(0)
        with lock:
            inside -= 1
        places.give_back()

    async def calls() -> None:
        await asyncio.gather(*(call() for _ in range(50)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: asyncio.run(calls()), range(8)))
    assert most <= 3
    assert (places.running, places.waiting) == (0, 0)
