from __future__ import annotations

import numpy as np
import pytest

from cascade.errors import ConfigurationError
from cascade.evaluation.audit.design import audits_needed, constant_rate, optimal_rates


@pytest.mark.parametrize(
    ("variance", "half", "population", "needed"),
    [(0.1, 0.02, None, 961), (0.1, 0.01, None, 3842), (0.1, 0.02, 961, 481), (0.0, 0.1, 0, 0)],
)
def test_audits_needed(variance: float, half: float, population: int | None, needed: int) -> None:
    assert audits_needed(variance, half, population) == needed


def test_a_precision_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="half width"):
        audits_needed(0.1, 0.0)


def test_rates_follow_doubt_and_price_and_spend_the_budget() -> None:
    spread, cost = np.array([0.1, 0.2, 0.2]), np.array([1.0, 1.0, 4.0])
    rates = optimal_rates(spread, cost, 0.9, floor=0.01)
    assert rates @ cost == pytest.approx(0.9)
    assert rates[1] / rates[0] == pytest.approx(2.0)
    assert rates[1] / rates[2] == pytest.approx(2.0)


def test_the_floor_stands_above_the_budget_and_one_is_the_most() -> None:
    cost = np.ones(4)
    assert optimal_rates(np.ones(4), cost, 0.0, floor=0.1).tolist() == [0.1] * 4
    assert optimal_rates(np.ones(4), cost, 99.0).tolist() == [1.0] * 4
    assert optimal_rates(np.zeros(4), cost, 99.0, floor=0.2).tolist() == [0.2] * 4
    with pytest.raises(ConfigurationError, match="above 0"):
        optimal_rates(np.ones(1), np.zeros(1), 1.0)


def test_optimal_rates_beat_a_constant_one() -> None:
    rng = np.random.default_rng(2)
    spread = rng.choice([0.05, 0.5], 1000)
    rates = optimal_rates(spread, np.ones(1000), 100.0)
    variance = [np.sum(spread**2 * (1 / r - 1)) for r in (rates, np.full(1000, 0.1))]
    assert variance[0] < 0.75 * variance[1]


def test_the_daily_budget_caps_the_rate() -> None:
    assert constant_rate(1000, 0.01, 0.5, 0.1) == pytest.approx(0.05)
    assert constant_rate(1000, 0.01, 50, 0.1) == 0.1
    assert constant_rate(0, 0.01, 0.5, 0.1) == 0.1
