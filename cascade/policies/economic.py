"""Escalate when the expected gain in quality is worth more than it costs; abstain when neither is.

With several larger tiers the best of them is compared: cascade routing (arXiv 2410.10347).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from cascade.errors import ConfigurationError
from cascade.policies.base import (
    NextSignal,
    Policy,
    Situation,
    TierOutlook,
    break_even,
    compare,
    dollars,
    outright,
    settled,
    value_of_information,
    with_observation,
)
from cascade.state import Decision


@dataclass(frozen=True, slots=True)
class EconomicPolicy:
    """Escalate ⇔ (p_L − p_S) > c_L / λ, see `cascade.policies.base`.

    Of several larger tiers the one with the least c_k + λ·(1 − p_k) is compared, so that a middle
    tier is skipped when it promises too little for its price. A signal is taken where its value
    of information is above its cost.

    Args:
        price_of_error: λ, dollars that a wrong answer costs you.
        p_large: p_L where nothing is known per question. 1 until it is measured: the large model
            is then the reference, which errs on the side of quality.

    Raises:
        ConfigurationError: λ is not a positive number, or p_L no probability.
    """

    price_of_error: float
    p_large: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "price_of_error", float(self.price_of_error))  # also a Decimal
        if not (math.isfinite(self.price_of_error) and self.price_of_error > 0):
            raise ConfigurationError(
                f"price_of_error={self.price_of_error}: give the dollars that one wrong answer "
                "costs you, a number above 0."
            )
        if not 0.0 <= self.p_large <= 1.0:
            raise ConfigurationError(f"p_large={self.p_large}: a probability is between 0 and 1.")

    def threshold(self, escalation_cost_usd: Decimal, p_large: float | None = None) -> float:
        """The confidence from which on accepting is the cheaper side, clipped to [0, 1]."""
        cost = float(escalation_cost_usd) / self.price_of_error
        return break_even(self.p_large if p_large is None else p_large, cost)

    def decide(self, situation: Situation) -> Decision:
        """Accept, escalate or observe, whichever is cheapest in expectation."""
        assessment, error = situation.assessment, Decimal(str(self.price_of_error))
        best = self._best(situation)
        tier = None if best is None or best.tier == _first(situation) else best.tier
        decision = settled(situation)
        if decision is not None:
            return decision.model_copy(update={"tier": tier}) if tier else decision
        if best is None or best.cost_usd is None:
            reason = "the cost of escalating is unknown: set a price on the next tier"
            return outright("escalate", reason, assessment)
        decision = compare(assessment, self.threshold(best.cost_usd, best.p_correct))
        escalated = best.cost_usd + error * (1 - Decimal(str(self._p(best))))
        decision = decision.model_copy(
            update={
                "tier": tier if decision.action == "escalate" else None,
                "expected_cost_accept_usd": error * (1 - Decimal(str(assessment.confidence))),
                "expected_cost_escalate_usd": escalated,
            }
        )
        return with_observation(decision, situation.next_signal, self._worth)

    def _best(self, situation: Situation) -> TierOutlook | None:
        """The larger tier that is expected to be cheapest, of those with a price."""
        above, known = situation.above, situation.assessment.p_large
        if not above:
            return TierOutlook("", known, situation.escalation_cost_usd)
        error = Decimal(str(self.price_of_error))
        priced = [
            (tier.cost_usd + error * (1 - Decimal(str(self._p(tier)))), tier)
            for tier in above
            if tier.cost_usd is not None
        ]
        return min(priced, key=lambda side: side[0])[1] if priced else None

    def _p(self, tier: TierOutlook) -> float:
        return self.p_large if tier.p_correct is None else tier.p_correct

    def _worth(self, signal: NextSignal, confidence: float, threshold: float) -> str | None:
        del confidence
        worth = value_of_information(signal, threshold, self.price_of_error)
        if worth <= float(signal.cost_usd or 0):
            return None
        cost = "an unknown amount" if signal.cost_usd is None else dollars(signal.cost_usd)
        return f"is worth {dollars(worth)} and costs {cost}"


def _first(situation: Situation) -> str:
    return situation.above[0].tier if situation.above else ""


@dataclass(frozen=True, slots=True)
class AbstainPolicy:
    """Give no answer where even the better side is expected to cost more (arXiv 2502.09054).

    Args:
        inner: decides everything else; must know expected costs, as `EconomicPolicy` does.
        price_of_abstaining: λ_a, dollars that an unanswered question costs you.

    Raises:
        ConfigurationError: the price is negative or no number.
    """

    inner: Policy
    price_of_abstaining: float

    def __post_init__(self) -> None:
        if not self.price_of_abstaining >= 0:
            raise ConfigurationError(
                f"price_of_abstaining={self.price_of_abstaining}: must not be negative."
            )

    def decide(self, situation: Situation) -> Decision:
        """The inner decision, or abstain when that is cheaper."""
        decision = self.inner.decide(situation)
        sides = (decision.expected_cost_accept_usd, decision.expected_cost_escalate_usd)
        known = [side for side in sides if side is not None]
        if len(known) < 2 or min(known) <= self.price_of_abstaining:
            return decision
        reason = (
            f"{decision.reason}; the better side is expected to cost {dollars(min(known))}, an "
            f"unanswered question {dollars(self.price_of_abstaining)}"
        )
        return decision.model_copy(update={"action": "abstain", "tier": None, "reason": reason})
