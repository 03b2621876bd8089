"""The threshold policy, by table and by law."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.errors import ConfigurationError
from cascade.policies import (
    DEFAULT_THRESHOLD,
    Policy,
    Situation,
    ThresholdPolicy,
    UncalibratedPolicy,
)
from cascade.state import Assessment


def judged(confidence: float | None, **known: object) -> Situation:
    return Situation(Assessment(confidence=confidence, **known))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("confidence", "threshold", "action"),
    [
        (0.80, 0.8, "accept"),
        (0.79, 0.8, "escalate"),
        (1.0, 1.0, "accept"),
        (0.999, 1.0, "escalate"),
        (0.0, 0.0, "accept"),
    ],
)
def test_at_the_threshold_and_above_a_draft_is_accepted(
    confidence: float, threshold: float, action: str
) -> None:
    decision = ThresholdPolicy(threshold).decide(judged(confidence))
    assert decision.action == action
    assert decision.threshold == threshold
    assert decision.confidence == confidence


def test_the_default_is_a_policy_with_the_documented_threshold() -> None:
    assert isinstance(ThresholdPolicy(), Policy)
    assert ThresholdPolicy().threshold == DEFAULT_THRESHOLD == 0.8


def test_the_reason_says_whether_the_number_is_calibrated() -> None:
    policy = ThresholdPolicy()
    assert policy.decide(judged(0.9)).reason == "uncalibrated score 0.900 ≥ 0.800"
    assert policy.decide(judged(0.9, calibrated=True)).reason == "confidence 0.900 ≥ 0.800"
    assert policy.decide(judged(0.9, calibrated=True)).calibrated


def test_the_reason_never_shows_a_rounded_contradiction() -> None:
    reason = ThresholdPolicy(0.8).decide(judged(0.79999)).reason
    assert reason == "uncalibrated score 0.79999 < 0.8"


@pytest.mark.parametrize(
    ("situation", "reason"),
    [
        (judged(None, missing="logprobs did not come back"), "no confidence: logprobs did not"),
        (judged(None), "no confidence: no signal was taken"),
        (judged(1.0, objection="the answer is empty"), "the answer is empty"),
    ],
)
def test_what_cannot_be_judged_or_is_ruled_out_is_escalated_even_at_threshold_zero(
    situation: Situation, reason: str
) -> None:
    decision = ThresholdPolicy(0.0).decide(situation)
    assert decision.action == "escalate"
    assert decision.reason.startswith(reason)
    assert decision.threshold == 0.0


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_threshold_outside_of_zero_to_one_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigurationError, match="between 0 and 1"):
        ThresholdPolicy(threshold)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_more_confidence_never_turns_accept_into_escalate(
    threshold: float, one: float, other: float
) -> None:
    policy = ThresholdPolicy(threshold)
    low, high = sorted((one, other))
    if policy.decide(judged(low)).action == "accept":
        assert policy.decide(judged(high)).action == "accept"


@pytest.mark.parametrize(
    ("situation", "threshold"),
    [
        (judged(0.5, calibrated=True), 0.2),
        (judged(0.5), 0.9),
        (judged(None), 0.2),
    ],
)
def test_a_raw_score_is_judged_by_its_own_policy(situation: Situation, threshold: float) -> None:
    policy = UncalibratedPolicy(ThresholdPolicy(0.2), otherwise=ThresholdPolicy(0.9))
    assert policy.decide(situation).threshold == threshold
