"""Policies by table, and the laws that all of them keep."""

from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.errors import ConfigurationError
from cascade.policies import (
    AbstainPolicy,
    BudgetPolicy,
    CertifiedPolicy,
    EconomicPolicy,
    NextSignal,
    Policy,
    Refusal,
    Situation,
    ThresholdPolicy,
    TierOutlook,
)
from cascade.policies.base import DEFAULT_THRESHOLD, dollars, promises, value_of_information, within
from cascade.state import Assessment, Certificate
from tests.confidence.drafts import CERTIFICATE

POLICIES: dict[str, Policy] = {
    "threshold": ThresholdPolicy(0.7),
    "economic": EconomicPolicy(0.05, 0.95),
    "certified": CertifiedPolicy(CERTIFICATE),
    "budget": BudgetPolicy(0.004),
    "abstain": AbstainPolicy(EconomicPolicy(0.05, 0.95), 1.0),
}
COST = Decimal("0.01")
chances = st.floats(0, 1)
outlooks = st.lists(chances, min_size=1, max_size=30).map(tuple)
every = pytest.mark.parametrize("name", POLICIES)


def judged(confidence: float | None, *, last: bool = False, **known: object) -> Situation:
    assessment = Assessment(**{"confidence": confidence, "calibrated": True, **known})  # type: ignore[arg-type]
    return Situation(assessment, (TierOutlook("large", None, COST),), last=last)


@every
def test_a_decision_is_monotone_in_confidence(name: str) -> None:
    decisions = [POLICIES[name].decide(judged(i / 200)) for i in range(201)]
    accepted = [decision.action == "accept" for decision in decisions]
    assert all(later or not earlier for earlier, later in pairwise(accepted))
    assert accepted[-1]
    assert not accepted[0]


EMPTY = "the answer is empty"


@every
@pytest.mark.parametrize(
    ("situation", "action", "reason"),
    [
        (judged(1.0, objection=EMPTY), "escalate", EMPTY),
        (judged(None, missing="p_true is away"), "escalate", "no confidence: p_true is away"),
        (judged(None), "escalate", "no confidence: no signal was taken"),
        (judged(None, signals={"trajectory": 1.0}), "escalate", "before they are calibrated"),
        (judged(0.0, last=True, objection=EMPTY), "accept", "the answer of the last tier"),
    ],
    ids=["ruled out", "missing", "not taken", "not read", "last"],
)
def test_facts_are_settled_first(name: str, situation: Situation, action: str, reason: str) -> None:
    decision = POLICIES[name].decide(situation)
    assert decision.action == action
    assert decision.reason.endswith(reason)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ThresholdPolicy.at_rate([], 0.5),
        lambda: ThresholdPolicy(0.5, uncalibrated=-0.1),
        lambda: EconomicPolicy(1.0, p_large=-0.1),
        lambda: BudgetPolicy(float("nan")),
        lambda: AbstainPolicy(ThresholdPolicy(), -1.0),
        lambda: CertifiedPolicy(Certificate(**{**vars(CERTIFICATE), "valid_until": "2020-01-01"})),
        lambda: CertifiedPolicy(Refusal("bring 7 labels or more", 7)),  # type: ignore[arg-type]
    ],
)
def test_amounts_that_mean_nothing_are_refused(make: Callable[[], Policy]) -> None:
    with pytest.raises(ConfigurationError):
        make()


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0", "$0.00"), ("1e3", "$1,000.00"), ("4.567e-7", "$0.000000457"), ("-0.00261", "−$0.00261")],
)
def test_amounts_are_rounded_for_people(amount: str, text: str) -> None:
    assert dollars(Decimal(amount)) == text


def test_raw_scores_are_said_to_be_raw_and_may_have_a_threshold_of_their_own() -> None:
    raw = ThresholdPolicy().decide(judged(0.9, calibrated=False))
    assert raw.reason == "uncalibrated score 0.900 ≥ 0.800"
    calibrated = ThresholdPolicy().decide(judged(0.9))
    assert calibrated.reason == "confidence 0.900 ≥ 0.800"
    assert (raw.calibrated, calibrated.calibrated) == (False, True)
    close = ThresholdPolicy(0.8).decide(judged(0.79999))
    assert close.reason == "confidence 0.79999 < 0.8", "no rounded contradiction"
    assert judged(1.0).compared(1.5).action == "escalate"
    with pytest.raises(ValueError, match="threshold"):
        judged(1.0).compared(float("nan"))
    policy = ThresholdPolicy(0.2, uncalibrated=0.9)
    assert policy.decide(judged(0.5)).threshold == 0.2
    assert policy.decide(judged(0.5, calibrated=False)).threshold == 0.9
    assert policy.decide(judged(None, calibrated=False)).threshold == 0.9


@given(st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), min_size=1, max_size=60), chances)
def test_an_escalation_budget_is_used_but_for_ties(confidences: list[float], rate: float) -> None:
    policy = ThresholdPolicy.at_rate(confidences, rate)
    allowed = round(rate * len(confidences))
    escalated = sum(c < policy.threshold for c in confidences)
    assert escalated <= allowed
    if allowed < len(confidences):
        assert escalated + confidences.count(policy.threshold) > allowed
    assert policy.uncalibrated == DEFAULT_THRESHOLD


tiers = st.lists(
    st.tuples(st.one_of(st.none(), st.decimals(0, 1, places=3)), st.one_of(st.none(), chances)),
    min_size=1,
    max_size=4,
)


