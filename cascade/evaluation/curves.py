"""Curves of recorded rows for figures and drawings: cost against quality, and reliability."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cascade.confidence.metrics import BINS, Array
from cascade.evaluation.metrics import DeferralCurve, deferral_curve
from cascade.evaluation.recorded import Recorded, Rows
from cascade.evaluation.report import Bin, Point

POINTS = 101


def cost_curve(
    recorded: Recorded, rows: Rows, deferral: Array, *, before_the_draft: bool = False
) -> DeferralCurve:
    """Quality and cost at every threshold; before the draft, an escalated row pays no draft."""
    small_cost, large_cost = recorded.small_cost[rows], recorded.large_cost[rows]
    return deferral_curve(
        deferral,
        recorded.small_correct[rows],
        recorded.large_correct[rows],
        kept_cost=small_cost,
        escalated_cost=large_cost if before_the_draft else small_cost + large_cost,
    )


def spread_steps(curve: DeferralCurve) -> NDArray[np.intp]:
    """At most `POINTS` steps of a curve, evenly over the share that is escalated, both ends in."""
    last = len(curve.share) - 1
    at = np.searchsorted(curve.share, np.linspace(0, 1, POINTS) - 1e-12)
    return np.unique(np.concatenate([[0], np.minimum(at, last), [last]]))


def points(curve: DeferralCurve, large_cost: float) -> tuple[Point, ...]:
    """What to draw of a curve with costs, relative to `large_cost` of all rows."""
    return tuple(
        Point(
            cost=float(curve.cost[i] / large_cost),
            quality=float(curve.quality[i]),
            escalated=float(curve.share[i]),
        )
        for i in spread_steps(curve)
    )


def oracle_point(recorded: Recorded, rows: Rows) -> Point:
    """Who knows beforehand where the large model helps: nothing is better, or cheaper for it."""
    small, large = recorded.small_correct[rows], recorded.large_correct[rows]
    helped = large > small
    cost = np.where(helped, recorded.large_cost[rows], recorded.small_cost[rows])
    return Point(
        cost=float(cost.sum() / recorded.large_cost[rows].sum()),
        quality=float(np.maximum(small, large).mean()),
        escalated=float(helped.mean()),
    )


def reliability(probability: Array, correct: Array) -> tuple[Bin, ...]:
    """Mean confidence and share of right drafts per bin of equal mass."""
    order = np.argsort(probability, kind="stable")
    return tuple(
        Bin(
            confidence=float(probability[part].mean()),
            correct=float(correct[part].mean()),
            n=len(part),
        )
        for part in np.array_split(order, min(BINS, len(order)))
        if len(part)
    )
