"""How many audits a wanted precision needs, and whom to audit with which probability."""

from __future__ import annotations

import math

import numpy as np

from cascade.confidence.metrics import Array
from cascade.errors import ConfigurationError
from cascade.ledger.draws import constant_rate, weight

__all__ = ["audits_needed", "constant_rate", "optimal_rates"]

Z2 = 1.959963984540054**2
"""3.84: the square of the 97.5 % quantile of the normal law."""


def audits_needed(variance: float, half_width: float, population: int | None = None) -> int:
    """Audits for a 95 % interval of ± half_width: 3.84·Var(d)/h², less where N is small.

    With disagreement in 10 % of drafts Var(d) ≈ 0.1: ±2 points take 961, ±1 point 3,842.
    """
    if half_width <= 0 or variance < 0:
        raise ConfigurationError(f"a half width of {half_width:g} and variance of {variance:g}")
    needed = Z2 * variance / half_width**2
    if population is not None:
        needed = needed / (1.0 + needed / population) if population else 0.0
    return math.ceil(needed - 1e-9)


def optimal_rates(spread: Array, cost: Array, budget: float, *, floor: float = 0.01) -> Array:
    """Rates π_i ∝ sd(d_i − f_i)/√c_i, within [floor, 1], that spend the budget on average.

    Neyman's allocation for unequal costs; the floor keeps every draft in view, also those whose
    spread was judged too small, and is kept even when it costs more than the budget.

    Args:
        spread: (N,) standard deviation of what the audit would find, given what is known.
        cost: (N,) dollars of auditing each; above 0.
        budget: dollars for all N together, for instance of a day.
    """
    if not 0 < floor <= 1 or np.any(cost <= 0):
        raise ConfigurationError(f"a floor of {floor:g}, costs from {cost.min():g}: above 0 please")
    shape = weight(spread, cost)

    def rates(scale: float) -> Array:
        return np.asarray(np.clip(scale * shape, floor, 1.0))

    low, high = 0.0, 1.0 / max(float(shape[shape > 0].min(initial=np.inf)), 1e-300)
    high = high if math.isfinite(high) else 0.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if rates(middle) @ cost <= budget else (low, middle)
    return rates(high if rates(high) @ cost <= budget else low)
