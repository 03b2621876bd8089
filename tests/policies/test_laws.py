"""Laws that every policy keeps, and the sums behind each of them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cascade.errors import ConfigurationError
from cascade.policies import (
    AbstainPolicy,
    CascadeRoutingPolicy,
    CertifiedPolicy,
    DeadlinePolicy,
    DollarBudget,
    DollarBudgetPolicy,
    EconomicPolicy,
    LearnsCosts,
    NextSignal,
    Policy,
    Situation,
    ThresholdPolicy,
    TierOutlook,
    UncalibratedPolicy,
    tell_cost,
    value_of_information,
)
from cascade.policies.rule import can_change, with_observation
from cascade.state import Assessment, Certificate, Decision

CERTIFICATE = Certificate(
    threshold=0.6, max_harm=0.05, delta=0.1, n=100, errors=1, coverage=0.5, bound=0.04
)
POLICIES: dict[str, Policy] = {
    "threshold": ThresholdPolicy(0.7),
    "economic": EconomicPolicy(0.05, 0.95),
    "certified": CertifiedPolicy(CERTIFICATE),
    "budget": DollarBudgetPolicy(0.004, shadow_price=20.0),
    "routing": CascadeRoutingPolicy(0.05, 0.95),
    "deadline": DeadlinePolicy(EconomicPolicy(0.05, 0.95)),
    "abstain": AbstainPolicy(EconomicPolicy(0.05, 0.95), 1.0),
    "uncalibrated": UncalibratedPolicy(ThresholdPolicy(0.7), ThresholdPolicy(0.9)),
}
COST = Decimal("0.01")
chances = st.floats(0, 1)
outlooks = st.lists(chances, min_size=1, max_size=30).map(tuple)


def judged(confidence: float | None, *, left: float | None = None, **known: object) -> Situation:
    assessment = Assessment(confidence=confidence, calibrated=True, **known)  # type: ignore[arg-type]
    return Situation(
        assessment,
        escalation_cost_usd=COST,
        above=(TierOutlook("large", None, COST),),
        escalation_s=2.0,
        time_left_s=left,
    )


@pytest.mark.parametrize("name", POLICIES)
def test_a_decision_is_monotone_in_confidence(name: str) -> None:
    decisions = [POLICIES[name].decide(judged(i / 200)) for i in range(201)]
    accepted = [decision.action == "accept" for decision in decisions]
    assert all(later or not earlier for earlier, later in pairwise(accepted))
    assert not accepted[0]
    assert accepted[-1]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("left", [None, -1.0, 0.5])
def test_an_objection_comes_before_everything_in_every_policy(
    name: str, left: float | None
) -> None:
    decision = POLICIES[name].decide(judged(1.0, left=left, objection="the answer is empty"))
    assert decision.action == "escalate"
    assert decision.reason == "the answer is empty"


@pytest.mark.parametrize("name", POLICIES)
def test_a_missing_confidence_comes_before_everything_in_every_policy(name: str) -> None:
    decision = POLICIES[name].decide(judged(None, missing="p_true did not come back"))
    assert decision.action == "escalate"
    assert decision.reason == "no confidence: p_true did not come back"


@pytest.mark.parametrize("name", POLICIES)
def test_nothing_is_observed_when_nothing_is_left_to_observe(name: str) -> None:
    assert all(POLICIES[name].decide(judged(i / 50)).action != "observe" for i in range(51))


@pytest.mark.parametrize("name", ["threshold", "economic", "deadline"])
def test_without_an_outlook_a_signal_is_not_paid_for(name: str) -> None:
    situation = Situation(
        Assessment(confidence=0.5, calibrated=True),
        escalation_cost_usd=COST,
        next_signal=NextSignal("p_true", (), Decimal(0)),
    )
    assert POLICIES[name].decide(situation).action == "escalate"


@pytest.mark.parametrize("name", ["threshold", "economic"])
def test_a_draft_that_is_ruled_out_is_not_looked_at_again(name: str) -> None:
    situation = Situation(
        Assessment(objection="the answer is empty"), COST, NextSignal("p_true", (0.1, 0.9))
    )
    assert POLICIES[name].decide(situation).action == "escalate"


def test_a_decision_without_figures_is_not_put_off() -> None:
    decision = Decision(action="escalate", reason="because")
    signal = NextSignal("p_true", (0.1, 0.9), Decimal(0))
    assert with_observation(decision, signal, can_change) is decision


# --- economic


@given(
    st.floats(0.001, 10),
    chances,
    chances,
    st.one_of(st.none(), chances),
    st.floats(0, 0.1),
    st.floats(0, 30),
)
def test_the_cheaper_side_wins_also_with_waiting_and_p_large_per_question(
    error: float, confidence: float, p_large: float, known: float | None, second: float, wait: float
) -> None:
    decision = EconomicPolicy(error, p_large, second).decide(
        Situation(
            Assessment(confidence=confidence, p_large=known),
            escalation_cost_usd=COST,
            escalation_s=wait,
        )
    )
    accept = error * (1 - confidence)
    escalate = float(COST) + second * wait + error * (1 - (p_large if known is None else known))
    assume(abs(accept - escalate) > 1e-9 * (1 + error))
    assert decision.action == ("accept" if accept < escalate else "escalate")
    assert float(decision.expected_cost_accept_usd or 0) == pytest.approx(accept)
    assert float(decision.expected_cost_escalate_usd or 0) == pytest.approx(escalate)


@pytest.mark.parametrize("second", [-0.1, float("nan"), float("inf")])
def test_a_price_of_waiting_that_is_no_amount_is_refused(second: float) -> None:
    with pytest.raises(ConfigurationError, match="price_of_second"):
        EconomicPolicy(1, 1, second)


# --- another signal


@given(outlooks, chances, st.floats(0.001, 100))
def test_information_is_never_worth_less_than_nothing(
    outlook: tuple[float, ...], threshold: float, error: float
) -> None:
    worth = value_of_information(NextSignal("s", outlook), threshold, error)
    gaps = np.array([threshold - p for p in outlook])
    brute = error * (min(0.0, gaps.mean()) - np.minimum(0.0, gaps).mean())
    assert worth >= 0
    assert worth == pytest.approx(brute, abs=1e-9 * error)


@given(chances, chances, st.integers(0, 40))
def test_a_signal_that_leads_to_one_point_is_worth_exactly_nothing(
    point: float, threshold: float, n: int
) -> None:
    assert value_of_information(NextSignal("s", (point,) * n), threshold, 3.0) == 0.0


@given(st.lists(st.floats(0.5, 1), min_size=1, max_size=30))
def test_a_signal_that_never_changes_the_decision_is_worth_exactly_nothing(
    outlook: list[float],
) -> None:
    assert value_of_information(NextSignal("s", tuple(outlook)), 0.5, 3.0) == 0.0
    assert value_of_information(NextSignal("s", tuple(1 - p for p in outlook)), 0.5, 3.0) == 0.0


def looking(outlook: tuple[float, ...], cost: str | None) -> Situation:
    signal = NextSignal("p_true", outlook, None if cost is None else Decimal(cost))
    return Situation(
        Assessment(confidence=0.7, calibrated=True), escalation_cost_usd=COST, next_signal=signal
    )


@pytest.mark.parametrize(
    ("outlook", "cost", "action"),
    [
        ((0.2, 1.0), "0.001", "observe"),
        ((0.2, 1.0), "0.02", "escalate"),
        ((0.7, 0.71), "0", "escalate"),
        ((0.2, 1.0), None, "observe"),
    ],
)
def test_a_signal_is_taken_when_it_is_worth_more_than_it_costs(
    outlook: tuple[float, ...], cost: str | None, action: str
) -> None:
    assert EconomicPolicy(0.05).decide(looking(outlook, cost)).action == action


def test_an_unknown_cost_is_called_unknown() -> None:
    reason = EconomicPolicy(0.05).decide(looking((0.2, 1.0), None)).reason
    assert reason.endswith("costs an unknown amount")


@pytest.mark.parametrize(
    ("outlook", "action"),
    [((0.2, 0.9), "observe"), ((0.2, 0.7), "escalate"), ((0.8,), "observe")],
)
def test_a_threshold_takes_a_signal_that_may_change_the_decision(
    outlook: tuple[float, ...], action: str
) -> None:
    assert ThresholdPolicy(0.8).decide(looking(outlook, "9")).action == action


# --- budgets


@given(st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), min_size=1, max_size=60), chances)
def test_an_escalation_budget_is_used_up_but_for_ties(
    confidences: list[float], rate: float
) -> None:
    threshold = ThresholdPolicy.at_rate(confidences, rate).threshold
    allowed = round(rate * len(confidences))
    escalated = sum(c < threshold for c in confidences)
    assert escalated <= allowed
    if allowed < len(confidences):
        tied = sum(c == threshold for c in confidences)
        assert escalated + tied > allowed


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_an_escalation_budget_hits_its_rate_where_nothing_is_tied(rate: float) -> None:
    quantiles = np.linspace(0.01, 0.99, 101).tolist()
    policy = ThresholdPolicy.at_rate(quantiles, rate)
    drafts = np.random.default_rng(0).uniform(0.01, 0.99, 20_000)
    assert (drafts < policy.threshold).mean() == pytest.approx(rate, abs=0.015)


@pytest.mark.parametrize(
    ("confidences", "rate"), [([], 0.5), ([0.5], -0.1), ([0.5], 1.1), ([0.5], float("nan"))]
)
def test_an_escalation_budget_that_is_none_is_refused(
    confidences: list[float], rate: float
) -> None:
    with pytest.raises(ConfigurationError, match="escalation"):
        ThresholdPolicy.at_rate(confidences, rate)


@pytest.mark.parametrize("budget", [0.002, 0.005, 0.008])
def test_a_dollar_budget_is_kept_on_average(budget: float) -> None:
    """Drafts cost $0.0005, escalations $0.01 more, and the confidences drift half-way."""
    rng = np.random.default_rng(3)
    keeper = DollarBudget(DollarBudgetPolicy(budget))
    assert isinstance(keeper, LearnsCosts)
    costs = []
    for i in range(6000):
        confidence = float(rng.beta(6, 2) if i < 3000 else rng.beta(4, 3))
        escalated = keeper.decide(judged(confidence)).action == "escalate"
        costs.append(0.0005 + 0.01 * escalated)
        keeper.paid(Decimal(str(costs[-1])))
    assert np.mean(costs) == pytest.approx(budget, rel=0.05)


def test_a_higher_shadow_price_never_escalates_more() -> None:
    for i in range(21):
        actions = [
            DollarBudgetPolicy(0.01, shadow_price=price).decide(judged(i / 20)).action
            for price in (0.0, 10.0, 50.0, 200.0)
        ]
        assert actions == sorted(actions, reverse=True)  # escalate …, then accept …


def test_a_budget_cannot_spend_what_it_does_not_know() -> None:
    decision = DollarBudgetPolicy(0.01).decide(Situation(Assessment(confidence=0.1)))
    assert decision.action == "accept"
    assert "unknown" in decision.reason


@pytest.mark.parametrize(
    "make",
    [
        lambda: DollarBudgetPolicy(0.0),
        lambda: DollarBudgetPolicy(float("inf")),
        lambda: DollarBudgetPolicy(1.0, shadow_price=-1.0),
        lambda: DollarBudgetPolicy(1.0, shadow_price=float("nan")),
        lambda: DollarBudgetPolicy(1.0, step=0.0),
        lambda: DollarBudgetPolicy(1.0, p_large=1.5),
        lambda: CascadeRoutingPolicy(0.0),
        lambda: CascadeRoutingPolicy(float("inf")),
        lambda: CascadeRoutingPolicy(1.0, p_unknown=-0.1),
        lambda: AbstainPolicy(ThresholdPolicy(), -1.0),
        lambda: AbstainPolicy(ThresholdPolicy(), float("nan")),
    ],
)
def test_amounts_that_mean_nothing_are_refused(make: Callable[[], Policy]) -> None:
    with pytest.raises(ConfigurationError):
        make()


# --- routing

tiers = st.lists(
    st.tuples(st.one_of(st.none(), st.decimals(0, 1, places=3)), st.one_of(st.none(), chances)),
    min_size=1,
    max_size=4,
)


@given(tiers, chances, st.floats(0.01, 5))
def test_routing_is_the_argmin_over_the_draft_and_all_larger_tiers(
    above: list[tuple[Decimal | None, float | None]], confidence: float, error: float
) -> None:
    outlook = tuple(TierOutlook(f"t{i}", p, cost) for i, (cost, p) in enumerate(above))
    decision = CascadeRoutingPolicy(error, 0.9).decide(
        Situation(Assessment(confidence=confidence), above=outlook)
    )
    sides = {
        t.tier: float(t.cost_usd) + error * (1 - (0.9 if t.p_correct is None else t.p_correct))
        for t in outlook
        if t.cost_usd is not None
    }
    if not sides:
        assert (decision.action, decision.confidence) == ("escalate", confidence)
        assert decision.reason == "no larger tier has a price"
        return
    sides["draft"] = error * (1 - confidence)
    chosen = "draft" if decision.action == "accept" else decision.tier
    assert sides[str(chosen)] <= min(sides.values()) + 1e-9 * (1 + error)


def test_a_middle_tier_that_promises_too_little_is_skipped() -> None:
    above = (
        TierOutlook("middle", 0.5, Decimal("0.005")),
        TierOutlook("large", 0.95, Decimal("0.01")),
    )
    drafted = Situation(Assessment(confidence=0.4), above=above)
    assert CascadeRoutingPolicy(0.05).decide(drafted).tier == "large"
    ruled_out = Situation(Assessment(objection="the answer is empty"), above=above)
    assert CascadeRoutingPolicy(0.05).decide(ruled_out).tier == "large"


# --- wrappers


@pytest.mark.parametrize(
    ("confidence", "price", "action"),
    [(0.5, 0.001, "abstain"), (0.5, 0.1, "escalate"), (0.99, 0.001, "accept")],
)
def test_abstaining_is_chosen_when_it_is_the_cheapest(
    confidence: float, price: float, action: str
) -> None:
    decision = AbstainPolicy(EconomicPolicy(0.05), price).decide(judged(confidence))
    assert decision.action == action


def test_abstaining_needs_both_sides_in_dollars() -> None:
    assert AbstainPolicy(ThresholdPolicy(), 0.0).decide(judged(0.1)).action == "escalate"


@pytest.mark.parametrize(
    ("left", "action"),
    [(None, "escalate"), (9.0, "escalate"), (2.0, "accept"), (-1.0, "accept")],
)
def test_what_cannot_be_escalated_in_time_is_accepted(left: float | None, action: str) -> None:
    decision = DeadlinePolicy(ThresholdPolicy()).decide(judged(0.1, left=left))
    assert decision.action == action
    assert ("are left" in decision.reason) == (action == "accept")


def test_a_larger_tier_of_unknown_speed_is_tried_while_any_time_is_left() -> None:
    def decide(left: float) -> str:
        situation = Situation(Assessment(confidence=0.1), time_left_s=left)
        return DeadlinePolicy(ThresholdPolicy()).decide(situation).action

    assert decide(0.01) == "escalate"
    assert decide(0.0) == "accept"


def test_a_budget_learns_what_requests_cost_from_within_other_policies() -> None:
    keeper = DollarBudget(DollarBudgetPolicy(0.001))
    tell_cost(DeadlinePolicy(AbstainPolicy(keeper, 1.0)), Decimal("0.1"))
    assert keeper.policy == DollarBudgetPolicy(0.001).after(Decimal("0.1"))
    tell_cost(DeadlinePolicy(ThresholdPolicy()), Decimal("0.1"))  # nobody there wants to know
