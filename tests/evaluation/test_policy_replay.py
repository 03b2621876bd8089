"""Columns decide as the policies do online."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.errors import ConfigurationError
from cascade.evaluation.replay import Rows, accepts, replay, sweep
from cascade.policies import (
    AbstainPolicy,
    CertifiedPolicy,
    DollarBudgetPolicy,
    EconomicPolicy,
    Policy,
    ThresholdPolicy,
)
from cascade.policies.certify import Refusal, certify

chance = st.floats(0, 1)
unknown = st.just(float("nan"))
dollars = st.floats(1e-7, 1.0)
row = st.tuples(chance | unknown, dollars | unknown, chance | unknown, st.floats(0, 60) | unknown)


def table(drawn: list[tuple[float, float, float, float]], *, calibrated: bool = True) -> Rows:
    confidence, cost, p_large, seconds = (np.array(c) for c in zip(*drawn, strict=True))
    return Rows(confidence, calibrated, cost, p_large, seconds)


def agree(policy: Policy, rows: Rows) -> None:
    one_by_one = [decision.action == "accept" for decision in replay(policy, rows)]
    assert accepts(policy, rows).tolist() == one_by_one


several = st.lists(row, min_size=1, max_size=20)


@given(several, chance)
def test_a_threshold_decides_alike(
    drawn: list[tuple[float, float, float, float]], threshold: float
) -> None:
    agree(ThresholdPolicy(threshold), table(drawn))


@given(several, chance)
def test_an_escalation_rate_decides_alike(
    drawn: list[tuple[float, float, float, float]], rate: float
) -> None:
    rows = table(drawn)
    known = rows.confidence[np.isfinite(rows.confidence)].tolist()
    agree(ThresholdPolicy.at_rate(known or [0.5], rate), rows)


@given(several, st.floats(1e-6, 100), chance, st.floats(0, 0.1))
def test_the_economic_rule_decides_alike(
    drawn: list[tuple[float, float, float, float]], price: float, p_large: float, wait: float
) -> None:
    agree(EconomicPolicy(price, p_large=p_large, price_of_second=wait), table(drawn))


@given(several, st.floats(0, 1000), chance)
def test_a_dollar_budget_decides_alike(
    drawn: list[tuple[float, float, float, float]], price: float, p_large: float
) -> None:
    policy = DollarBudgetPolicy(budget_usd=0.01, shadow_price=price, p_large=p_large)
    agree(policy, table(drawn))


@given(several, st.booleans(), st.integers(0, 20))
def test_a_certificate_decides_alike(
    drawn: list[tuple[float, float, float, float]], calibrated: bool, seed: int
) -> None:
    p = np.random.default_rng(seed).random(300)
    found = certify(p, (p > 0.3).astype(float), max_harm=0.1)
    assert not isinstance(found, Refusal)
    agree(CertifiedPolicy(found), table(drawn, calibrated=calibrated))


def test_a_policy_without_a_rule_on_columns_is_refused() -> None:
    policy = AbstainPolicy(EconomicPolicy(1.0), 0.1)
    with pytest.raises(ConfigurationError, match="AbstainPolicy cannot be replayed on columns"):
        accepts(policy, table([(0.5, 0.1, 0.9, 1.0)]))


def test_a_row_without_confidence_escalates_and_says_why() -> None:
    (decision,) = replay(ThresholdPolicy(0.5), Rows(np.array([np.nan])))
    assert decision.action == "escalate"
    assert "not in the recording" in decision.reason


@given(several, st.lists(chance, min_size=1, max_size=5), st.integers(0, 100))
def test_a_sweep_gives_what_each_threshold_gives(
    drawn: list[tuple[float, float, float, float]], cuts: list[float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = table(drawn)
    small, large = (rng.random((2, len(rows))) < 0.6).astype(float)
    small_cost, large_cost = rng.random((2, len(rows)))
    found = sweep(cuts, rows.confidence, small, large, small_cost, large_cost)
    for i, cut in enumerate(cuts):
        accepted = accepts(ThresholdPolicy(cut), rows)
        assert found.accepted[i] == pytest.approx(accepted.mean())
        assert found.quality[i] == pytest.approx(np.where(accepted, small, large).mean())
        assert found.harm[i] == pytest.approx((accepted * (1 - small)).mean())
        cost = small_cost.sum() + large_cost[~accepted].sum()
        assert found.cost[i] == pytest.approx(cost)
