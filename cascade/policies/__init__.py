"""Deferral policies: from a confidence and costs to accept, escalate, observe, abstain or ask.

Certificates load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade._lazy import lazily
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
    promises,
    tell_cost,
)

if TYPE_CHECKING:
    from cascade.policies.certified import CertifiedPolicy, Refusal, certify

__getattr__ = lazily(__name__, {"certified": "CertifiedPolicy Refusal certify"})

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
