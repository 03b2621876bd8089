"""Deferral policies: from a confidence and costs to accept or escalate."""

from cascade.policies.base import Policy, Situation, obstacle
from cascade.policies.economic import EconomicPolicy
from cascade.policies.threshold import DEFAULT_THRESHOLD, ThresholdPolicy

__all__ = [
    "DEFAULT_THRESHOLD",
    "EconomicPolicy",
    "Policy",
    "Situation",
    "ThresholdPolicy",
    "obstacle",
]
