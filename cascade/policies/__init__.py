"""Deferral policies: from a confidence and costs to accept, escalate, observe, abstain or ask."""

from cascade.policies.base import (
    DEFAULT_THRESHOLD,
    AbstainPolicy,
    BudgetPolicy,
    EconomicPolicy,
    NextSignal,
    Policy,
    Situation,
    ThresholdPolicy,
    TierOutlook,
    dollars,
    tell_cost,
)
from cascade.policies.certified import CertifiedPolicy, Refusal, certify, promises

__all__ = [
    "DEFAULT_THRESHOLD",
    "AbstainPolicy",
    "BudgetPolicy",
    "CertifiedPolicy",
    "EconomicPolicy",
    "NextSignal",
    "Policy",
    "Refusal",
    "Situation",
    "ThresholdPolicy",
    "TierOutlook",
    "certify",
    "dollars",
    "promises",
    "tell_cost",
]
