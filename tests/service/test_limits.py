"""The bucket of a key: how it is emptied and how it fills again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.service.keys import Key, make_key
from cascade.service.limits import Limits


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def key(per_minute: float | None) -> Key:
    return make_key("a", per_minute=per_minute)[0]


def test_a_minutes_worth_may_come_at_once_and_then_one_at_a_time() -> None:
    clock = Clock()
    limits, team = Limits(clock), key(3)
    assert [limits.take(team) for _ in range(3)] == [None] * 3
    assert limits.take(team) == pytest.approx(20)
    clock.now += 19
    assert limits.take(team) == pytest.approx(1)
    clock.now += 1
    assert limits.take(team) is None
    assert limits.take(team) is not None


def test_less_than_one_a_minute_is_a_rate_too() -> None:
    clock = Clock()
    limits, team = Limits(clock), key(0.5)
    assert limits.take(team) is None
    assert limits.take(team) == pytest.approx(120)
    clock.now += 120
    assert limits.take(team) is None


def test_keys_do_not_share_a_bucket_and_some_have_none() -> None:
    limits, one, other, free = Limits(Clock()), key(1), key(1), key(None)
    assert [limits.take(team) for team in (one, other)] == [None, None]
    assert limits.take(one) is not None
    assert [limits.take(free) for _ in range(100)] == [None] * 100


@given(st.lists(st.floats(0, 30), max_size=60), st.floats(0.5, 20))
def test_in_no_stretch_of_time_are_there_more_than_the_rate_and_a_bucket(
    pauses: list[float], rate: float
) -> None:
    clock = Clock()
    limits, team = Limits(clock), key(rate)
    taken = 0
    for pause in pauses:
        clock.now += pause
        taken += limits.take(team) is None
    assert taken <= max(1.0, rate) + sum(pauses) * rate / 60 + 1e-6
