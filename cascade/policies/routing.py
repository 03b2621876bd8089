"""Cascade routing: after each answer, the best of accepting it and asking any larger tier."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from cascade.errors import ConfigurationError
from cascade.policies.base import Situation, obstacle, outright
from cascade.policies.threshold import compare
from cascade.state import Decision


@dataclass(frozen=True, slots=True)
class CascadeRoutingPolicy:
    """Choose argmin over the draft and all larger tiers of c_k + λ·(1 − p_k).

    The shared rule over more than two tiers (arXiv 2410.10347): a middle tier is skipped when
    it promises too little for its price. A tier whose P(correct) is unknown counts with
    `p_unknown`.

    Args:
        price_of_error: λ, dollars that a wrong answer costs you.
        p_unknown: P(correct) of tiers that nothing is known about.

    Raises:
        ConfigurationError: λ is no positive number, or `p_unknown` no probability.
    """

    price_of_error: float
    p_unknown: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.price_of_error < math.inf:
            raise ConfigurationError(
                f"price_of_error={self.price_of_error}: a number of dollars, above 0."
            )
        if not 0.0 <= self.p_unknown <= 1.0:
            raise ConfigurationError(
                f"p_unknown={self.p_unknown}: a probability is between 0 and 1."
            )

    def decide(self, situation: Situation) -> Decision:
        """Accept, or escalate to the tier that is expected to be cheapest."""
        assessment, error = situation.assessment, Decimal(str(self.price_of_error))
        sides = [
            (tier.cost_usd + error * (1 - Decimal(str(self._p(tier.p_correct)))), tier)
            for tier in situation.above
            if tier.cost_usd is not None
        ]
        blocked = obstacle(assessment)
        if not sides:
            return blocked or outright("escalate", "no larger tier has a price", assessment)
        expected, best = min(sides, key=lambda side: side[0])
        if blocked is not None:
            return blocked.model_copy(update={"tier": best.tier})
        confidence = assessment.confidence or 0.0
        threshold = min(1.0, max(0.0, 1.0 - float(expected / error)))
        decision = compare(confidence, threshold, assessment.calibrated)
        return decision.model_copy(
            update={
                "tier": best.tier if decision.action == "escalate" else None,
                "expected_cost_accept_usd": error * (1 - Decimal(str(confidence))),
                "expected_cost_escalate_usd": expected,
            }
        )

    def _p(self, p_correct: float | None) -> float:
        return self.p_unknown if p_correct is None else p_correct
