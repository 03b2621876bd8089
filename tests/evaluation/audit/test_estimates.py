from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.errors import ConfigurationError
from cascade.evaluation.audit.estimates import (
    NO_AUDITS,
    Baselines,
    accepted_error_rate,
    horvitz_thompson,
    power,
    ppi,
    quality_loss,
    saving,
)
from cascade.evaluation.audit.intervals import Sample


def sample(rate: float, audited: list[int]) -> Sample:
    return Sample(np.full(len(audited), rate), np.array(audited, dtype=bool))


def baselines(n: int, usd: float = 1.0, spread: float = 0.2) -> Baselines:
    return Baselines(np.full(n, usd), np.full(n, 0.25), np.full(n, 4.0), spread)


def test_horvitz_thompson_by_hand() -> None:
    assert horvitz_thompson(np.array([1.0, 0.0]), sample(0.5, [1, 1, 0, 0])) == 0.5


def test_ppi_by_hand() -> None:
    proxy = np.array([1.0, 0.0, 1.0, 0.0])
    s = sample(0.5, [1, 1, 0, 0])
    # κ = 1: mean f = 0.5; audited rests are 0 and 1: (2·0 + 2·1)/4 = 0.5
    assert ppi(np.array([1.0, 1.0]), proxy, s, 1.0) == 1.0
    assert power(np.array([1.0, 1.0]), proxy, s) == 0.0
    assert power(np.array([1.0, 0.0]), proxy, s) == 1.0
    assert power(np.array([1.0]), np.ones(1), sample(0.5, [1])) == 0.0
    assert ppi(np.array([1.0, 0.0]), proxy, s) == pytest.approx(0.5)


@pytest.mark.parametrize("kappa", [0.0, 0.7, 1.0])
def test_estimates_are_unbiased_whatever_the_rates(kappa: float) -> None:
    rng = np.random.default_rng(3)
    values = rng.lognormal(0, 1, 200)
    proxy = values * rng.uniform(0.5, 1.5, 200)
    rates = rng.uniform(0.05, 0.5, 200)
    found = []
    for _ in range(3000):
        s = Sample(rates, rng.random(200) < rates)
        found.append(ppi(values[s.audited], proxy, s, kappa))
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - values.mean()) < 4 * error


def test_measured_and_estimated_parts_add_up_to_the_saving() -> None:
    s = sample(0.5, [1, 1, 0, 0])
    report = saving(np.array([2.0, 2.0]), s, baselines(4), escalated_usd=3.0, spent_usd=5.5)
    assert report.measured_usd == 2.0 + 2.0 + 3.0 - 5.5
    assert report.estimated_usd == pytest.approx(4.0)  # predictions 1 + 1, each 1 too low
    assert report.saving.value == pytest.approx(5.5)
    assert report.baseline.value == pytest.approx(11.0)
    assert report.share.value == pytest.approx(0.5)
    assert report.verified_usd == report.saving.low < 5.5
    assert "2 audits" in report.saving.note


def test_without_audits_the_saving_is_an_assumption() -> None:
    report = saving(np.zeros(0), sample(0.1, [0, 0]), baselines(2), escalated_usd=0, spent_usd=1)
    assert (report.saving.low, report.saving.value, report.saving.high) == (-0.5, 1.0, 7.0)
    assert report.saving.note == NO_AUDITS
    assert report.saving.basis == "estimated"


def test_no_bill_is_no_share() -> None:
    nobody = Sample(np.zeros(0), np.zeros(0, dtype=bool))
    report = saving(np.zeros(0), nobody, baselines(0), escalated_usd=0, spent_usd=0)
    assert report.share.value == 0.0


def test_when_everything_is_audited_the_saving_is_measured() -> None:
    report = saving(
        np.array([1.0, 3.0]), sample(1.0, [1, 1]), baselines(2), escalated_usd=0, spent_usd=1
    )
    assert (report.saving.low, report.saving.high) == pytest.approx((3.0, 3.0))
    assert report.saving.basis == "measured"


def test_the_loss_is_per_request_escalated_ones_included() -> None:
    s = sample(0.5, [1] * 10 + [0] * 10)
    found = quality_loss(np.array([1.0] * 2 + [0.0] * 8), s, requests=40)
    assert found.value == pytest.approx(0.1)  # 0.2 of the accepted half
    assert found.low < 0.1 < found.high
    assert found.method == "adjusted t"


def test_few_audits_fall_back_and_say_so() -> None:
    found = quality_loss(np.zeros(2), sample(0.1, [1, 1, *[0] * 18]), requests=20)
    assert found.method == "betting"
    assert "only 2 audits" in found.note
    nothing = quality_loss(np.zeros(0), sample(0.1, [0, 0]), requests=4)
    assert (nothing.low, nothing.high, nothing.note) == (-0.5, 0.5, NO_AUDITS)


def test_a_good_proxy_narrows_the_loss() -> None:
    rng = np.random.default_rng(5)
    truth = (rng.random(2000) < 0.2).astype(float)
    proxy = np.clip(truth * 0.8 + rng.normal(0, 0.1, 2000), -1, 1)
    s = Sample(np.full(2000, 0.1), rng.random(2000) < 0.1)
    with_proxy, without = (
        quality_loss(truth[s.audited], s, requests=2000, proxy=p) for p in (proxy, None)
    )
    assert with_proxy.method.startswith("PPI++")
    assert with_proxy.high - with_proxy.low < without.high - without.low
    assert with_proxy.low <= truth.mean() <= with_proxy.high


def test_the_error_rate_is_exact_for_one_rate() -> None:
    found = accepted_error_rate(np.array([0.0, 1.0, 0.0, 0.0]), sample(0.5, [1] * 4 + [0] * 4))
    assert found.value == 0.25
    assert (found.low, found.high) == (0.125, 0.625)
    assert found.method.startswith("exact")
    graded = accepted_error_rate(np.full(6, 0.5), sample(0.5, [1] * 6 + [0] * 4))
    assert graded.method == "adjusted t"


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="belong in"):
        quality_loss(np.array([2.0]), sample(0.5, [1]), requests=1)
    with pytest.raises(ConfigurationError, match="escalated ones too"):
        quality_loss(np.array([1.0]), sample(0.5, [1, 0]), requests=1)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1])
def test_the_saving_of_heavy_tails_is_covered(rate: float) -> None:
    rng = np.random.default_rng(11)
    cost = rng.lognormal(0, 0.6, 600)
    predicted = np.full(600, 1.3)
    limits = Baselines(predicted, np.zeros(600), np.full(600, 10.0), spread=1.0)
    held = 0
    for _ in range(400):
        s = Sample(np.full(600, rate), rng.random(600) < rate)
        got = saving(cost[s.audited], s, limits, escalated_usd=0, spent_usd=100).saving
        held += got.low <= cost.sum() - 100 <= got.high
    assert held / 400 >= 0.94


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.floats(0, 50), st.floats(0, 20))
def test_the_parts_of_a_saving_always_add_up(
    audited: list[bool], spent: float, escalated: float
) -> None:
    s = Sample(np.full(len(audited), 0.3), np.array(audited))
    report = saving(
        np.full(s.n, 2.0), s, baselines(len(audited)), escalated_usd=escalated, spent_usd=spent
    )
    assert report.measured_usd + report.estimated_usd == pytest.approx(report.saving.value)
    assert report.saving.low <= report.saving.value + 1e-9
    assert report.saving.value <= report.saving.high + 1e-9
    assert report.share.low <= report.share.high
