"""What a deferral policy sees and says. Policies are pure: no clock, no network, no chance."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol, runtime_checkable

from cascade.state import Assessment, Decision


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that a decision may depend on.

    Attributes:
        assessment: signals and confidence of the draft.
        escalation_cost_usd: what asking the next tier is expected to cost, None if unknown.
    """

    assessment: Assessment
    escalation_cost_usd: Decimal | None = None


@runtime_checkable
class Policy(Protocol):
    """Decides about a draft."""

    def decide(self, situation: Situation) -> Decision:
        """Accept the draft, escalate, abstain, or ask a person."""
        ...


def obstacle(assessment: Assessment) -> Decision | None:
    """The decision that needs no threshold: escalate what is ruled out or cannot be judged."""
    reason = assessment.objection
    if reason is None and assessment.confidence is None:
        reason = f"no confidence: {assessment.missing or 'no signal was taken'}"
    if reason is None:
        return None
    return Decision(action="escalate", reason=reason, calibrated=assessment.calibrated)
