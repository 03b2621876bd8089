"""Which counts of tokens are believed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.ledger import Price
from cascade.models.counts import MOST_TOKENS, busy_ms, count, read_counts
from cascade.state import Usage

PRICE = Price(input=1, output=10)


def counted(**counts: Any) -> Usage:
    return read_counts(**{"read": 100, "written": 20, "wrote": True, **counts})


@pytest.mark.parametrize("value", [0, 1, MOST_TOKENS])
def test_a_number_of_tokens_is_believed(value: int) -> None:
    assert count(value) == value


@pytest.mark.parametrize(
    "value", [-1, MOST_TOKENS + 1, 10**400, 2.5, float("nan"), "12", True, None, [1], {}]
)
def test_what_is_no_number_of_tokens_is_unknown(value: object) -> None:
    assert count(value) is None


def test_counts_that_agree_are_kept() -> None:
    usage = counted(cached=60, cache_write=40, reasoning=20, total=120)
    assert usage == Usage(
        input_tokens=100,
        output_tokens=20,
        cached_tokens=60,
        cache_write_tokens=40,
        reasoning_tokens=20,
    )


def test_nobody_reads_nothing() -> None:
    assert counted(read=0).input_tokens is None


def test_an_answer_is_not_written_in_no_tokens() -> None:
    assert counted(written=0).output_tokens is None
    assert counted(written=0, wrote=False).output_tokens == 0


def test_more_from_the_cache_than_there_was_makes_the_input_unknown() -> None:
    assert counted(cached=90, cache_write=20).input_tokens is None


def test_reasoning_beside_the_output_is_counted_with_it() -> None:
    assert counted(reasoning=300, total=420).output_tokens == 320


@pytest.mark.parametrize("total", [None, 120, 400, "420"])
def test_more_reasoning_than_output_makes_the_output_unknown(total: object) -> None:
    assert counted(reasoning=300, total=total).output_tokens is None


anything = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(0, 50)
    | st.floats()
    | st.text(max_size=3)
)


@given(anything, anything, st.booleans(), anything, anything, anything, anything)
def test_whatever_a_server_says_no_cost_is_negative_or_absurd(
    read: object,
    written: object,
    wrote: bool,
    cached: object,
    cache_write: object,
    reasoning: object,
    total: object,
) -> None:
    usage = read_counts(
        read=read,
        written=written,
        wrote=wrote,
        cached=cached,
        cache_write=cache_write,
        reasoning=reasoning,
        total=total,
    )
    cost = PRICE.cost(usage)
    most = PRICE.cost(Usage(input_tokens=MOST_TOKENS, output_tokens=2 * MOST_TOKENS))
    assert most is not None
    assert cost is None or 0 < cost <= most


@pytest.mark.parametrize(
    ("told", "busy"),
    [
        ({"a": 2_000, "b": 3_000}, 5.0),
        ({"b": 3_000}, 3.0),
        ({"a": 0, "b": 1.5}, 0.0015),
        ({}, None),
        ({"a": 0, "b": 0}, None),
        ({"a": 2_000, "b": -1}, None),
        ({"a": 2_000, "b": float("nan")}, None),
        ({"a": 2_000, "b": float("inf")}, None),
        ({"a": 2_000, "b": "3000"}, None),
        ({"a": True, "b": 3_000}, None),
        ({"a": 10**400}, None),
    ],
)
def test_a_time_is_known_where_all_that_is_told_of_it_can_be_true(
    told: dict[str, object], busy: float | None
) -> None:
    assert busy_ms(told, ("a", "b"), 1000) == busy