@given(tiers, chances, st.floats(0.01, 5))
def test_of_several_larger_tiers_the_one_that_is_expected_to_be_cheapest_is_compared(
    above: list[tuple[Decimal | None, float | None]], confidence: float, error: float
) -> None:
    outlook = tuple(TierOutlook(f"t{i}", p, cost) for i, (cost, p) in enumerate(above))
    situation = Situation(Assessment(confidence=confidence), outlook)
    decision = EconomicPolicy(error, 0.9).decide(situation)
    sides = {
        t.tier: float(t.cost_usd) + error * (1 - (0.9 if t.p_correct is None else t.p_correct))
        for t in outlook
        if t.cost_usd is not None
    }
    if not sides:
        assert (decision.action, decision.confidence) == ("escalate", confidence)
        assert "the cost of escalating is unknown" in decision.reason
        return
    cheapest, accept = min(sides.values()), error * (1 - confidence)
    assert float(decision.expected_cost_accept_usd or 0) == pytest.approx(accept)
    assert float(decision.expected_cost_escalate_usd or 0) == pytest.approx(cheapest)
    chosen = accept if decision.action == "accept" else sides[decision.tier or "t0"]
    assert chosen <= min(accept, cheapest) + 1e-9 * (1 + error)


def test_a_middle_tier_that_promises_too_little_is_skipped_also_by_what_is_ruled_out() -> None:
    above = (TierOutlook("middle", 0.5, COST / 2), TierOutlook("large", 0.95, COST))
    for assessment in (Assessment(confidence=0.4), Assessment(objection="the answer is empty")):
        assert EconomicPolicy(0.05).decide(Situation(assessment, above=above)).tier == "large"


@given(outlooks, chances, st.floats(0.001, 100))
def test_information_is_no_harm(outlook: tuple[float, ...], threshold: float, error: float) -> None:
    worth = value_of_information(NextSignal("s", outlook), threshold, error)
    gaps = np.array([threshold - p for p in outlook])
    brute = error * (min(0.0, gaps.mean()) - np.minimum(0.0, gaps).mean())
    assert worth >= 0
    assert worth == pytest.approx(brute, abs=1e-9 * error)
    if min(gaps) >= 0 or max(gaps) <= 0:
        assert worth == 0.0, "it never changes the decision"


def looking(outlook: tuple[float, ...], cost: str | None) -> Situation:
    signal = NextSignal("p_true", outlook, None if cost is None else Decimal(cost))
    above = (TierOutlook("large", None, COST),)
    return Situation(Assessment(confidence=0.7, calibrated=True), above, signal)


@pytest.mark.parametrize(
    ("outlook", "cost", "action"),
    [
        ((0.2, 1.0), "0.001", "observe"),
        ((0.2, 1.0), "0.02", "escalate"),
        ((), "0", "escalate"),
        ((0.7, 0.71), "0", "escalate"),
        ((0.2, 1.0), None, "observe"),
    ],
)
def test_a_signal_is_taken_when_it_is_worth_more_than_it_costs(
    outlook: tuple[float, ...], cost: str | None, action: str
) -> None:
    decision = EconomicPolicy(0.05).decide(looking(outlook, cost))
    assert decision.action == action
    if cost is None:
        assert decision.reason.endswith("is worth $0.00500 and costs an unknown amount")


@pytest.mark.parametrize(
    ("outlook", "action"),
    [((0.2, 0.9), "observe"), ((0.2, 0.7), "escalate"), ((0.8,), "observe"), ((), "escalate")],
)
def test_a_threshold_takes_what_may_change_it(outlook: tuple[float, ...], action: str) -> None:
    assert ThresholdPolicy(0.8).decide(looking(outlook, "9")).action == action


def test_a_budget_cannot_spend_what_it_does_not_know() -> None:
    decision = BudgetPolicy(0.01).decide(Situation(Assessment(confidence=0.1)))
    assert decision.action == "accept"
    assert "unknown" in decision.reason


@pytest.mark.parametrize(
    ("confidence", "price", "action"),
    [(0.5, 0.001, "abstain"), (0.5, 0.1, "escalate"), (0.99, 0.001, "accept")],
)
def test_abstaining_is_chosen_when_cheapest(confidence: float, price: float, action: str) -> None:
    decision = AbstainPolicy(EconomicPolicy(0.05), price).decide(judged(confidence))
    assert decision.action == action


def test_promises_and_budgets_are_found_within_other_policies() -> None:
    assert promises(AbstainPolicy(CertifiedPolicy(CERTIFICATE), 1.0)) == CERTIFICATE.max_harm
    assert promises(AbstainPolicy(ThresholdPolicy(), 1.0)) is None
    keeper, around = BudgetPolicy(0.001), SimpleNamespace(certificate="a.json", paid=1)
    around.inner = AbstainPolicy(keeper, 1.0)  # a user's policy, whose names mean something else
    assert within(around, "paid", callable) == keeper.paid
    around.inner = CertifiedPolicy(CERTIFICATE)
    assert promises(around) == CERTIFICATE.max_harm


def test_a_budget_that_is_overspent_makes_escalating_dearer_and_one_that_is_not_cheaper() -> None:
    budget, judgement = BudgetPolicy(0.004), judged(0.9)
    assert budget.decide(judgement).action == "escalate"
    for _ in range(4):
        budget.paid(Decimal("0.01"))
    assert budget.shadow_price == pytest.approx(4 * 0.006 / (100 * 0.004**2))
    assert budget.decide(judgement).action == "accept"
    for _ in range(9):
        budget.paid(0.0)
    assert budget.shadow_price == 0
