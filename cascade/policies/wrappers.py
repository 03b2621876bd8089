"""Policies around another policy: abstain where nobody is good enough, keep to a deadline."""

from __future__ import annotations

from dataclasses import dataclass

from cascade.errors import ConfigurationError
from cascade.policies.base import Policy, Situation
from cascade.state import Decision


@dataclass(frozen=True, slots=True)
class AbstainPolicy:
    """Give no answer where even the better side is expected to cost more (arXiv 2502.09054).

    Args:
        inner: decides everything else; must know expected costs, as `EconomicPolicy` does.
        price_of_abstaining: λ_a, dollars that an unanswered question costs you.

    Raises:
        ConfigurationError: the price is negative.
    """

    inner: Policy
    price_of_abstaining: float

    def __post_init__(self) -> None:
        if not self.price_of_abstaining >= 0:
            raise ConfigurationError(
                f"price_of_abstaining={self.price_of_abstaining}: must not be negative."
            )

    def decide(self, situation: Situation) -> Decision:
        """The inner decision, or abstain when that is cheaper."""
        decision = self.inner.decide(situation)
        sides = (decision.expected_cost_accept_usd, decision.expected_cost_escalate_usd)
        known = [float(side) for side in sides if side is not None]
        if len(known) < 2 or min(known) <= self.price_of_abstaining:
            return decision
        return decision.model_copy(
            update={
                "action": "abstain",
                "reason": f"{decision.reason}; the better side is expected to cost "
                f"${min(known):.6f}, an unanswered question ${self.price_of_abstaining:.6f}",
            }
        )


@dataclass(frozen=True, slots=True)
class DeadlinePolicy:
    """Accept what would be escalated when the larger tier cannot answer in time.

    Args:
        inner: decides while there is time.
    """

    inner: Policy

    def decide(self, situation: Situation) -> Decision:
        """The inner decision, or accept when time runs out."""
        decision = self.inner.decide(situation)
        left, needed = situation.time_left_s, situation.escalation_s
        ruled_out = situation.assessment.objection is not None
        if decision.action not in ("escalate", "observe") or left is None or ruled_out:
            return decision
        if left > (needed or 0.0):
            return decision
        return decision.model_copy(
            update={
                "action": "accept",
                "once": True,
                "reason": f"{decision.reason}; but {left:.2f} s are left and escalating takes "
                f"{needed or 0.0:.2f} s",
            }
        )


@dataclass(frozen=True, slots=True)
class UncalibratedPolicy:
    """Another policy for scores that are no probabilities, as where a task differs from the
    one that was calibrated.

    Args:
        inner: decides about calibrated confidences.
        otherwise: decides about raw scores.
    """

    inner: Policy
    otherwise: Policy

    def decide(self, situation: Situation) -> Decision:
        """The decision of whoever understands the confidence."""
        assessment = situation.assessment
        raw = assessment.confidence is not None and not assessment.calibrated
        return (self.otherwise if raw else self.inner).decide(situation)
