"""Deferral policies: situation, decision, and the one rule that they share.

Accepting a draft costs λ·(1 − p_S) in expectation, escalating c_L + λ·(1 − p_L); so

    escalate ⇔ (p_L − p_S) > c_L / λ,

a threshold on p_S at p_L − c_L/λ. Policies differ in where the threshold comes from. They are pure:
no clock, no network, no chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from threading import Lock
from typing import Any, Protocol, runtime_checkable

from cascade._numbers import to_number
from cascade.errors import ConfigurationError
from cascade.state import Action, Assessment, Certificate, Decision

DEFAULT_THRESHOLD = 0.8
"""Where an uncalibrated cascade starts. It promises nothing; a calibration replaces it."""


@dataclass(frozen=True, slots=True)
class NextSignal:
    """A signal that could still be taken, with the confidences that it led to on calibration rows
    like this draft."""

    name: str
    outlook: tuple[float, ...]
    cost_usd: Decimal | None = None


@dataclass(frozen=True, slots=True)
class TierOutlook:
    """A larger tier's P(correct) on this question and its expected cost."""

    tier: str
    p_correct: float | None
    cost_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that a decision may depend on: the larger tiers `above`, the next one first, the
    cheapest signal that is not taken yet, the names of tools that the draft calls, and whether it
    is the answer of the last tier."""

    assessment: Assessment
    above: tuple[TierOutlook, ...] = ()
    next_signal: NextSignal | None = None
    called: tuple[str, ...] = ()
    last: bool = False

    def decided(self, action: Action, reason: str, threshold: float | None = None) -> Decision:
        """A decision about the draft, with its confidence."""
        return Decision(
            action=action,
            reason=reason,
            threshold=threshold,
            confidence=self.assessment.confidence,
            calibrated=self.assessment.calibrated,
        )

    def settled(self, threshold: float | None = None) -> Decision | None:
        """The decision that needs no threshold, None where one has to be compared: the last tier's
        answer is accepted, and a draft that is ruled out or has no confidence escalated."""
        found = self.assessment
        if self.last:
            return self.decided("accept", "the answer of the last tier", threshold)
        if found.objection is not None:
            return self.decided("escalate", found.objection, threshold)
        if found.confidence is None:
            unread = "the signals taken are no score before they are calibrated"
            missing = found.missing or (unread if found.signals else "no signal was taken")
            return self.decided("escalate", f"no confidence: {missing}", threshold)
        return None

    def compared(self, threshold: float) -> Decision:
        """The decision of the confidence against a threshold; `settled` comes before it."""
        confidence = self.assessment.confidence
        assert confidence is not None, "a draft without a confidence is settled before"
        accepted = confidence >= threshold
        kind = "confidence" if self.assessment.calibrated else "uncalibrated score"
        left, right = f"{confidence:.3f}", f"{threshold:.3f}"
        if left == right and not accepted:
            left, right = f"{confidence}", f"{threshold}"  # 0.800 < 0.800 would explain nothing
        reason = f"{kind} {left} {'≥' if accepted else '<'} {right}"
        return self.decided("accept" if accepted else "escalate", reason, threshold)


@runtime_checkable
class Policy(Protocol):
    """Deferral policy: what becomes of a draft."""

    def decide(self, situation: Situation) -> Decision:
        """Accept the draft, escalate, observe one more signal, abstain, or ask a person."""
        ...


def within(policy: Any, name: str, fits: Callable[[Any], bool]) -> Any:
    """An attribute that fits of a policy, or of one inside it (`inner`); None where none has it."""
    while policy is not None and not fits(getattr(policy, name, None)):
        policy = getattr(policy, "inner", None)
    return getattr(policy, name, None)


def proof_of(policy: Policy) -> Certificate | None:
    """The certificate of a policy, also of one inside it; None without a promise."""
    proof: Certificate | None = within(policy, "certificate", lambda x: isinstance(x, Certificate))
    return proof


def promises(policy: Policy) -> float | None:
    """α of that certificate."""
    return None if (proof := proof_of(policy)) is None else proof.max_harm


def value_of_information(signal: NextSignal, threshold: float, price_of_error: float) -> float:
    """Dollars that knowing a signal before deciding is worth: min(A, B) at the expected confidence
    minus E[min(A, B)] over the outlook, A − B = λ·(τ − p)."""
    gaps = [threshold - p for p in signal.outlook]
    if not gaps:
        return 0.0
    # Both sums are of the same terms where no decision changes, and the worth exactly 0.
    gain = min(0.0, math.fsum(gaps)) - math.fsum(min(0.0, gap) for gap in gaps)
    return price_of_error * max(0.0, gain) / len(gaps)


def observe(signal: NextSignal, decision: Decision, why: str) -> Decision:
    """The decision to take one more signal before anything else."""
    reason = f"{decision.reason}; {signal.name} {why}"
    return decision.model_copy(update={"action": "observe", "reason": reason})


def with_observation(decision: Decision, signal: NextSignal | None) -> Decision:
    """`decision`, or one more observation where a signal led to the other side of the threshold on
    calibration rows."""
    confidence, threshold = decision.confidence, decision.threshold
    if signal is None or confidence is None or threshold is None:
        return decision
    accepted = confidence >= threshold
    changes = any((value >= threshold) != accepted for value in signal.outlook)
    return observe(signal, decision, "may change that") if changes else decision


def dollars(amount: Decimal | float) -> str:
    """An amount for a reason: cents, or three significant digits below a dollar."""
    sign, value = "−" * (amount < 0), abs(float(amount))
    digits = 2 if value == 0 or value >= 1 else max(2, 2 - math.floor(math.log10(value)))
    return f"{sign}${value:,.{digits}f}"


# --- policies


@dataclass(frozen=True, slots=True)
class ThresholdPolicy:
    """Accept a draft whose confidence is `threshold` or more, or `uncalibrated`, where it is given,
    as a raw score. A signal is taken where it led to the other side of the threshold before.

    Raises:
        ConfigurationError: a threshold is not in [0, 1].
    """

    threshold: float = DEFAULT_THRESHOLD
    uncalibrated: float | None = None

    def __post_init__(self) -> None:
        for name in ("threshold", "uncalibrated"):
            if getattr(self, name) is not None:
                to_number(f"ThresholdPolicy.{name}", getattr(self, name), least=0, most=1)

    @classmethod
    def at_rate(cls, confidences: Sequence[float], escalation_rate: float) -> ThresholdPolicy:
        """The threshold that escalates a share ρ: the ρ-quantile of the confidences of drafts like
        those to come. Ties at it are accepted; raw scores have `DEFAULT_THRESHOLD`.

        Raises:
            ConfigurationError: no confidences, or a rate outside [0, 1].
        """
        to_number("escalation_budget", escalation_rate, least=0, most=1)
        if not confidences:
            raise ConfigurationError("an escalation budget needs confidences of earlier drafts.")
        ordered = sorted(confidences)
        escalated = round(escalation_rate * len(ordered))
        threshold = 1.0 if escalated == len(ordered) else ordered[escalated]
        return cls(threshold, uncalibrated=DEFAULT_THRESHOLD)

    def decide(self, situation: Situation) -> Decision:
        """Accept or escalate by the threshold."""
        threshold = self.threshold
        if not situation.assessment.calibrated and self.uncalibrated is not None:
            threshold = self.uncalibrated
        return situation.settled(threshold) or with_observation(
            situation.compared(threshold), situation.next_signal
        )


@dataclass(frozen=True, slots=True)
class EconomicPolicy:
    """Escalate ⇔ (p_L − p_S) > c_L / λ.

    Of several larger tiers the one with the least c_k + λ·(1 − p_k) is compared (cascade routing,
    arXiv 2410.10347). A signal is taken where its value of information is above its cost.

    Args:
        price_of_error: λ, dollars that a wrong answer costs you.
        p_large: p_L where nothing is known per question; 1 until it is measured.

    Raises:
        ConfigurationError: λ is not a positive number, or p_L no probability.
    """

    price_of_error: float
    p_large: float = 1.0

    def __post_init__(self) -> None:
        price = to_number("price_of_error", self.price_of_error, above=0)
        object.__setattr__(self, "price_of_error", price)  # it may be a Decimal
        to_number("EconomicPolicy.p_large", self.p_large, least=0, most=1)

    def decide(self, situation: Situation) -> Decision:
        """The action that is cheapest in expectation: accept, escalate or observe."""
        priced = [tier for tier in situation.above if tier.cost_usd is not None]
        best = min(priced, key=self._expected_usd, default=None)
        # A tier is named only where it is not the next one.
        tier = best.tier if best is not None and best is not situation.above[0] else None
        if (settled := situation.settled()) is not None:
            return settled.model_copy(update={"tier": tier})
        if best is None:
            reason = "the cost of escalating is unknown: set a price on the next tier"
            return situation.decided("escalate", reason)
        threshold = max(0.0, self._p(best) - float(best.cost_usd or 0) / self.price_of_error)
        decision = situation.compared(threshold)
        update = {
            "tier": tier if decision.action == "escalate" else None,
            "expected_cost_accept_usd": self._error_usd(decision.confidence),
            "expected_cost_escalate_usd": self._expected_usd(best),
        }
        decision, signal = decision.model_copy(update=update), situation.next_signal
        worth = value_of_information(signal, threshold, self.price_of_error) if signal else 0.0
        if signal is None or worth <= float(signal.cost_usd or 0):
            return decision
        cost = "an unknown amount" if signal.cost_usd is None else dollars(signal.cost_usd)
        return observe(signal, decision, f"is worth {dollars(worth)} and costs {cost}")

    def _expected_usd(self, tier: TierOutlook) -> Decimal:
        return (tier.cost_usd or Decimal(0)) + self._error_usd(self._p(tier))

    def _error_usd(self, p: float | None) -> Decimal:
        return Decimal(str(self.price_of_error)) * (1 - Decimal(str(p)))

    def _p(self, tier: TierOutlook) -> float:
        return self.p_large if tier.p_correct is None else tier.p_correct


@dataclass(frozen=True, slots=True)
class AbstainPolicy:
    """Give no answer where even the better side is expected to cost more than an unanswered
    question (arXiv 2502.09054); `inner` must know expected costs, as `EconomicPolicy` does."""

    inner: Policy
    price_of_abstaining: float

    def __post_init__(self) -> None:
        to_number("AbstainPolicy.price_of_abstaining", self.price_of_abstaining, least=0)

    def decide(self, situation: Situation) -> Decision:
        """The inner decision, or abstain when that is cheaper."""
        decision = self.inner.decide(situation)
        accept, escalate = decision.expected_cost_accept_usd, decision.expected_cost_escalate_usd
        if accept is None or escalate is None or min(accept, escalate) <= self.price_of_abstaining:
            return decision
        costs, instead = dollars(min(accept, escalate)), dollars(self.price_of_abstaining)
        reason = f"{decision.reason}; the better side is expected to cost {costs}, "
        reason += f"an unanswered question {instead}"
        return decision.model_copy(update={"action": "abstain", "tier": None, "reason": reason})


class BudgetPolicy:
    """Escalate by gain per dollar, at a shadow price that keeps the mean cost of a request at B, a
    budget in `dollars`.

    Escalate ⇔ p_L − p_S > λ_b·c_L. After each request (`paid`) the dual update
    λ_b ← [λ_b + η·(c_t − B)]₊ makes escalation dearer while spending is above B (arXiv 2604.00136),
    with η = 1/(100·B²). It learns, so each cascade has one of its own. An unknown p_L counts as 1.
    """

    def __init__(self, dollars: float) -> None:
        self.dollars = to_number("BudgetPolicy.dollars", dollars, above=0)
        self.shadow_price = 0.0
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"BudgetPolicy({self.dollars:g}, shadow_price={self.shadow_price:.4g})"

    def paid(self, cost_usd: Decimal | float) -> None:
        """Learn the cost of a finished request."""
        over = float(cost_usd) - self.dollars
        with self._lock:
            self.shadow_price = max(0.0, self.shadow_price + over / (100.0 * self.dollars**2))

    def decide(self, situation: Situation) -> Decision:
        """Accept or escalate at the present shadow price."""
        if (settled := situation.settled()) is not None:
            return settled
        cost = situation.above[0].cost_usd if situation.above else None
        if cost is None:
            reason = "the cost of escalating is unknown, and a budget has to be kept"
            return situation.decided("accept", reason)
        known = situation.assessment.p_large
        p_large = 1.0 if known is None else known
        return situation.compared(max(0.0, p_large - self.shadow_price * float(cost)))
