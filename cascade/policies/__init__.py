"""Deferral policies: from a confidence and costs to accept, escalate, observe or abstain."""

from cascade.policies.base import (
    LearnsCosts,
    NextSignal,
    Policy,
    Situation,
    TierOutlook,
    obstacle,
    tell_cost,
)
from cascade.policies.budget import DollarBudget, DollarBudgetPolicy
from cascade.policies.certified import CertifiedPolicy, promises
from cascade.policies.economic import EconomicPolicy
from cascade.policies.given import GivenPolicy, given
from cascade.policies.guard import CAUTIONS, Caution, Guard, GuardedPolicy
from cascade.policies.reuse import Reuse
from cascade.policies.risk import RISKS, Risk, RiskPolicy, ToolRisks, hold, with_risks
from cascade.policies.routing import CascadeRoutingPolicy
from cascade.policies.rule import break_even, value_of_information
from cascade.policies.threshold import DEFAULT_THRESHOLD, ThresholdPolicy
from cascade.policies.wrappers import AbstainPolicy, DeadlinePolicy, UncalibratedPolicy

__all__ = [
    "CAUTIONS",
    "DEFAULT_THRESHOLD",
    "RISKS",
    "AbstainPolicy",
    "CascadeRoutingPolicy",
    "Caution",
    "CertifiedPolicy",
    "DeadlinePolicy",
    "DollarBudget",
    "DollarBudgetPolicy",
    "EconomicPolicy",
    "GivenPolicy",
    "Guard",
    "GuardedPolicy",
    "LearnsCosts",
    "NextSignal",
    "Policy",
    "Reuse",
    "Risk",
    "RiskPolicy",
    "Situation",
    "ThresholdPolicy",
    "TierOutlook",
    "ToolRisks",
    "UncalibratedPolicy",
    "break_even",
    "given",
    "hold",
    "obstacle",
    "promises",
    "tell_cost",
    "value_of_information",
    "with_risks",
]
