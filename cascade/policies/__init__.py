"""Deferral policies: from a confidence and costs to accept, escalate, observe, abstain or ask.

Names load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade._lazy import lazily

if TYPE_CHECKING:
    from cascade.policies.base import AbstainPolicy as AbstainPolicy
    from cascade.policies.base import BudgetPolicy as BudgetPolicy
    from cascade.policies.base import EconomicPolicy as EconomicPolicy
    from cascade.policies.base import NextSignal as NextSignal
    from cascade.policies.base import Policy as Policy
    from cascade.policies.base import Situation as Situation
    from cascade.policies.base import ThresholdPolicy as ThresholdPolicy
    from cascade.policies.base import TierOutlook as TierOutlook
    from cascade.policies.certified import CertifiedPolicy as CertifiedPolicy
    from cascade.policies.certified import Refusal as Refusal
    from cascade.policies.certified import certify as certify

__getattr__ = lazily(
    __name__,
    {
        "base": "AbstainPolicy BudgetPolicy EconomicPolicy NextSignal Policy Situation "
        "ThresholdPolicy TierOutlook",
        "certified": "CertifiedPolicy Refusal certify",
    },
)
