"""Which rows to escalate for so much money: the 0–1 knapsack, by gain per dollar.

Greedy in the order of gain per dollar, each row that still fits. Dantzig's relaxation (Operations
Research 5, 1957), in which the first row that does not fit is taken in part, bounds what any choice
can gain; the greedy choice is within that one row of it. Where a row costs a small part of the
money, as in any batch, that is next to nothing, and an exact solution would be no better than the
probabilities that it is made of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal

__all__ = ["most_gain", "ranked"]


def ranked(gains: Sequence[float], costs: Sequence[Decimal]) -> list[int]:
    """The places of the rows with a gain above 0, the most of it per dollar first.

    Of rows with as much per dollar the one with more gain comes first, then the one further up in
    the file. What costs nothing comes before all that costs something.

    Args:
        gains: of escalating each row, in any unit.
        costs: of escalating it, dollars, 0 or more.
    """
    worth = [at for at, gain in enumerate(gains) if gain > 0]
    return sorted(worth, key=lambda at: (-per_dollar(gains[at], costs[at]), -gains[at], at))


def per_dollar(gain: float, cost: Decimal) -> float:
    """Gain per dollar; infinite for nothing."""
    return gain / float(cost) if cost else math.inf


def most_gain(
    order: Iterable[int], gains: Sequence[float], costs: Sequence[Decimal], money: Decimal | None
) -> float:
    """What no choice of rows within the money can gain more than: the relaxed problem's optimum.

    Args:
        order: of `ranked`.
        gains: of each row.
        costs: dollars.
        money: dollars; None for as much as it takes.
    """
    taken: list[float] = []
    left = money
    for at in order:
        if left is not None and costs[at] > left:
            taken.append(gains[at] * float(left / costs[at]))
            break
        taken.append(gains[at])
        left = None if left is None else left - costs[at]
    return math.fsum(taken)
