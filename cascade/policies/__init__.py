"""Deferral policies: from a confidence and costs to accept, escalate, observe, abstain or ask."""

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
