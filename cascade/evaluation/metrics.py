"""How good a deferral is: quality against large answers and cost, with intervals.

`deferral` is a score per row, a higher one is escalated first; `small` and `large` say how right
the two answers to the same rows are, from 0 to 1. Rows of equal score count as if they came in a
random order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

TINY = 1e-12
"""Differences below are noise of the arithmetic."""

AIQ_STEPS = 101

MOST_RESAMPLED = 4000
"""Of more rows a part is resampled; the spread of the whole follows, since it falls as 1/√n."""


class Interval(NamedTuple):
    """A figure with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Quality and cost after each step of escalating more; (steps,) each.

    Attributes:
        share: of the rows that is escalated, from 0 to 1.
        quality: mean correctness.
        cost: of the rows together; zeros where no costs were given.
    """

    share: Array
    quality: Array
    cost: Array


def deferral_curve(
    deferral: Array,
    small: Array,
    large: Array,
    kept_cost: Array | None = None,
    escalated_cost: Array | None = None,
) -> Curve:
    """The curve from all-small to all-large, a step for each distinct score.

    Args:
        deferral: (n,) scores.
        small: (n,) correctness.
        large: (n,) correctness.
        kept_cost: (n,) of a row whose draft is kept.
        escalated_cost: (n,) of a row that is escalated, its draft included where it is paid.
    """
    order = np.argsort(-deferral, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(deferral[order]) < 0), len(order) - 1) + 1
    kept = np.zeros(len(small)) if kept_cost is None else kept_cost
    more = np.zeros(len(small)) if escalated_cost is None else escalated_cost - kept

    def steps(first: float, values: Array) -> Array:
        return np.append(first, first + np.cumsum(values[order])[ends - 1])

    return Curve(
        share=np.append(0, ends) / len(small),
        quality=steps(float(small.sum()), large - small) / len(small),
        cost=steps(float(kept.sum()), more),
    )


def audc(curve: Curve) -> float:
    """Area under the deferral curve, ∫ q(ρ) dρ over the share ρ that is escalated."""
    return float(np.trapezoid(curve.quality, curve.share))


def nauc(deferral: Array, small: Array, large: Array) -> float:
    """Area between the curve and the random-mix line, over the same area of the oracle.

    0 is a random mix, 1 the oracle that escalates by the true gain; negative is worse than
    chance. NaN when the oracle has nothing to choose.
    """
    line = 0.5 * float(small.mean() + large.mean())
    best = audc(deferral_curve(large - small, small, large)) - line
    return (audc(deferral_curve(deferral, small, large)) - line) / best if best > TINY else np.nan


def apgr(curve: Curve) -> float:
    """Average performance gap recovered, ∫ (q(ρ) − q_S)/(q_L − q_S) dρ (RouteLLM, 2406.18665).

    NaN where the large model is not better.
    """
    first, last = curve.quality[0], curve.quality[-1]
    return float((audc(curve) - first) / (last - first)) if last - first > TINY else np.nan


def cpt(curve: Curve, recovered: float) -> float:
    """Call-performance threshold: the least share of large calls that recovers so much of the gap.

    NaN where the large model is not better. Linear between the steps of the curve.
    """
    first, last = curve.quality[0], curve.quality[-1]
    if last - first <= TINY:
        return np.nan
    target = first + recovered * (last - first)
    at = int(np.argmax(curve.quality >= target - TINY))
    if at == 0:
        return 0.0
    return float(np.interp(target, curve.quality[at - 1 : at + 1], curve.share[at - 1 : at + 1]))


def aiq(curve: Curve) -> float:
    """Average improvement in quality: the mean height of the curve's upper hull over cost.

    The hull is non-decreasing, from the cheapest point to the dearest (RouterBench, 2403.12031).
    """
    # A hundred steps tell the area as well as thousands.
    at = np.unique(np.searchsorted(curve.share, np.linspace(0, 1, AIQ_STEPS) - TINY))
    cost, quality = curve.cost[at], curve.quality[at]
    order = np.lexsort((-quality, cost))
    quality = np.maximum.accumulate(quality[order])
    hull: list[tuple[float, float]] = []
    for x, y in zip(cost[order].tolist(), quality.tolist(), strict=True):
        if hull and x == hull[-1][0]:
            continue
        while len(hull) > 1 and _below(hull[-2], hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    xs, ys = np.array(hull).T
    return float(np.trapezoid(ys, xs) / (xs[-1] - xs[0])) if xs[-1] > xs[0] else float(ys[-1])


def _below(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])


def aurc(confidence: Array, correct: Array) -> float:
    """Mean over all coverages of the error among the accepted; lower is better."""
    order = np.argsort(-confidence, kind="stable")
    _, inverse, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    wrong = (np.bincount(inverse, weights=1.0 - correct) / counts)[inverse][order]
    return float(np.mean(np.cumsum(wrong) / np.arange(1, len(wrong) + 1)))


def excess_aurc(confidence: Array, correct: Array) -> float:
    """AURC above that of an order which knows the labels."""
    return aurc(confidence, correct) - aurc(correct, correct)


def bootstrap(
    statistics: Callable[[NDArray[np.intp]], Mapping[str, float]],
    n: int,
    *,
    draws: int = 100,
    seed: int = 0,
) -> dict[str, Interval]:
    """95 % percentile intervals of figures over resampled rows.

    Args:
        statistics: rows → figures by name.
        n: number of rows.
        draws: resamples.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    value = statistics(np.arange(n))
    part = np.arange(n) if n <= MOST_RESAMPLED else rng.permutation(n)[:MOST_RESAMPLED]
    centre = value if n <= MOST_RESAMPLED else statistics(part)
    drawn = [statistics(part[rng.integers(0, len(part), len(part))]) for _ in range(draws)]
    found = {}
    for name, figure in value.items():
        deviations = np.array([draw[name] for draw in drawn]) - centre[name]
        known = deviations[np.isfinite(deviations)]
        ends = np.quantile(known, [0.025, 0.975]) if len(known) else np.array([np.nan, np.nan])
        low, high = figure + np.sqrt(len(part) / n) * ends
        found[name] = Interval(float(figure), float(low), float(high))
    return found
