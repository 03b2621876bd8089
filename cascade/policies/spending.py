"""Policies beside the threshold: abstaining, and a budget in dollars."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from threading import Lock

from cascade._numbers import to_number
from cascade.policies.base import (
    Policy,
    Situation,
    break_even,
    compare,
    decided,
    dollars,
    settled,
)
from cascade.state import Decision


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
        reason = (
            f"{decision.reason}; the better side is expected to cost "
            f"{dollars(min(accept, escalate))}, an unanswered question "
            f"{dollars(self.price_of_abstaining)}"
        )
        return decision.model_copy(update={"action": "abstain", "tier": None, "reason": reason})


class BudgetPolicy:
    """Escalate by gain per dollar, at a shadow price that keeps the mean cost at a budget.

    Escalate ⇔ p_L − p_S > λ_b·c_L. After each request (`paid`) the dual update
    λ_b ← [λ_b + η·(c_t − B)]₊ makes escalation dearer while spending is above B (arXiv 2604.00136),
    with η = 1/(100·B²). It learns, so each cascade has one of its own.

    Args:
        dollars: B, per request on average.
        p_large: p_L where the calibration does not know it.
        shadow_price: λ_b to begin with, in 1/dollars.
    """

    def __init__(self, dollars: float, *, p_large: float = 1.0, shadow_price: float = 0.0) -> None:
        self.dollars = to_number("BudgetPolicy.dollars", dollars, above=0)
        self.p_large = to_number("BudgetPolicy.p_large", p_large, least=0, most=1)
        self.shadow_price = to_number("BudgetPolicy.shadow_price", shadow_price, least=0)
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
        assessment, decision = situation.assessment, settled(situation)
        if decision is not None:
            return decision
        cost = situation.above[0].cost_usd if situation.above else None
        if cost is None:
            reason = "the cost of escalating is unknown, and a budget has to be kept"
            return decided("accept", reason, assessment)
        p_large = self.p_large if assessment.p_large is None else assessment.p_large
        return compare(assessment, break_even(p_large, self.shadow_price * float(cost)))
