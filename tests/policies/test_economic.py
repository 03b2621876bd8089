"""The economic rule, by table and by law."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cascade.errors import ConfigurationError
from cascade.policies import EconomicPolicy, Situation
from cascade.state import Assessment

prices = st.floats(0.0001, 100)
chances = st.floats(0, 1)
costs = st.decimals(0, 10, places=6)


def judged(confidence: float | None, cost: str | Decimal | None) -> Situation:
    return Situation(Assessment(confidence=confidence), None if cost is None else Decimal(cost))


@pytest.mark.parametrize(
    ("price_of_error", "p_large", "cost", "confidence", "action"),
    [
        # λ = $0.05, c_L = $0.01: threshold 1 − 0.2 = 0.8
        (0.05, 1.0, "0.01", 0.81, "accept"),
        (0.05, 1.0, "0.01", 0.79, "escalate"),
        # a large model that errs in 10 % lowers it to 0.7
        (0.05, 0.9, "0.01", 0.71, "accept"),
        (0.05, 0.9, "0.01", 0.69, "escalate"),
        # escalating costs more than an error: accept whatever is there
        (0.05, 1.0, "0.06", 0.0, "accept"),
        # escalating is free: only certainty is accepted
        (0.05, 1.0, "0", 0.999, "escalate"),
        (0.05, 1.0, "0", 1.0, "accept"),
    ],
)
def test_the_cheaper_side_wins(
    price_of_error: float, p_large: float, cost: str, confidence: float, action: str
) -> None:
    decision = EconomicPolicy(price_of_error, p_large).decide(judged(confidence, cost))
    assert decision.action == action


def test_both_sides_of_the_comparison_are_told() -> None:
    decision = EconomicPolicy(0.05, p_large=0.9).decide(judged(0.5, "0.01"))
    assert decision.expected_cost_accept_usd == Decimal("0.025")
    assert decision.expected_cost_escalate_usd == Decimal("0.015")
    assert decision.threshold == pytest.approx(0.7)


def test_an_unknown_cost_of_escalating_escalates_and_says_why() -> None:
    decision = EconomicPolicy(0.05).decide(judged(0.99, None))
    assert decision.action == "escalate"
    assert "unknown" in decision.reason
    assert decision.confidence == 0.99


def test_a_draft_without_confidence_is_escalated() -> None:
    assert EconomicPolicy(0.05).decide(judged(None, "100")).action == "escalate"


@pytest.mark.parametrize("price", [0, -1, float("nan"), float("inf")])
def test_a_price_of_error_that_is_no_amount_is_refused(price: float) -> None:
    with pytest.raises(ConfigurationError, match="price_of_error"):
        EconomicPolicy(price)


@pytest.mark.parametrize("p_large", [-0.1, 1.1, float("nan")])
def test_a_p_large_that_is_no_probability_is_refused(p_large: float) -> None:
    with pytest.raises(ConfigurationError, match="p_large"):
        EconomicPolicy(1, p_large)


@given(prices, chances, costs, chances)
def test_the_decision_has_the_smaller_expected_cost(
    price_of_error: float, p_large: float, cost: Decimal, confidence: float
) -> None:
    decision = EconomicPolicy(price_of_error, p_large).decide(judged(confidence, cost))
    accepting = price_of_error * (1 - confidence)
    escalating = float(cost) + price_of_error * (1 - p_large)
    assume(abs(accepting - escalating) > 1e-9 * price_of_error)
    assert decision.action == ("accept" if accepting < escalating else "escalate")


@given(prices, st.floats(0.5, 1), st.decimals(0, 1, places=4))
def test_the_threshold_is_the_minimum_of_expected_cost_over_all_thresholds(
    price_of_error: float, p_large: float, cost: Decimal
) -> None:
    """Over drafts of evenly spread confidence, no other threshold is cheaper on average."""
    drafts = [i / 50 for i in range(51)]

    def average_cost(threshold: float) -> float:
        accepted = sum(price_of_error * (1 - p) for p in drafts if p >= threshold)
        escalated = sum(p < threshold for p in drafts)
        return accepted + escalated * (float(cost) + price_of_error * (1 - p_large))

    best = min(average_cost(i / 100) for i in range(102))
    chosen = average_cost(EconomicPolicy(price_of_error, p_large).threshold(cost))
    assert chosen <= best + 1e-9 * (1 + price_of_error)


@given(prices, chances, costs, chances, chances)
def test_more_confidence_never_turns_accept_into_escalate(
    price_of_error: float, p_large: float, cost: Decimal, one: float, other: float
) -> None:
    policy = EconomicPolicy(price_of_error, p_large)
    low, high = sorted((one, other))
    if policy.decide(judged(low, cost)).action == "accept":
        assert policy.decide(judged(high, cost)).action == "accept"


@given(prices, prices, costs, chances)
def test_a_dearer_error_never_turns_escalate_into_accept(
    one: float, other: float, cost: Decimal, confidence: float
) -> None:
    cheap, dear = sorted((one, other))
    if EconomicPolicy(cheap).decide(judged(confidence, cost)).action == "escalate":
        assert EconomicPolicy(dear).decide(judged(confidence, cost)).action == "escalate"
