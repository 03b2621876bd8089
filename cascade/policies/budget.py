"""Keep to a budget of dollars per request."""

from __future__ import annotations

import math
from decimal import Decimal
from threading import Lock

from cascade.errors import ConfigurationError
from cascade.policies.base import Situation, break_even, compare, outright, settled
from cascade.state import Decision


class BudgetPolicy:
    """Escalate by gain per dollar, at a shadow price that keeps the mean cost at the budget.

    Escalate ⇔ p_L − p_S > λ_b·c_L, the shared rule with 1/λ = λ_b. After each request (`paid`) the
    dual update λ_b ← [λ_b + η·(c_t − B)]₊ makes escalation dearer while spending is above B
    (ParetoBandit, arXiv 2604.00136). It learns, so each cascade has one of its own.

    Args:
        dollars: B, dollars per request on average.
        p_large: p_L where the calibration does not know it.
        shadow_price: λ_b to begin with, in 1/dollars: probability of an error avoided per dollar.
        step: η; None takes 1/(100·B²), which forgets over about a hundred requests.

    Raises:
        ConfigurationError: the budget or step is not positive, the price negative, or p_L no
            probability.
    """

    def __init__(
        self,
        dollars: float,
        *,
        p_large: float = 1.0,
        shadow_price: float = 0.0,
        step: float | None = None,
    ) -> None:
        if not 0 < dollars < math.inf:
            raise ConfigurationError(f"BudgetPolicy({dollars}): dollars per request, above 0.")
        if not 0 <= shadow_price < math.inf:
            raise ConfigurationError(f"shadow_price={shadow_price}: a number, 0 or more.")
        if step is not None and not 0 < step < math.inf:
            raise ConfigurationError(f"step={step}: a number above 0.")
        if not 0.0 <= p_large <= 1.0:
            raise ConfigurationError(f"p_large={p_large}: a probability is between 0 and 1.")
        self.dollars = dollars
        self.p_large = p_large
        self.shadow_price = shadow_price
        self.step = step or 1.0 / (100.0 * dollars**2)
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"BudgetPolicy({self.dollars:g}, shadow_price={self.shadow_price:.4g})"

    def paid(self, cost_usd: Decimal | float) -> None:
        """Learn the cost of a finished request."""
        with self._lock:
            price = self.shadow_price + self.step * (float(cost_usd) - self.dollars)
            self.shadow_price = max(0.0, price)

    def decide(self, situation: Situation) -> Decision:
        """Accept or escalate at the present shadow price."""
        assessment, cost = situation.assessment, situation.escalation_cost_usd
        decision = settled(situation)
        if decision is not None:
            return decision
        if cost is None:
            reason = "the cost of escalating is unknown, and a budget has to be kept"
            return outright("accept", reason, assessment)
        p_large = self.p_large if assessment.p_large is None else assessment.p_large
        return compare(assessment, break_even(p_large, self.shadow_price * float(cost)))
