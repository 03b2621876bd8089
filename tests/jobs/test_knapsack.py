"""The knapsack of a plan: within the money, near the relaxed optimum, more for more money."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.jobs.plan import affordable, most_gain, ranked

MICRO = Decimal("0.000001")
GAINS = st.floats(-1, 1, allow_nan=False).map(lambda gain: round(gain, 6))
COSTS = st.integers(0, 5000).map(lambda micros: micros * MICRO)
ROWS = st.lists(st.tuples(GAINS, COSTS), max_size=40)
MONEY = st.integers(0, 60_000).map(lambda micros: micros * MICRO)

Given = list[tuple[float, Decimal]]


def taken(rows: Given, money: Decimal | None) -> list[int]:
    gains, costs = [gain for gain, _ in rows], [cost for _, cost in rows]
    return affordable(ranked(gains, costs), costs, money)


def gain(rows: Given, places: list[int]) -> float:
    return math.fsum(rows[at][0] for at in places)


def bound(rows: Given, money: Decimal | None) -> float:
    gains, costs = [gain for gain, _ in rows], [cost for _, cost in rows]
    return most_gain(ranked(gains, costs), gains, costs, money)


@given(ROWS, MONEY)
def test_a_choice_is_never_above_the_money_and_takes_nothing_twice_or_in_vain(
    rows: Given, money: Decimal
) -> None:
    places = taken(rows, money)
    assert sum((rows[at][1] for at in places), Decimal(0)) <= money
    assert len(set(places)) == len(places)
    assert all(rows[at][0] > 0 for at in places)


@given(ROWS, MONEY)
def test_a_choice_is_within_one_row_of_what_no_choice_can_exceed(
    rows: Given, money: Decimal
) -> None:
    found, most = gain(rows, taken(rows, money)), bound(rows, money)
    largest = max((gain for gain, _ in rows), default=0.0)
    assert found <= most + 1e-9
    assert most - found <= max(0.0, largest) + 1e-9


@given(ROWS, MONEY, MONEY)
def test_more_money_never_gains_less(rows: Given, one: Decimal, other: Decimal) -> None:
    less, more = sorted((one, other))
    assert gain(rows, taken(rows, less)) <= gain(rows, taken(rows, more)) + 1e-9
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
    assert sorted(taken(rows, None)) == [at for at, (gain, _) in enumerate(rows) if gain > 0]
    assert gain(rows, taken(rows, None)) == pytest.approx(bound(rows, None))


def test_the_order_is_by_gain_per_dollar_and_of_equal_ones_the_larger_then_the_earlier() -> None:
    gains = [0.2, 0.4, 0.4, 0.1, 0.0, 0.3, -0.2]
    costs = [MICRO * n for n in (1, 2, 2, 0, 0, 6, 1)]
    assert ranked(gains, costs) == [3, 1, 2, 0, 5]
