"""The one rule that every deferral policy shares, and what another signal is worth under it.

Accepting a draft costs λ·(1 − p_S) in expectation, escalating c_L + λ_t·t_L + λ·(1 − p_L); so

    escalate ⇔ (p_L − p_S) > (c_L + λ_t·t_L) / λ,

a threshold on p_S at p_L − (c_L + λ_t·t_L)/λ. Policies differ in where the threshold comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal

from cascade.policies.base import NextSignal
from cascade.state import Decision


def break_even(p_large: float, cost_per_error: float) -> float:
    """The confidence from which on accepting is the cheaper side, clipped to [0, 1].

    Args:
        p_large: P(the large model is right).
        cost_per_error: (c_L + λ_t·t_L)/λ, escalation in units of the price of an error.
    """
    return min(1.0, max(0.0, p_large - cost_per_error))


def may_change(signal: NextSignal, confidence: float, threshold: float) -> bool:
    """Whether a signal led from here to the other side of the threshold on calibration rows."""
    accepted = confidence >= threshold
    return any((value >= threshold) != accepted for value in signal.outlook)


def value_of_information(signal: NextSignal, threshold: float, price_of_error: float) -> float:
    """Dollars that knowing a signal before deciding is worth, its own cost not counted.

    min(A, B) at the expected confidence minus E[min(A, B)] over the confidences to come, with
    A − B = λ·(τ − p); the expectation is that of the calibration rows nearby. Never negative, and 0
    without an outlook.
    """
    gaps = [threshold - p for p in signal.outlook]
    if not gaps:
        return 0.0
    # Both sums are of the same terms where no decision changes, and the worth exactly 0.
    gain = min(0.0, math.fsum(gaps)) - math.fsum(min(0.0, gap) for gap in gaps)
    return price_of_error * max(0.0, gain) / len(gaps)


def observe(signal: NextSignal, decision: Decision, worth: str) -> Decision:
    """The decision to take one more signal before anything else."""
    return decision.model_copy(
        update={"action": "observe", "reason": f"{decision.reason}; {signal.name} {worth}"}
    )


def with_observation(
    decision: Decision,
    signal: NextSignal | None,
    worth_it: Callable[[NextSignal, float, float], str | None],
) -> Decision:
    """`decision`, or one more observation when `worth_it` says why."""
    if signal is None or not signal.outlook:
        return decision
    if decision.confidence is None or decision.threshold is None:
        return decision
    why = worth_it(signal, decision.confidence, decision.threshold)
    return decision if why is None else observe(signal, decision, why)


def can_change(signal: NextSignal, confidence: float, threshold: float) -> str | None:
    """Why a signal is worth taking where errors have no price: it may change the decision."""
    return "may change that" if may_change(signal, confidence, threshold) else None


def dollars(amount: Decimal | float) -> str:
    """An amount for a reason."""
    return f"${float(amount):.6f}"
