"""Keep to a budget of dollars per request."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from decimal import Decimal
from threading import Lock

from cascade.errors import ConfigurationError
from cascade.policies.base import Situation, obstacle, outright
from cascade.policies.rule import break_even
from cascade.policies.threshold import compare
from cascade.state import Decision


@dataclass(frozen=True, slots=True)
class DollarBudgetPolicy:
    """Escalate by gain per dollar, at a shadow price that keeps the mean cost at the budget.

    Escalate ⇔ p_L − p_S > λ_b·c_L, the shared rule with 1/λ = λ_b; after each request the dual
    update λ_b ← [λ_b + η·(c_t − B)]₊ makes escalation dearer while spending is above B
    (ParetoBandit, arXiv 2604.00136).

    Args:
        budget_usd: B, dollars per request on average.
        shadow_price: λ_b, in 1/dollars: probability of an error avoided per dollar.
        step: η; None takes 1/(100·B²), which forgets over about a hundred requests.
        p_large: p_L where the calibration does not know it.

    Raises:
        ConfigurationError: the budget or step is not positive, the price negative, or p_L no
            probability.
    """

    budget_usd: float
    shadow_price: float = 0.0
    step: float | None = None
    p_large: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.budget_usd < math.inf:
            raise ConfigurationError(f"budget_usd={self.budget_usd}: a number of dollars, above 0.")
        if not 0 <= self.shadow_price < math.inf:
            raise ConfigurationError(f"shadow_price={self.shadow_price}: a number, 0 or more.")
        if self.step is not None and not 0 < self.step < math.inf:
            raise ConfigurationError(f"step={self.step}: a number above 0.")
        if not 0.0 <= self.p_large <= 1.0:
            raise ConfigurationError(f"p_large={self.p_large}: a probability is between 0 and 1.")

    def after(self, cost_usd: Decimal | float) -> DollarBudgetPolicy:
        """The policy after a request that cost so much."""
        step = self.step or 1.0 / (100.0 * self.budget_usd**2)
        price = self.shadow_price + step * (float(cost_usd) - self.budget_usd)
        return replace(self, shadow_price=max(0.0, price))

    def decide(self, situation: Situation) -> Decision:
        """Accept or escalate at the present shadow price."""
        assessment, cost = situation.assessment, situation.escalation_cost_usd
        blocked = obstacle(assessment)
        if blocked is not None:
            return blocked
        if cost is None:
            reason = "the cost of escalating is unknown, and a budget has to be kept"
            return outright("accept", reason, assessment)
        p_large = self.p_large if assessment.p_large is None else assessment.p_large
        threshold = break_even(p_large, self.shadow_price * float(cost))
        return compare(assessment.confidence or 0.0, threshold, assessment.calibrated)


class DollarBudget:
    """A `DollarBudgetPolicy` that learns what each request cost: one per running cascade.

    A call whose cost is unknown is spent at what it is assumed to cost, never at nothing.
    """

    def __init__(self, policy: DollarBudgetPolicy) -> None:
        self.policy = policy
        self._lock = Lock()

    def decide(self, situation: Situation) -> Decision:
        """Decide at the present shadow price."""
        return self.policy.decide(situation)

    def paid(self, cost_usd: Decimal) -> None:
        """Learn the cost of a finished request."""
        with self._lock:
            self.policy = self.policy.after(cost_usd)
