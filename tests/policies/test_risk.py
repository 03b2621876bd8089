"""What a draft has to show before it may call a tool that changes something."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.errors import ConfigurationError
from cascade.policies import (
    CertifiedPolicy,
    DeadlinePolicy,
    EconomicPolicy,
    Guard,
    GuardedPolicy,
    NextSignal,
    Policy,
    RiskPolicy,
    Situation,
    ThresholdPolicy,
    ToolRisks,
    UncalibratedPolicy,
    hold,
    promises,
    with_risks,
)
from cascade.state import Assessment, Certificate, Decision

RISKS = ToolRisks({"search": "read", "save": "write", "delete": "irreversible"})
certificate = Certificate(
    threshold=0.7, max_harm=0.1, delta=0.1, n=100, errors=3, coverage=0.6, bound=0.08
)


def situation(
    confidence: float | None, *called: str, calibrated: bool = True, **more: object
) -> Situation:
    return replace(
        Situation(
            Assessment(confidence=confidence, calibrated=calibrated),
            escalation_cost_usd=Decimal("0.05"),
            called=called,
        ),
        **more,  # type: ignore[arg-type]
    )


def decide(
    confidence: float | None, *called: str, calibrated: bool = True, threshold: float = 0.5
) -> Decision:
    policy = RiskPolicy(ThresholdPolicy(threshold), RISKS)
    return policy.decide(situation(confidence, *called, calibrated=calibrated))


@pytest.mark.parametrize(
    ("called", "confidence", "calibrated", "action"),
    [
        ((), 0.5, True, "accept"),
        (("search",), 0.5, True, "accept"),
        (("search",), 0.5, False, "accept"),
        (("save",), 0.89, True, "escalate"),
        (("save",), 0.9, True, "accept"),
        (("save",), 0.9, False, "accept"),
        (("unheard_of",), 0.89, True, "escalate"),
        (("unheard_of",), 0.9, True, "accept"),
        (("delete",), 0.98, True, "escalate"),
        (("delete",), 0.99, True, "accept"),
        (("delete",), 0.99, False, "escalate"),
        (("delete",), 1.0, False, "escalate"),
        (("search", "delete", "save"), 0.95, True, "escalate"),
        (("search", "search"), 0.6, True, "accept"),
        (("delete",), 0.4, True, "escalate"),
        (("delete",), None, True, "escalate"),
        (("save",), None, False, "escalate"),
    ],
)
def test_what_a_call_takes(
    called: tuple[str, ...], confidence: float | None, calibrated: bool, action: str
) -> None:
    assert decide(confidence, *called, calibrated=calibrated).action == action


@pytest.mark.parametrize(
    ("called", "calibrated", "reason"),
    [
        (
            "delete",
            True,
            "confidence 0.850 ≥ 0.500; but delete is irreversible, which takes a calibrated "
            "confidence of 0.99 or more",
        ),
        (
            "delete",
            False,
            "uncalibrated score 0.850 ≥ 0.500; but delete is irreversible, which takes a "
            "calibrated confidence of 0.99 or more",
        ),
        (
            "save",
            True,
            "confidence 0.850 ≥ 0.500; but save is marked write, which takes a confidence of 0.9 "
            "or more",
        ),
        (
            "other",
            True,
            "confidence 0.850 ≥ 0.500; but other has no mark and counts as write, "
            "which takes a confidence of 0.9 or more",
        ),
    ],
)
def test_the_reason_names_tool_risk_and_demand(called: str, calibrated: bool, reason: str) -> None:
    decision = decide(0.85, called, calibrated=calibrated)
    assert decision.reason == reason
    assert decision.confidence == 0.85
    assert decision.calibrated == calibrated
    assert decision.threshold == (0.99 if called == "delete" else 0.9)


def test_an_accepted_call_says_what_it_took() -> None:
    decision = decide(0.995, "delete")
    assert decision.reason == (
        "confidence 0.995 ≥ 0.500; delete is irreversible, which takes a calibrated confidence of "
        "0.99 or more"
    )
    assert decision.threshold == 0.99
    assert decide(0.999, "delete", threshold=0.995).threshold == 0.995


chance = st.floats(0, 1)
tools = st.lists(st.sampled_from(["search", "save", "delete", "other"]), max_size=3)
policies = st.sampled_from(
    [
        ThresholdPolicy(0.7),
        EconomicPolicy(1.0, 0.95),
        CertifiedPolicy(certificate),
        DeadlinePolicy(ThresholdPolicy(0.9)),
        GuardedPolicy(ThresholdPolicy(0.7), Guard("tighten")),
        UncalibratedPolicy(ThresholdPolicy(0.7), ThresholdPolicy(0.8)),
    ]
)


@given(policies, chance, st.booleans(), tools, st.none() | st.floats(-1, 1))
def test_under_the_rule_a_part_of_what_was_accepted_is_accepted(
    policy: Policy, confidence: float, calibrated: bool, called: list[str], left_s: float | None
) -> None:
    """So a certificate, which bounds what is accepted and wrong, holds on."""
    seen = situation(confidence, *called, calibrated=calibrated, time_left_s=left_s)
    before, now = policy.decide(seen), with_risks(policy, RISKS).decide(seen)
    if now.action == "accept":
        assert before.action == "accept"
        assert "delete" not in called or (calibrated and confidence >= 0.99)
    if before.action != "accept":
        assert now == before


@given(chance, chance, tools)
def test_the_surer_of_two_drafts_is_accepted_at_least_as_readily(
    one: float, other: float, called: list[str]
) -> None:
    low, high = sorted((one, other))
    if decide(low, *called).action == "accept":
        assert decide(high, *called).action == "accept"


@pytest.mark.parametrize("policy", [CertifiedPolicy(certificate), ThresholdPolicy()])
def test_a_promise_is_seen_through_the_rule(policy: Policy) -> None:
    assert promises(with_risks(policy, RISKS)) == promises(policy)


def test_without_a_mark_there_is_no_rule() -> None:
    policy = ThresholdPolicy()
    assert with_risks(policy, ToolRisks(irreversible_confidence=1.0)) is policy
    assert RiskPolicy(policy, ToolRisks()).decide(situation(0.8, "delete")).action == "accept"


def test_a_deadline_accepts_no_irreversible_call() -> None:
    late = situation(0.5, "delete", time_left_s=0.0, escalation_s=5.0)
    policy = DeadlinePolicy(ThresholdPolicy(0.9))
    assert policy.decide(late).action == "accept"
    decision = with_risks(policy, RISKS).decide(late)
    assert decision.action == "escalate"
    assert "0.00 s are left" in decision.reason
    assert "delete is irreversible" in decision.reason


def test_after_an_alarm_the_doubted_confidence_is_held_against_the_demand() -> None:
    guarded = GuardedPolicy(ThresholdPolicy(0.5), Guard("tighten", error_odds=2.0))
    policy = with_risks(guarded, RISKS)
    assert isinstance(policy, GuardedPolicy)
    assert policy.guard is guarded.guard
    assert policy.decide(situation(0.991, "delete")).action == "escalate"
    assert policy.decide(situation(0.996, "delete")).action == "accept"
    guarded.guard.caution = "normal"
    assert policy.decide(situation(0.991, "delete")).action == "accept"


@pytest.mark.parametrize(("outlook", "action"), [((0.7, 0.999), "observe"), ((0.7,), "escalate")])
def test_a_signal_that_could_satisfy_the_demand_is_taken(
    outlook: tuple[float, ...], action: str
) -> None:
    seen = situation(0.9, "delete", next_signal=NextSignal("p_true", outlook))
    policy = RiskPolicy(ThresholdPolicy(0.5), RISKS)
    found = policy.held(Decision(action="accept", reason="sure", confidence=0.9), seen)
    assert found.action == action


def test_what_somebody_else_decided_is_held_against_the_rule() -> None:
    verdict = Decision(action="accept", reason="your verifier accepted the draft")
    under = GuardedPolicy(RiskPolicy(ThresholdPolicy(), RISKS), Guard())
    seen = situation(0.95, "delete")
    assert hold(under, verdict, seen).action == "escalate"
    assert hold(ThresholdPolicy(), verdict, seen) is verdict


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"tools": {"delete": "dangerous"}}, "'delete' is 'dangerous'"),
        ({"irreversible_confidence": 1.1}, "irreversible_confidence=1.1"),
        ({"write_confidence": -0.1}, "write_confidence=-0.1"),
        ({"irreversible_confidence": 0.8}, "not below the first"),
        ({"irreversible_confidence": float("nan")}, "between 0 and 1"),
        ({"irreversible": "never"}, "irreversible='never'"),
    ],
)
def test_what_is_no_risk_is_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        ToolRisks(**options)  # type: ignore[arg-type]


def test_what_is_said_of_a_tool_holds_before_what_it_says_of_itself() -> None:
    risks = ToolRisks({"delete": "read"}, write_confidence=0.7)
    both = risks.besides({"delete": "irreversible", "save": "write"})
    assert both.tools == {"delete": "read", "save": "write"}
    assert both.write_confidence == 0.7
    assert risks.besides({}) is risks
