"""What a watch for drift demands: how careful the policy has to be, and how much is audited."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from cascade.policies.base import Policy, Situation
from cascade.state import Decision

Caution = Literal["normal", "audit", "tighten", "large_only"]
"""From careless to careful, each with all that the one before it does: `audit` audits more often,
`tighten` accepts less, `large_only` accepts nothing."""

CAUTIONS: tuple[Caution, ...] = get_args(Caution)


@dataclass(slots=True)
class Guard:
    """How careful a cascade is. The watch for drift changes it, and others read it.

    Attributes:
        caution: how careful to be.
        error_odds: while it is `tighten` or more, the odds of an error count so many times as
            high as the confidence says.
        audit_factor: while it is `audit` or more, accepted drafts are audited so many times as
            often.
    """

    caution: Caution = "normal"
    error_odds: float = 2.0
    audit_factor: float = 4.0

    def rate_factor(self) -> float:
        """By what the auditor multiplies its rate (up to a rate of 1)."""
        return 1.0 if self.caution == "normal" else self.audit_factor

    def doubted(self, confidence: float) -> float:
        """The confidence p with the odds of an error multiplied: p / (p + k·(1 − p)).

        It keeps the order of confidences, 0 and 1, and makes none higher.
        """
        return confidence / (confidence + self.error_odds * (1.0 - confidence))


@dataclass(frozen=True, slots=True)
class GuardedPolicy:
    """Another policy, as careful as a guard demands.

    At `tighten` the inner policy sees each confidence with its odds of an error
    multiplied, so that what it accepts then is a part of what it accepted before: a certificate,
    which holds for each higher threshold, holds on. At `large_only` nothing is accepted.

    Args:
        inner: decides.
        guard: says how careful to be at the moment.
    """

    inner: Policy
    guard: Guard

    def decide(self, situation: Situation) -> Decision:
        """The inner decision, or a more careful one; its confidence is the draft's own."""
        if self.guard.caution == "large_only":
            return self._large(self.inner.decide(situation))
        if self.guard.caution != "tighten" or situation.assessment.confidence is None:
            return self.inner.decide(situation)
        decision = self.inner.decide(self._doubted(situation, situation.assessment.confidence))
        return decision.model_copy(
            update={
                "confidence": situation.assessment.confidence,
                "reason": f"{decision.reason}; after an alarm the odds of an error count "
                f"{self.guard.error_odds:g}-fold",
            }
        )

    def _doubted(self, situation: Situation, confidence: float) -> Situation:
        doubted, assessment, signal = (
            self.guard.doubted,
            situation.assessment,
            situation.next_signal,
        )
        low_high = assessment.interval
        return replace(
            situation,
            assessment=replace(
                assessment,
                confidence=doubted(confidence),
                interval=low_high and (doubted(low_high[0]), doubted(low_high[1])),
            ),
            next_signal=signal
            and replace(signal, outlook=tuple(doubted(value) for value in signal.outlook)),
        )

    @staticmethod
    def _large(decision: Decision) -> Decision:
        if decision.action not in ("accept", "observe"):
            return decision
        reason = f"{decision.reason}; after an alarm only the large model answers"
        return decision.model_copy(update={"action": "escalate", "tier": None, "reason": reason})
