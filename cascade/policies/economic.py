"""Escalate when the expected gain in quality is worth more than it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from cascade.errors import ConfigurationError
from cascade.policies.base import Situation, obstacle
from cascade.policies.threshold import compare
from cascade.state import Decision


@dataclass(frozen=True, slots=True)
class EconomicPolicy:
    """Escalate ⇔ (p_L − p_S) > c_L / λ, the rule that all deferral policies share (DESIGN).

    Accepting costs λ·(1 − p_S) in expectation, escalating c_L + λ·(1 − p_L); with p_L constant
    the comparison is a threshold on p_S at p_L − c_L/λ.

    Args:
        price_of_error: λ, dollars that a wrong answer costs you.
        p_large: p_L, the probability that the large model is right. 1 until it is measured:
            the large model is then the reference, which errs on the side of quality.

    Raises:
        ConfigurationError: λ is not a positive number, or p_L not a probability.
    """

    price_of_error: float
    p_large: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.price_of_error) and self.price_of_error > 0):
            raise ConfigurationError(
                f"price_of_error={self.price_of_error}: give the dollars that one wrong answer "
                "costs you, a number above 0."
            )
        if not 0.0 <= self.p_large <= 1.0:
            raise ConfigurationError(f"p_large={self.p_large}: a probability is between 0 and 1.")

    def threshold(self, escalation_cost_usd: Decimal) -> float:
        """The confidence from which on accepting is the cheaper side, clipped to [0, 1]."""
        return min(1.0, max(0.0, self.p_large - float(escalation_cost_usd) / self.price_of_error))

    def decide(self, situation: Situation) -> Decision:
        """Accept or escalate, whichever is cheaper in expectation."""
        assessment, cost = situation.assessment, situation.escalation_cost_usd
        blocked = obstacle(assessment)
        if blocked is not None:
            return blocked
        if cost is None:
            return Decision(
                action="escalate",
                reason="the cost of escalating is unknown: set a price on the next tier",
                confidence=assessment.confidence,
                calibrated=assessment.calibrated,
            )
        confidence = assessment.confidence or 0.0
        decision = compare(confidence, self.threshold(cost), assessment.calibrated)
        error = Decimal(str(self.price_of_error))
        return decision.model_copy(
            update={
                "expected_cost_accept_usd": error * (1 - Decimal(str(confidence))),
                "expected_cost_escalate_usd": cost + error * (1 - Decimal(str(self.p_large))),
            }
        )
