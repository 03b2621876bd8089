"""What a deferral policy sees and says. Policies are pure: no clock, no network, no chance."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol, runtime_checkable

from cascade.state import Action, Assessment, Decision


@dataclass(frozen=True, slots=True)
class NextSignal:
    """A signal that could still be taken.

    Attributes:
        name: of the signal.
        outlook: confidences that it led to on calibration rows with a confidence like this
            draft's; how far they spread is what the signal can change.
        cost_usd: what it is expected to cost, None if unknown.
    """

    name: str
    outlook: tuple[float, ...]
    cost_usd: Decimal | None = None


@dataclass(frozen=True, slots=True)
class TierOutlook:
    """What a larger tier promises: P(correct) on this question, and its expected cost."""

    tier: str
    p_correct: float | None
    cost_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that a decision may depend on.

    Attributes:
        assessment: signals and confidence of the draft.
        escalation_cost_usd: what asking the next tier is expected to cost, None if unknown.
        next_signal: the cheapest signal not taken yet, None when there is none.
        above: the larger tiers, the next one first.
        escalation_s: how long the next tier is expected to take, None if unknown.
        time_left_s: until the deadline, None without one.
        called: names of the tools that the draft calls.
    """

    assessment: Assessment
    escalation_cost_usd: Decimal | None = None
    next_signal: NextSignal | None = None
    above: tuple[TierOutlook, ...] = ()
    escalation_s: float | None = None
    time_left_s: float | None = None
    called: tuple[str, ...] = ()


@runtime_checkable
class Policy(Protocol):
    """Decides about a draft."""

    def decide(self, situation: Situation) -> Decision:
        """Accept the draft, escalate, abstain, or ask a person."""
        ...


@runtime_checkable
class LearnsCosts(Protocol):
    """A policy that wants to know what each request cost, such as a dollar budget."""

    def paid(self, cost_usd: Decimal) -> None:
        """Learn the cost of a finished request; what is unknown of it counts as assumed."""
        ...


def tell_cost(policy: Policy, cost_usd: Decimal) -> None:
    """Tell a policy what a request cost, also one that other policies stand around (`inner`)."""
    inner: object = policy
    while inner is not None:
        paid = getattr(inner, "paid", None)  # isinstance of a protocol takes a hundred calls
        if callable(paid):
            paid(cost_usd)
            return
        inner = getattr(inner, "inner", None)


def outright(action: Action, reason: str, assessment: Assessment) -> Decision:
    """A decision for which the confidence was not compared with a threshold."""
    return Decision(
        action=action,
        reason=reason,
        confidence=assessment.confidence,
        calibrated=assessment.calibrated,
    )


def obstacle(assessment: Assessment) -> Decision | None:
    """The decision that needs no threshold: escalate what is ruled out or cannot be judged."""
    reason = assessment.objection
    if reason is None and assessment.confidence is None:
        reason = f"no confidence: {assessment.missing or 'no signal was taken'}"
    if reason is None:
        return None
    return Decision(action="escalate", reason=reason, calibrated=assessment.calibrated)
