"""The circuit breaker: when it opens, how long for, and that one call at a time tries again."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from turning import Clock

from cascade.resilience.breaking import BreakerState, CircuitBreaker
from cascade.resilience.settings import Breaker

LASTS_S = 60.0


class Watched:
    """A breaker with a clock, and what it has told."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.told: list[tuple[BreakerState, str]] = []
        self.breaker = CircuitBreaker(
            Breaker(**settings), self.clock, lambda *told: self.told.append(told)
        )

    def call(self, *, failed: bool | None) -> bool:
        """One call; returns whether it was let through."""
        ticket = self.breaker.enter(LASTS_S)
        if ticket is not None:
            self.breaker.leave(ticket, failed=failed)
        return ticket is not None

    def fail(self, times: int) -> None:
        for _ in range(times):
            assert self.call(failed=True)


def test_failures_in_a_row_open_it() -> None:
    watched = Watched(in_a_row=3)
    watched.fail(2)
    assert watched.breaker.state == "closed"
    watched.fail(1)
    assert watched.breaker.state == "open"
    assert not watched.call(failed=False)
    assert watched.told == [
        ("open", "3 calls have failed one after the other; it is tried again in 2 s")
    ]


def test_a_success_begins_the_row_anew() -> None:
    watched = Watched(in_a_row=3, rate=None)
    for _ in range(10):
        watched.fail(2)
        assert watched.call(failed=False)
    assert watched.breaker.state == "closed"


def test_what_says_nothing_about_the_server_counts_for_nothing() -> None:
    watched = Watched(in_a_row=2)
    watched.fail(1)
    for _ in range(10):
        assert watched.call(failed=None)
    assert watched.breaker.state == "closed"
    watched.fail(1)
    assert watched.breaker.state == "open"


def test_a_share_of_failures_opens_it_once_there_are_calls_enough() -> None:
    watched = Watched(in_a_row=None, rate=0.5, least_calls=10)
    for _ in range(4):
        watched.fail(1)
        watched.call(failed=False)
    watched.fail(1)
    assert watched.breaker.state == "closed"  # five of nine
    watched.fail(1)
    assert watched.breaker.state == "open"
    assert watched.told[0][1].startswith("6 of 10 calls have failed")


def test_what_is_older_than_the_window_is_forgotten() -> None:
    watched = Watched(in_a_row=None, rate=0.5, least_calls=4, window_s=10)
    watched.fail(3)
    watched.clock.now += 11
    watched.fail(3)
    assert watched.breaker.state == "closed"
    watched.clock.now += 5
    watched.fail(1)
    assert watched.breaker.state == "open"


def test_while_it_is_open_it_says_when_it_may_be_asked_again() -> None:
    watched = Watched(in_a_row=1, open_s=4)
    assert watched.breaker.ready_in_s == 0
    watched.fail(1)
    watched.clock.now += 1
    assert watched.breaker.ready_in_s == pytest.approx(3)
    assert watched.breaker.is_shut()
    watched.clock.now += 3
    assert watched.breaker.ready_in_s == 0
    assert not watched.breaker.is_shut()
    assert watched.breaker.state == "open"  # until somebody asks


def test_one_call_alone_tries_the_server() -> None:
    watched = Watched(in_a_row=1, open_s=1)
    watched.fail(1)
    watched.clock.now += 1
    ticket = watched.breaker.enter(LASTS_S)
    assert ticket is not None
    assert watched.breaker.state == "half_open"
    assert watched.breaker.ready_in_s is None
    assert watched.breaker.is_shut()
    assert watched.breaker.enter(LASTS_S) is None
    watched.breaker.leave(ticket, failed=False)
    assert watched.breaker.state == "closed"
    assert watched.call(failed=False)
    assert [state for state, _ in watched.told] == ["open", "half_open", "closed"]


