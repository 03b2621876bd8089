"""The verdict of `benchmarks/soak.py`: what grows is told from what only varies."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("scipy", reason='pip install "agent-cascade[calibrate]"')

HOURS = [minute / 60 for minute in range(30)]


@pytest.fixture(scope="module")
def trend() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
        return importlib.import_module("_trend")


def noisy(per_hour: float, sigma: float = 1.0) -> list[float]:
    chance = random.Random(4)
    return [100 + per_hour * hour + chance.gauss(0, sigma) for hour in HOURS]


def test_what_only_varies_does_not_grow(trend: Any) -> None:
    found = trend.trend_of(HOURS, noisy(0.0))
    assert found.low < 0 < found.high
    assert not found.grows(0.0)


def test_what_rises_through_its_noise_grows(trend: Any) -> None:
    found = trend.trend_of(HOURS, noisy(40.0))
    assert found.low < 40 < found.high
    assert found.grows(2.0)


def test_what_rises_by_less_than_is_allowed_does_not_grow(trend: Any) -> None:
    found = trend.trend_of(HOURS, noisy(40.0))
    assert found.last - found.first < 20
    assert not found.grows(20.0)


def test_a_constant_and_a_straight_line_have_no_width(trend: Any) -> None:
    constant = trend.trend_of(HOURS, [7.0] * 30)
    assert (constant.per_hour, constant.low, constant.high) == (0.0, 0.0, 0.0)
    line = trend.trend_of(HOURS, [2 * hour for hour in HOURS])
    assert line.low == pytest.approx(2.0)
    assert line.high == pytest.approx(2.0)


def test_neighbours_that_are_alike_make_the_interval_wider(trend: Any) -> None:
    def width(values: list[float]) -> float:
        found = trend.trend_of(HOURS, values)
        return float(found.high - found.low)

    apart = noisy(0.0)
    alike = sorted(apart[:15]) + sorted(apart[15:], reverse=True)
    assert width(alike) > 1.5 * width(apart)


def test_fewer_than_six_samples_have_no_trend(trend: Any) -> None:
    with pytest.raises(ValueError, match="six samples or more"):
        trend.trend_of(HOURS[:5], [1.0] * 5)
