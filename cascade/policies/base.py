"""Deferral policies: what they see, what they say, and the one rule that they share.

Accepting a draft costs λ·(1 − p_S) in expectation, escalating c_L + λ·(1 − p_L); so

    escalate ⇔ (p_L − p_S) > c_L / λ,

a threshold on p_S at p_L − c_L/λ. Policies differ in where the threshold comes from. They are pure:
no clock, no network, no chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
        cost_usd: expected cost, None if unknown.
    """

    name: str
    outlook: tuple[float, ...]
    cost_usd: Decimal | None = None


@dataclass(frozen=True, slots=True)
class TierOutlook:
    """A larger tier's P(correct) on this question and its expected cost; None where unknown."""

    tier: str
    p_correct: float | None
    cost_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that a decision may depend on.

    Attributes:
        assessment: signals and confidence of the draft.
        escalation_cost_usd: expected cost of the next tier, None if unknown.
        next_signal: the cheapest signal not taken yet, None when there is none.
        above: the larger tiers, the next one first.
        called: names of the tools that the draft calls.
        last: whether the draft is the answer of the last tier, above which there is none.
    """

    assessment: Assessment
    escalation_cost_usd: Decimal | None = None
    next_signal: NextSignal | None = None
    above: tuple[TierOutlook, ...] = ()
    called: tuple[str, ...] = ()
    last: bool = False


@runtime_checkable
class Policy(Protocol):
    """Decides about a draft."""

    def decide(self, situation: Situation) -> Decision:
        """Accept the draft, escalate, observe one more signal, abstain, or ask a person."""
        ...


@runtime_checkable
class LearnsCosts(Protocol):
    """A policy that learns what each request cost, such as a dollar budget."""

    def paid(self, cost_usd: Decimal) -> None:
        """Learn the cost of a finished request; what is unknown of it counts as assumed."""
        ...


def tell_cost(policy: Policy, cost_usd: Decimal) -> None:
    """Tell a policy the cost of a request, also one inside another policy (`inner`)."""
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


def settled(situation: Situation) -> Decision | None:
    """The decision that needs no threshold; None where one has to be compared.

    The last tier's answer is accepted, since there is no larger tier. Below it a draft that is
    ruled out, or that has no confidence, is escalated.
    """
    assessment = situation.assessment
    if situation.last:
        return outright("accept", "the answer of the last tier", assessment)
    if assessment.objection is not None:
        return outright("escalate", assessment.objection, assessment)
    if assessment.confidence is None:
        missing = assessment.missing or "no signal was taken"
        return outright("escalate", f"no confidence: {missing}", assessment)
    return None


def compare(assessment: Assessment, threshold: float) -> Decision:
    """The decision of a confidence against a threshold, with the reason in words.

    It asserts that there is a confidence: `settled` comes before it.
    """
    confidence = assessment.confidence
    assert confidence is not None, "a draft without a confidence is settled before"
    accepted = confidence >= threshold
    kind = "confidence" if assessment.calibrated else "uncalibrated score"
    left, right = f"{confidence:.3f}", f"{threshold:.3f}"
    if left == right and not accepted:
        left, right = f"{confidence}", f"{threshold}"  # 0.800 < 0.800 would explain nothing
    return Decision(
        action="accept" if accepted else "escalate",
        reason=f"{kind} {left} {'≥' if accepted else '<'} {right}",
        threshold=threshold,
        confidence=confidence,
        calibrated=assessment.calibrated,
    )


def break_even(p_large: float, cost_per_error: float) -> float:
    """The confidence from which on accepting is the cheaper side, clipped to [0, 1].

    Args:
        p_large: P(the large model is right).
        cost_per_error: c_L/λ, escalation in units of the price of an error.
    """
    return min(1.0, max(0.0, p_large - cost_per_error))


def value_of_information(signal: NextSignal, threshold: float, price_of_error: float) -> float:
    """Dollars that knowing a signal before deciding is worth, its own cost not counted.

    min(A, B) at the expected confidence minus E[min(A, B)] over the confidences to come, with
    A − B = λ·(τ − p); the expectation is that of the calibration rows nearby. Never negative, and
    0 without an outlook.
    """
    gaps = [threshold - p for p in signal.outlook]
    if not gaps:
        return 0.0
    # Both sums are of the same terms where no decision changes, and the worth exactly 0.
    gain = min(0.0, math.fsum(gaps)) - math.fsum(min(0.0, gap) for gap in gaps)
    return price_of_error * max(0.0, gain) / len(gaps)


def observe(signal: NextSignal, decision: Decision, why: str) -> Decision:
    """The decision to take one more signal before anything else."""
    return decision.model_copy(
        update={"action": "observe", "reason": f"{decision.reason}; {signal.name} {why}"}
    )


Worth = Callable[[NextSignal, float, float], str | None]
"""Why a signal is worth taking at (signal, confidence, threshold), or None."""


def with_observation(decision: Decision, signal: NextSignal | None, worth: Worth) -> Decision:
    """`decision`, or one more observation where `worth` says why."""
    if signal is None or not signal.outlook:
        return decision
    if decision.confidence is None or decision.threshold is None:
        return decision
    why = worth(signal, decision.confidence, decision.threshold)
    return decision if why is None else observe(signal, decision, why)


def can_change(signal: NextSignal, confidence: float, threshold: float) -> str | None:
    """The worth of a signal where errors have no price: it led to the other side of the threshold
    on calibration rows."""
    accepted = confidence >= threshold
    changes = any((value >= threshold) != accepted for value in signal.outlook)
    return "may change that" if changes else None


def dollars(amount: Decimal | float) -> str:
    """An amount for a reason: cents, or three significant digits below a dollar."""
    value = float(amount)
    if value == 0 or abs(value) >= 1:
        return f"${value:,.2f}"
    digits = max(2, 2 - math.floor(math.log10(abs(value))))
    return f"${value:.{digits}f}"