def test_it_stays_open_for_longer_with_each_call_that_fails_to_try_it() -> None:
    watched = Watched(in_a_row=1, open_s=2, growth=2, most_open_s=10)
    watched.fail(1)
    waits = []
    for _ in range(5):
        waits.append(watched.breaker.ready_in_s)
        watched.clock.now += waits[-1] or 0
        watched.fail(1)
    assert waits == pytest.approx([2, 4, 8, 10, 10])


def test_a_server_that_falls_out_again_soon_is_left_alone_for_as_long_as_before() -> None:
    watched = Watched(in_a_row=1, open_s=2, window_s=30)
    watched.fail(1)
    watched.clock.now += 2
    assert watched.call(failed=False)
    watched.clock.now += 5
    watched.fail(1)
    assert watched.breaker.ready_in_s == pytest.approx(4)


def test_a_server_that_was_well_for_long_is_left_alone_as_the_first_time() -> None:
    watched = Watched(in_a_row=1, open_s=2, window_s=30)
    watched.fail(1)
    watched.clock.now += 2
    assert watched.call(failed=False)
    watched.clock.now += 31
    watched.fail(1)
    assert watched.breaker.ready_in_s == pytest.approx(2)


def test_failures_before_the_outage_do_not_count_after_it() -> None:
    watched = Watched(in_a_row=3, rate=0.5, least_calls=4, open_s=1)
    watched.fail(3)
    watched.clock.now += 1
    assert watched.call(failed=False)
    watched.fail(2)
    assert watched.breaker.state == "closed"


def test_a_cancelled_call_that_tried_it_leaves_the_try_to_the_next() -> None:
    watched = Watched(in_a_row=1, open_s=1)
    watched.fail(1)
    watched.clock.now += 1
    assert watched.call(failed=None)
    assert watched.breaker.state == "half_open"
    assert watched.call(failed=False)
    assert watched.breaker.state == "closed"


def test_a_call_that_tried_it_and_was_lost_is_followed_by_another() -> None:
    watched = Watched(in_a_row=1, open_s=1)
    watched.fail(1)
    watched.clock.now += 1
    lost = watched.breaker.enter(LASTS_S)
    assert lost is not None
    watched.clock.now += LASTS_S
    other = watched.breaker.enter(LASTS_S)
    assert other is not None
    watched.breaker.leave(lost, failed=True)  # nobody waits for it any more
    assert watched.breaker.state == "half_open"
    watched.breaker.leave(other, failed=False)
    assert watched.breaker.state == "closed"


def test_a_call_that_tried_it_and_took_long_shows_that_the_server_is_well_all_the_same() -> None:
    watched = Watched(in_a_row=1, open_s=1)
    watched.fail(1)
    watched.clock.now += 1
    slow = watched.breaker.enter(LASTS_S)
    watched.clock.now += LASTS_S
    other = watched.breaker.enter(LASTS_S)
    assert slow is not None
    assert other is not None
    watched.breaker.leave(slow, failed=False)
    assert watched.breaker.state == "closed"
    watched.breaker.leave(other, failed=True)
    assert watched.breaker.state == "closed"


def test_calls_from_before_the_outage_say_nothing_after_it() -> None:
    watched = Watched(in_a_row=2, open_s=1)
    old = [watched.breaker.enter(LASTS_S) for _ in range(10)]
    watched.fail(2)
    for ticket in old[:5]:
        assert ticket is not None
        watched.breaker.leave(ticket, failed=False)
    assert watched.breaker.state == "open"
    watched.clock.now += 1
    assert watched.call(failed=False)
    for ticket in old[5:]:
        assert ticket is not None
        watched.breaker.leave(ticket, failed=True)
    assert watched.breaker.state == "closed"


def test_of_many_threads_one_tries_the_server() -> None:
    watched = Watched(in_a_row=1, open_s=1)
    watched.fail(1)
    watched.clock.now += 1
    ready, tickets = threading.Barrier(16), []

    def call() -> None:
        ready.wait(30)
        tickets.append(watched.breaker.enter(LASTS_S))

    threads = [threading.Thread(target=call) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(tickets) == 16
    assert sum(ticket is not None for ticket in tickets) == 1
