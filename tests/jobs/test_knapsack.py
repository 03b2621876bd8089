"""The knapsack of a plan: what no choice of rows can exceed, and the order of the rows."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.jobs.plan import most_gain, ranked

MICRO = Decimal("0.000001")
GAINS = st.floats(-1, 1, allow_nan=False).map(lambda gain: round(gain, 6))
COSTS = st.integers(0, 5000).map(lambda micros: micros * MICRO)
ROWS = st.lists(st.tuples(GAINS, COSTS), max_size=40)
MONEY = st.integers(0, 60_000).map(lambda micros: micros * MICRO)

Given = list[tuple[float, Decimal]]


def gain(rows: Given, places: list[int]) -> float:
    return math.fsum(rows[at][0] for at in places)


def bound(rows: Given, money: Decimal | None) -> float:
    gains, costs = [gain for gain, _ in rows], [cost for _, cost in rows]
    return most_gain(ranked(gains, costs), gains, costs, money)


@given(ROWS, MONEY, MONEY)
def test_more_money_never_gains_less(rows: Given, one: Decimal, other: Decimal) -> None:
    less, more = sorted((one, other))
    assert bound(rows, less) <= bound(rows, more) + 1e-9


@given(st.lists(st.tuples(GAINS, COSTS), max_size=9), MONEY)
def test_the_bound_is_above_the_best_of_all_choices(rows: Given, money: Decimal) -> None:
    choices = itertools.chain.from_iterable(
        itertools.combinations(range(len(rows)), n) for n in range(len(rows) + 1)
    )
    fitting = (c for c in choices if sum((rows[at][1] for at in c), Decimal(0)) <= money)
    assert max(gain(rows, list(c)) for c in fitting) <= bound(rows, money) + 1e-9


@given(ROWS)
def test_without_a_limit_all_that_gains_is_taken(rows: Given) -> None:
    assert bound(rows, None) == pytest.approx(math.fsum(max(0.0, gain) for gain, _ in rows))


def test_the_order_is_by_gain_per_dollar_and_of_equal_ones_the_larger_then_the_earlier() -> None:
    gains = [0.2, 0.4, 0.4, 0.1, 0.0, 0.3, -0.2]
    costs = [MICRO * n for n in (1, 2, 2, 0, 0, 6, 1)]
    assert ranked(gains, costs) == [3, 1, 2, 0, 5]
