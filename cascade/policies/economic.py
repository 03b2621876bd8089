"""Escalate when the expected gain in quality is worth more than it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from cascade.errors import ConfigurationError
from cascade.policies.base import NextSignal, Situation, obstacle, outright
from cascade.policies.rule import break_even, dollars, value_of_information, with_observation
from cascade.policies.threshold import compare
from cascade.state import Decision


@dataclass(frozen=True, slots=True)
class EconomicPolicy:
    """Escalate ⇔ (p_L − p_S) > (c_L + λ_t·t_L) / λ, see `cascade.policies.rule`.

    Args:
        price_of_error: λ, dollars that a wrong answer costs you.
        p_large: p_L, the probability that the large model is right, where the calibration does
            not know it per question. 1 until it is measured: the large model is then the
            reference, which errs on the side of quality.
        price_of_second: λ_t, dollars that a second of waiting costs you.

    Raises:
        ConfigurationError: λ is not a positive number, p_L no probability, λ_t negative.
    """

    price_of_error: float
    p_large: float = 1.0
    price_of_second: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.price_of_error) and self.price_of_error > 0):
            raise ConfigurationError(
                f"price_of_error={self.price_of_error}: give the dollars that one wrong answer "
                "costs you, a number above 0."
            )
        if not 0.0 <= self.p_large <= 1.0:
            raise ConfigurationError(f"p_large={self.p_large}: a probability is between 0 and 1.")
        if not (math.isfinite(self.price_of_second) and self.price_of_second >= 0):
            raise ConfigurationError(
                f"price_of_second={self.price_of_second}: give dollars per second, 0 or more."
            )

    def threshold(
        self,
        escalation_cost_usd: Decimal,
        p_large: float | None = None,
        escalation_s: float | None = None,
    ) -> float:
        """The confidence from which on accepting is the cheaper side, clipped to [0, 1]."""
        waiting = self.price_of_second * (escalation_s or 0.0)
        cost = (float(escalation_cost_usd) + waiting) / self.price_of_error
        return break_even(self.p_large if p_large is None else p_large, cost)

    def decide(self, situation: Situation) -> Decision:
        """Accept, escalate or observe, whichever is cheapest in expectation."""
        assessment, cost = situation.assessment, situation.escalation_cost_usd
        blocked = obstacle(assessment)
        if blocked is not None:
            return blocked
        if cost is None:
            reason = "the cost of escalating is unknown: set a price on the next tier"
            return outright("escalate", reason, assessment)
        confidence = assessment.confidence or 0.0
        p_large = self.p_large if assessment.p_large is None else assessment.p_large
        threshold = self.threshold(cost, p_large, situation.escalation_s)
        decision = compare(confidence, threshold, assessment.calibrated)
        error = Decimal(str(self.price_of_error))
        waiting = Decimal(str(self.price_of_second * (situation.escalation_s or 0.0)))
        decision = decision.model_copy(
            update={
                "expected_cost_accept_usd": error * (1 - Decimal(str(confidence))),
                "expected_cost_escalate_usd": cost + waiting + error * (1 - Decimal(str(p_large))),
            }
        )
        return with_observation(decision, situation.next_signal, self._worth)

    def _worth(self, signal: NextSignal, confidence: float, threshold: float) -> str | None:
        del confidence
        worth = value_of_information(signal, threshold, self.price_of_error)
        if worth <= float(signal.cost_usd or 0):
            return None
        cost = "an unknown amount" if signal.cost_usd is None else dollars(signal.cost_usd)
        return f"is worth {dollars(worth)} and costs {cost}"
