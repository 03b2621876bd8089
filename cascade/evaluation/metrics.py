"""Metrics of deferral: quality against large answers and cost, with intervals.

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
Rows = NDArray[np.intp]

TINY = 1e-12
"""Differences below are noise of the arithmetic."""

AIQ_STEPS = 101


class Interval(NamedTuple):
    """A figure with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Share of the rows that is escalated, mean correctness, and cost of the rows together, after
    each step of escalating more; (steps,) each."""

    share: Array
    quality: Array
    cost: Array


def deferral_curve(
    deferral: Array,
    small: Array,
    large: Array,
    kept_cost: Array | float = 0.0,
    escalated_cost: Array | float = 0.0,
) -> Curve:
    """The curve from all-small to all-large, a step for each distinct score; costs are of a row
    whose draft is kept, and of one that is escalated, with its draft where it is paid."""
    order = np.argsort(-deferral, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(deferral[order]) < 0), len(order) - 1) + 1
    kept = np.zeros(len(small)) + kept_cost
    more = escalated_cost - kept

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
    """Area between the curve and the random-mix line, over that of the oracle that escalates by the
    true gain: 0 is a random mix, negative worse than that. NaN where it has nothing to choose."""
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
    """Call-performance threshold: the least share of large calls that recovers so much of the gap,
    linear between the steps of the curve. NaN where the large model is not better."""
    first, last = curve.quality[0], curve.quality[-1]
    if last - first <= TINY:
        return np.nan
    target = first + recovered * (last - first)
    at = max(int(np.argmax(curve.quality >= target - TINY)), 1)
    return float(np.interp(target, curve.quality[at - 1 : at + 1], curve.share[at - 1 : at + 1]))


def delta_ibc(curve: Curve) -> float:
    """Incremental benefit per cost over that of the large model, less 1 (AutoMix, 2310.12963).

    IBC is (q − q_S)/(c − c_S), averaged over ten equal steps of cost: 0 is a random mix. NaN where
    the large model is not better, or no dearer.
    """
    quality, cost = curve.quality - curve.quality[0], curve.cost - curve.cost[0]
    if quality[-1] <= TINY or cost[-1] <= TINY:
        return np.nan
    steps = np.linspace(0.1, 1, 10)
    better = np.interp(steps, cost / cost[-1], quality / quality[-1]) / steps
    return float(better.mean() - 1)


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


def bootstrap(
    statistics: Callable[[Rows], Mapping[str, float]], n: int, *, draws: int = 100, seed: int = 0
) -> dict[str, Interval]:
    """95 % intervals of figures over resampled rows: the spread of the draws around the figure
    itself, since resampling moves some to one side (the ECE grows). Shares have ends that are."""
    rng = np.random.default_rng(seed)
    value = statistics(np.arange(n))
    drawn = [statistics(rng.integers(0, n, n)) for _ in range(draws)]
    found = {}
    for name, figure in value.items():
        known = np.array([draw[name] for draw in drawn if np.isfinite(draw[name])])
        low = high = np.nan
        if len(known):
            low, high = figure + np.quantile(known - known.mean(), [0.025, 0.975])
            if min(figure, known.min()) >= 0 and max(figure, known.max()) <= 1:
                low, high = max(low, 0.0), min(high, 1.0)
        found[name] = Interval(float(figure), float(low), float(high))
    return found
