from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.errors import ConfigurationError
from cascade.evaluation.audit.intervals import (
    Sample,
    adjusted,
    betting,
    degrees,
    exact_share,
    hajek_error,
    hajek_mean,
    student,
)

LIMITS = (-1.0, 1.0)


def sample(rates: list[float], audited: list[int]) -> Sample:
    return Sample(np.array(rates), np.array(audited, dtype=bool))


def test_the_hajek_mean_weighs_by_the_inverse_rate() -> None:
    s = sample([0.5, 0.25, 0.5], [1, 1, 0])
    assert hajek_mean(np.array([3.0, 0.0]), s) == pytest.approx(1.0)  # (2·3 + 4·0)/6
    assert not s.constant
    assert s.n == 2
    assert degrees(s) == pytest.approx(1.0)  # 36/20 − 1 is below one


def test_the_error_by_hand() -> None:
    s = sample([0.5] * 4, [1, 1, 0, 0])
    # Values 0 and 2, weights 2: Σ (1 − π)(w·1)² = 4, over (Σw)² = 16, times 2/(2 − 1).
    assert hajek_error(np.array([0.0, 2.0]), s) == pytest.approx(np.sqrt(4 / 16 * 2))


def test_when_all_are_audited_there_is_no_error() -> None:
    s = sample([1.0] * 3, [1, 1, 1])
    assert student(np.array([1.0, 2.0, 3.0]), s) == (2.0, 2.0)


def test_a_known_spread_widens_the_interval_of_few() -> None:
    s = sample([0.1] * 40, [1] * 3 + [0] * 37)
    narrow, wide = (student(np.ones(3), s, spread=spread) for spread in (0.0, 1.0))
    assert narrow == (1.0, 1.0)
    assert wide[0] < 1.0 < wide[1]
    assert student(np.ones(1), sample([0.1], [1]), spread=1.0)[1] > 1.0


def test_agreement_of_all_audits_is_no_proof() -> None:
    s = sample([0.1] * 100, [1] * 10 + [0] * 90)
    # (1 − 0.1)^K = 0.025: 35 losses among the 100 could have stayed unseen.
    assert adjusted(np.zeros(10), s, LIMITS)[1] == pytest.approx(0.35, abs=0.001)
    # As Clopper and Pearson's rule of three, ln(40)/n, and a little more for the mixture.
    assert 0.3 < betting(np.zeros(10), s, LIMITS)[1] < 0.7


def test_nothing_audited_is_everything_possible() -> None:
    nobody = Sample(np.zeros(0), np.zeros(0, dtype=bool))
    assert betting(np.zeros(0), nobody, LIMITS) == LIMITS
    assert not nobody.constant


def test_the_exact_share_by_hand() -> None:
    assert exact_share(2, 4, 4) == (0.5, 0.5)
    assert exact_share(0, 1, 2) == (0.0, 0.5)  # both wrong cannot show none wrong


@pytest.mark.parametrize("rate", [0.0, 1.5, float("nan")])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(ConfigurationError, match="audit rate"):
        sample([rate], [1])


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="one each"):
        sample([0.5, 0.5], [1])


@pytest.mark.parametrize("spread_rates", [False, True])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1])
def test_bounded_intervals_cover_the_truth(rate: float, spread_rates: bool) -> None:
    rng = np.random.default_rng(7)
    values = rng.choice([-1.0, 0.0, 1.0], 500, p=[0.02, 0.86, 0.12])
    rates = np.full(500, rate) * (rng.uniform(0.5, 2.0, 500) if spread_rates else 1.0)
    held = {"betting": 0, "adjusted": 0}
    tries = 0
    for _ in range(300):
        s = Sample(rates, rng.random(500) < rates)
        if not s.n:
            continue
        tries += 1
        seen = values[s.audited]
        for name, make in (("betting", betting), ("adjusted", adjusted)):
            low, high = make(seen, s, LIMITS)
            held[name] += low <= values.mean() <= high
    assert held["betting"] / tries >= 0.97
    assert held["adjusted"] / tries >= 0.93


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), min_size=1, max_size=30))
def test_betting_stays_in_the_limits_and_turns_with_the_sign(values: list[float]) -> None:
    y = np.array(values)
    s = Sample(np.full(100, 0.3), np.arange(100) < len(y))
    low, high = betting(y, s, LIMITS)
    assert -1.0 <= low <= high <= 1.0
    turned = betting(-y, s, LIMITS)
    assert turned == pytest.approx((-high, -low), abs=1e-6)
