"""Estimators from audits: by hand, by coverage, and that no bound lies below what was measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.evaluation import audit


def sample(rate: float, audited: list[int]) -> audit.Sample:
    return audit.Sample(np.full(len(audited), rate), np.array(audited, dtype=bool))


def baselines(n: int, spread: float = 0.2) -> audit.Baselines:
    return audit.Baselines(np.full(n, 1.0), np.full(n, 0.25), np.full(n, 4.0), spread)


def test_the_hajek_mean_weighs_by_the_inverse_rate() -> None:
    s = audit.Sample(np.array([0.5, 0.25, 0.5]), np.array([True, True, False]))
    assert audit.hajek_mean(np.array([3.0, 0.0]), s) == pytest.approx(1.0)  # (2·3 + 4·0)/6
    assert (s.n, s.complete) == (2, False)
    assert s.size == pytest.approx(36 / 20)
    assert audit.wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert (audit.wilson(0.0, 10)[0], audit.wilson(1.0, 10)[1]) == (0.0, 1.0)


def test_the_weight_of_a_proxy_by_hand() -> None:
    proxy, s = np.array([1.0, 0.0, 1.0, 0.0]), sample(0.5, [1, 1, 0, 0])
    assert audit.power(np.array([1.0, 1.0]), proxy, s) == 0.0
    assert audit.power(np.array([1.0, 0.0]), proxy, s) == 1.0
    assert audit.power(np.array([1.0]), np.ones(1), sample(0.5, [1])) == 0.0


def test_measured_and_estimated_parts_add_up_to_the_saving() -> None:
    s = sample(0.5, [1, 1, 0, 0])
    found = audit.saving(np.array([2.0, 2.0]), s, baselines(4), escalated_usd=3.0, spent_usd=5.5)
    assert found.measured_usd == 2.0 + 2.0 + 3.0 - 5.5
    assert found.estimated_usd == pytest.approx(4.0)  # predictions 1 + 1, each 1 too low
    assert found.saving.value == pytest.approx(5.5)
    assert found.share.value == pytest.approx(0.5)
    assert found.saving.low < 5.5
    assert found.saving.method == "difference estimator, t, 2 audits"


def test_few_audits_and_agreement_of_all_prove_nothing() -> None:
    assert audit.student(np.ones(1), sample(0.1, [1]), spread=1.0)[1] > 1.0
    found = audit.quality_loss(np.zeros(2), sample(0.1, [1, 1, *[0] * 18]), requests=20)
    assert (found.low, found.high) == (-1.0, 1.0)
    assert "only 2 audits" in found.method
    nothing = audit.quality_loss(np.zeros(0), sample(0.1, [0, 0]), requests=4)
    assert (nothing.low, nothing.high, nothing.method) == (-0.5, 0.5, audit.NO_AUDITS)
    s = sample(0.1, [1] * 10 + [0] * 90)
    # (1 − 0.1)^K = 0.025: 35 losses among the 100 could have stayed unseen.
    assert audit.adjusted(np.zeros(10), s, (-1.0, 1.0))[1] == pytest.approx(0.35, abs=0.011)


def test_where_every_draft_was_audited_the_bound_is_what_was_measured() -> None:
    losses = np.array([1.0] * 2 + [0.0] * 98)
    lost = audit.quality_loss(losses, sample(1.0, [1] * 100), requests=100)
    wrong = audit.accepted_error_rate(losses, sample(1.0, [1] * 100))
    assert (lost.low, lost.value, lost.high) == pytest.approx((0.02, 0.02, 0.02))
    assert (wrong.low, wrong.value, wrong.high) == (0.02, 0.02, 0.02)
    assert {lost.basis, wrong.basis} == {"measured"}
    paid, all_seen = np.array([1.0, 3.0]), sample(1.0, [1, 1])
    found = audit.saving(paid, all_seen, baselines(2), escalated_usd=0, spent_usd=1)
    assert (found.saving.low, found.saving.value, found.saving.high) == (3.0, 3.0, 3.0)
    assert (found.saving.basis, found.saving.method) == ("measured", "exact")


@settings(max_examples=80)
@given(
    st.lists(
        st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), st.booleans()), min_size=1, max_size=60
    ),
    st.sampled_from([0.02, 0.5, 0.98, 1.0]),
    st.booleans(),
)
def test_an_interval_holds(drafts: list[tuple[float, bool]], rate: float, with_proxy: bool) -> None:
    values, seen = np.array([v for v, _ in drafts]), np.array([s for _, s in drafts])
    s = audit.Sample(np.full(len(drafts), rate), seen)
    proxy = np.clip(values + 0.1, -1, 1) if with_proxy else None
    lost = audit.quality_loss(values[seen], s, requests=len(drafts) + 5, proxy=proxy)
    wrong = audit.accepted_error_rate(np.maximum(values[seen], 0), s)
    saved = audit.saving(
        2 + values[seen], s, baselines(len(drafts)), escalated_usd=1.0, spent_usd=2.0
    )
    for figure in (lost, wrong, saved.saving, saved.share, saved.baseline):
        assert figure.low <= figure.value <= figure.high
    assert saved.measured_usd + saved.estimated_usd == pytest.approx(saved.saving.value)


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5, 0.9, 0.98])
def test_bounded_intervals_cover_the_truth(rate: float) -> None:
    rng = np.random.default_rng(7)
    values = rng.choice([-1.0, 0.0, 1.0], 300, p=[0.02, 0.86, 0.12])
    wrong = np.maximum(values, 0.0)
    held = np.zeros(2)
    for _ in range(300):
        s = audit.Sample(np.full(300, rate), rng.random(300) < rate)
        lost = audit.quality_loss(values[s.audited], s, requests=300)
        share = audit.accepted_error_rate(wrong[s.audited], s)
        held += (
            lost.low - 1e-9 <= values.mean() <= lost.high + 1e-9,
            share.low - 1e-9 <= wrong.mean() <= share.high + 1e-9,
        )
    assert held.min() / 300 >= 0.94  # as 95 % intervals do with all but certainty


def test_a_good_proxy_narrows_the_loss() -> None:
    rng = np.random.default_rng(5)
    truth = (rng.random(2000) < 0.2).astype(float)
    proxy = np.clip(truth * 0.8 + rng.normal(0, 0.1, 2000), -1, 1)
    s = audit.Sample(np.full(2000, 0.1), rng.random(2000) < 0.1)
    seen = truth[s.audited]
    with_proxy, without = (
        audit.quality_loss(seen, s, requests=2000, proxy=p) for p in (proxy, None)
    )
    assert with_proxy.method.startswith("PPI++")
    assert with_proxy.high - with_proxy.low < without.high - without.low
    assert with_proxy.low <= truth.mean() <= with_proxy.high
