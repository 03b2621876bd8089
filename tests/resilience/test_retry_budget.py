"""Retries are a share of the calls, and a few a minute besides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turning import Clock

from cascade.resilience.budget import RetryBudget
from cascade.resilience.settings import Retries


def granted(budget: RetryBudget, asked: int) -> int:
    return sum(budget.withdraw() for _ in range(asked))


def test_those_who_ask_seldom_have_the_reserve() -> None:
    budget = RetryBudget(Retries(reserve=3), Clock())
    assert budget.left == 3
    assert granted(budget, 10) == 3
    assert budget.left == 0


def test_the_reserve_comes_back_within_a_minute_and_does_not_pile_up() -> None:
    clock = Clock()
    budget = RetryBudget(Retries(reserve=6), clock)
    assert granted(budget, 10) == 6
    clock.now += 10
    assert granted(budget, 10) == 1
    clock.now += 86_400
    assert granted(budget, 10) == 6


def test_calls_pay_for_their_share_of_retries() -> None:
    budget = RetryBudget(Retries(share=0.25, reserve=0), Clock())
    for _ in range(100):
        budget.deposit()
    assert granted(budget, 100) == 25


def test_calls_of_the_day_before_pay_for_nothing() -> None:
    clock = Clock()
    budget = RetryBudget(Retries(share=1, reserve=0), clock)
    for _ in range(1000):
        budget.deposit()
    clock.now += 86_400
    assert granted(budget, 10) == 0


def test_parts_of_retries_make_whole_ones_with_the_reserve() -> None:
    budget = RetryBudget(Retries(share=0.5, reserve=1), Clock())
    budget.deposit()
    assert granted(budget, 2) == 1
    budget.deposit()
    assert granted(budget, 2) == 1


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    clock = Clock()
    budget = RetryBudget(Retries(reserve=1), clock)
    assert granted(budget, 1) == 1
    clock.now -= 3600
    assert granted(budget, 1) == 0


steps = st.lists(st.one_of(st.just("call"), st.just("retry"), st.floats(0, 30)), max_size=200)


@given(steps, st.floats(0, 1), st.integers(0, 5))
def test_there_are_never_more_retries_than_share_and_reserve_allow(
    taken: list[str | float], share: float, reserve: int
) -> None:
    clock = Clock()
    budget = RetryBudget(Retries(share=share, reserve=reserve), clock)
    begun, calls, retries = clock.now, 0, 0
    for step in taken:
        if step == "call":
            calls += 1
            budget.deposit()
        elif step == "retry":
            retries += budget.withdraw()
        else:
            clock.now += float(step)
        assert retries <= share * calls + reserve * (1 + (clock.now - begun) / 60) + 1e-6
    assert budget.left == pytest.approx(granted(budget, 1000))
