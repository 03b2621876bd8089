from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.policies import (
    CAUTIONS,
    Caution,
    CertifiedPolicy,
    DeadlinePolicy,
    EconomicPolicy,
    Guard,
    GuardedPolicy,
    NextSignal,
    Policy,
    Situation,
    ThresholdPolicy,
)
from cascade.state import Assessment, Certificate, Decision

certificate = Certificate(
    threshold=0.7, max_harm=0.1, delta=0.1, n=100, errors=3, coverage=0.6, bound=0.08
)
chance = st.floats(0, 1)
policies = st.sampled_from(
    [ThresholdPolicy(0.7), EconomicPolicy(1.0, 0.95), CertifiedPolicy(certificate)]
)


def situation(confidence: float | None, **assessment: object) -> Situation:
    return Situation(
        Assessment(confidence=confidence, calibrated=True, **assessment),  # type: ignore[arg-type]
        escalation_cost_usd=Decimal("0.05"),
    )


@given(policies, chance)
def test_in_normal_times_and_while_audits_are_more_frequent_nothing_changes(
    policy: Policy, confidence: float
) -> None:
    levels: tuple[Caution, ...] = ("normal", "audit")
    for caution in levels:
        found = GuardedPolicy(policy, Guard(caution)).decide(situation(confidence))
        assert found == policy.decide(situation(confidence))


@given(policies, chance)
def test_a_tightened_policy_accepts_a_part_of_what_it_accepted(
    policy: Policy, confidence: float
) -> None:
    tight = GuardedPolicy(policy, Guard("tighten")).decide(situation(confidence))
    if tight.action == "accept":
        assert policy.decide(situation(confidence)).action == "accept"
    assert tight.confidence == confidence


@pytest.mark.parametrize(("odds", "accepted"), [(1.0, True), (1.7, True), (1.8, False)])
def test_the_odds_of_an_error_decide_how_much_tighter_it_is(odds: float, accepted: bool) -> None:
    # Odds of an error 1:4 at 0.8, and 3:7 at the threshold: 1.714 times as high.
    guarded = GuardedPolicy(ThresholdPolicy(0.7), Guard("tighten", error_odds=odds))
    decision = guarded.decide(situation(0.8))
    assert (decision.action == "accept") is accepted
    assert f"count {odds:g}-fold" in decision.reason


@given(chance, chance)
def test_doubt_keeps_the_order_and_raises_nothing(a: float, b: float) -> None:
    guard = Guard()
    assert guard.doubted(a) <= a
    assert (guard.doubted(min(a, b))) <= guard.doubted(max(a, b))
    assert (guard.doubted(0.0), guard.doubted(1.0)) == (0.0, 1.0)


def test_the_interval_and_what_a_signal_led_to_are_doubted_too() -> None:
    seen: list[Situation] = []

    class Looks:
        def decide(self, situation: Situation) -> Decision:
            seen.append(situation)
            return Decision(action="escalate", reason="looked")

    asked = Situation(
        Assessment(confidence=0.5, interval=(0.0, 0.8)),
        next_signal=NextSignal("p_true", (0.5, 1.0)),
    )
    GuardedPolicy(Looks(), Guard("tighten")).decide(asked)
    interval = seen[0].assessment.interval
    assert interval is not None
    assert list(interval) == pytest.approx([0.0, 0.8 / 1.2])
    assert seen[0].next_signal is not None
    assert list(seen[0].next_signal.outlook) == pytest.approx([1 / 3, 1.0])


@given(policies, chance)
def test_with_the_large_model_only_no_draft_is_accepted(policy: Policy, confidence: float) -> None:
    decision = GuardedPolicy(policy, Guard("large_only")).decide(situation(confidence))
    assert decision.action == "escalate"


def test_with_the_large_model_only_no_deadline_accepts_and_no_signal_is_taken() -> None:
    guard = Guard("large_only")
    late = Situation(Assessment(confidence=0.2), time_left_s=0.0)
    assert DeadlinePolicy(ThresholdPolicy()).decide(late).action == "accept"
    found = GuardedPolicy(DeadlinePolicy(ThresholdPolicy()), guard).decide(late)
    assert found.action == "escalate"
    assert found.reason.endswith("after an alarm only the large model answers")
    undecided = Situation(Assessment(confidence=0.5), next_signal=NextSignal("p_true", (0.1, 0.9)))
    assert ThresholdPolicy().decide(undecided).action == "observe"
    assert GuardedPolicy(ThresholdPolicy(), guard).decide(undecided).action == "escalate"


def test_without_a_confidence_there_is_nothing_to_doubt() -> None:
    policy = ThresholdPolicy()
    found = GuardedPolicy(policy, Guard("tighten")).decide(situation(None, missing="none came"))
    assert found == policy.decide(situation(None, missing="none came"))


def test_audits_are_more_frequent_in_every_mode_but_the_normal_one() -> None:
    assert [Guard(caution).rate_factor() for caution in CAUTIONS] == [1.0, 4.0, 4.0, 4.0]
