"""Deferral policies: from a confidence and costs to accept, escalate, observe, abstain or ask.

Names load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade._lazy import lazily

if TYPE_CHECKING:
    from cascade.policies.base import DEFAULT_THRESHOLD as DEFAULT_THRESHOLD
    from cascade.policies.base import EconomicPolicy as EconomicPolicy
    from cascade.policies.base import NextSignal as NextSignal
    from cascade.policies.base import Policy as Policy
    from cascade.policies.base import Situation as Situation
    from cascade.policies.base import ThresholdPolicy as ThresholdPolicy
    from cascade.policies.base import TierOutlook as TierOutlook
    from cascade.policies.base import dollars as dollars
    from cascade.policies.base import promises as promises
    from cascade.policies.base import tell_cost as tell_cost
    from cascade.policies.certified import CertifiedPolicy as CertifiedPolicy
    from cascade.policies.certified import Refusal as Refusal
    from cascade.policies.certified import certify as certify
    from cascade.policies.spending import AbstainPolicy as AbstainPolicy
    from cascade.policies.spending import BudgetPolicy as BudgetPolicy

__getattr__ = lazily(
    __name__,
    {
        "base": "DEFAULT_THRESHOLD EconomicPolicy NextSignal Policy Situation ThresholdPolicy "
        "TierOutlook dollars promises tell_cost",
        "certified": "CertifiedPolicy Refusal certify",
        "spending": "AbstainPolicy BudgetPolicy",
    },
)
