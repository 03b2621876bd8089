"""Deferral policies: from a confidence and costs to accept, escalate, observe, abstain or ask."""

from cascade.policies.base import (
    LearnsCosts,
    NextSignal,
    Policy,
    Situation,
    TierOutlook,
    break_even,
    can_change,
    compare,
    dollars,
    outright,
    settled,
    tell_cost,
    value_of_information,
    with_observation,
)
from cascade.policies.budget import BudgetPolicy
from cascade.policies.certified import CertifiedPolicy, Refusal, certify, promises
from cascade.policies.economic import AbstainPolicy, EconomicPolicy
from cascade.policies.threshold import DEFAULT_THRESHOLD, ThresholdPolicy

__all__ = [
    "DEFAULT_THRESHOLD",
    "AbstainPolicy",
    "BudgetPolicy",
    "CertifiedPolicy",
    "EconomicPolicy",
    "LearnsCosts",
    "NextSignal",
    "Policy",
    "Refusal",
    "Situation",
    "ThresholdPolicy",
    "TierOutlook",
    "break_even",
    "can_change",
    "certify",
    "compare",
    "dollars",
    "outright",
    "promises",
    "settled",
    "tell_cost",
    "value_of_information",
    "with_observation",
]
