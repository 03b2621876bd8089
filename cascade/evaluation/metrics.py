"""How good a deferral is: quality against calls and cost, with intervals. numpy only.

`deferral` is a score per row, a higher one is escalated first; `small` and `large` say how right
the two answers to the same rows are, from 0 to 1. Rows of equal score count as if they came in a
random order. A `weight` of shape (n,) or (draws, n) says how often each row counts, so that all
draws of a bootstrap are worked out at once; figures have the shape of the weight without its
last axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cascade.confidence.metrics import Array

TINY = 1e-12
"""Differences below are noise of the arithmetic."""
AT_ONCE = 2_000_000
"""Weights held in memory together."""
MOST_RESAMPLED = 10_000

Rows = NDArray[np.intp]


class Interval(NamedTuple):
    """A figure with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class DeferralCurve:
    """Quality and cost after each step of escalating more; axes (…, steps).

    Attributes:
        share: of the rows that is escalated, from 0 to 1.
        quality: mean correctness.
        cost: of the rows together; NaN where no costs were given.
    """

    share: Array
    quality: Array
    cost: Array


def deferral_curve(
    deferral: Array,
    small: Array,
    large: Array,
    *,
    kept_cost: Array | None = None,
    escalated_cost: Array | None = None,
    weight: Array | None = None,
) -> DeferralCurve:
    """The curve from all-small to all-large, a step for each distinct score.

    Args:
        deferral: (n,) scores.
        small: (n,) correctness.
        large: (n,) correctness.
        kept_cost: (n,) of a row whose draft is kept.
        escalated_cost: (n,) of a row that is escalated, its draft included where it is paid.
        weight: of the rows.
    """
    order = np.argsort(-deferral, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(deferral[order]) < 0))
    rows = np.ones(len(small)) if weight is None else weight
    ranked = rows[..., order]
    total = ranked.sum(axis=-1, keepdims=True)

    def steps(values: Array, first: Array) -> Array:
        grown = np.cumsum(np.add.reduceat(ranked * values[order], starts, axis=-1), axis=-1)
        return np.concatenate([first, first + grown], axis=-1)

    share = steps(np.ones(len(small)), np.zeros_like(total)) / total
    quality = steps(large - small, (rows * small).sum(axis=-1, keepdims=True)) / total
    if kept_cost is None or escalated_cost is None:
        return DeferralCurve(share, quality, np.full_like(share, np.nan))
    first = (rows * kept_cost).sum(axis=-1, keepdims=True)
    return DeferralCurve(share, quality, steps(escalated_cost - kept_cost, first))


def audc(curve: DeferralCurve) -> Array:
    """Area under the deferral curve, ∫ q(ρ) dρ over the share ρ that is escalated."""
    return np.asarray(np.trapezoid(curve.quality, curve.share, axis=-1))


def nauc(deferral: Array, small: Array, large: Array, weight: Array | None = None) -> Array:
    """Area between the curve and the random-mix line, over the same area of the oracle.

    0 is a random mix, 1 the oracle that escalates by the true gain; negative is worse than
    chance. NaN when the oracle has nothing to choose.
    """
    curve = deferral_curve(deferral, small, large, weight=weight)
    best = audc(deferral_curve(large - small, small, large, weight=weight))
    line = 0.5 * (curve.quality[..., 0] + curve.quality[..., -1])
    return _ratio(audc(curve) - line, best - line)


def apgr(curve: DeferralCurve) -> Array:
    """Average performance gap recovered, ∫ (q(ρ) − q_S)/(q_L − q_S) dρ (RouteLLM, 2406.18665).

    NaN where the large model is not better.
    """
    first, last = curve.quality[..., 0], curve.quality[..., -1]
    return _ratio(audc(curve) - first, last - first)


def cpt(curve: DeferralCurve, recovered: float) -> Array:
    """Call-performance threshold: the least share of large calls that recovers so much of the gap.

    NaN where the large model is not better. Linear between the steps of the curve.
    """
    first, last = curve.quality[..., :1], curve.quality[..., -1:]
    target = first + recovered * (last - first)
    at = np.argmax(curve.quality >= target - TINY, axis=-1)[..., None]
    before = np.maximum(at - 1, 0)
    q0, q1 = (np.take_along_axis(curve.quality, i, axis=-1) for i in (before, at))
    s0, s1 = (np.take_along_axis(curve.share, i, axis=-1) for i in (before, at))
    part = np.where(q1 - q0 > TINY, (target - q0) / np.where(q1 - q0 > TINY, q1 - q0, 1.0), 1.0)
    reached = s0 + np.clip(part, 0.0, 1.0) * (s1 - s0)
    return np.asarray(np.where(last - first > TINY, reached, np.nan)[..., 0])


def aiq(cost: Array, quality: Array) -> float:
    """Average improvement in quality: the mean height of the points' upper hull over cost.

    The hull is non-decreasing, from the cheapest point to the dearest (RouterBench, 2403.12031).
    """
    order = np.lexsort((-quality, cost))
    hull: list[tuple[float, float]] = []
    for x, y in zip(
        cost[order].tolist(), np.maximum.accumulate(quality[order]).tolist(), strict=True
    ):
        if hull and x == hull[-1][0]:
            continue
        while len(hull) > 1 and _below_chord(hull[-2], hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    xs, ys = np.array(hull).T
    return float(np.trapezoid(ys, xs) / (xs[-1] - xs[0])) if xs[-1] > xs[0] else float(ys[-1])


def delta_ibc(
    cost: float, quality: float, small: tuple[float, float], large: tuple[float, float]
) -> float:
    """ΔIBC: lift of the quality gained per dollar over the line from small to large, relative.

    0 is on the line, 1 twice the gain for the money; NaN where there is no line to compare with
    or nothing was spent (AutoMix, 2310.12963).

    Args:
        cost: of the cascade.
        quality: of the cascade.
        small: (cost, quality) of the small model alone.
        large: (cost, quality) of the large model alone.
    """
    run, rise = large[0] - small[0], large[1] - small[1]
    if abs(run) < TINY or abs(rise) < TINY or abs(cost - small[0]) < TINY:
        return float("nan")
    base = rise / run
    return ((quality - small[1]) / (cost - small[0]) - base) / base


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
    statistics: Callable[[Rows, Array], Mapping[str, Array]],
    n: int,
    *,
    seed: int = 0,
) -> dict[str, Interval]:
    """95 % percentile intervals of figures over resampled rows, many draws at once.

    Of very many rows a part is resampled, and the spread scaled to all: it falls as 1/√n.

    Args:
        statistics: (rows, their weights of shape (draws, rows)) → figures by name, (draws,) each.
        n: number of rows.
        seed: of the draws: as many as so many rows can pay for.
    """
    rng = np.random.default_rng(seed)
    every = np.arange(n)
    value = statistics(every, np.ones((1, n)))
    part = every if n <= MOST_RESAMPLED else rng.permutation(n)[:MOST_RESAMPLED]
    centre = value if n <= MOST_RESAMPLED else statistics(part, np.ones((1, len(part))))
    times = max(200, min(1000, 2_000_000 // len(part)))
    drawn = [statistics(part, weight) for weight in _resampled(len(part), times, rng)]
    return {
        name: _interval(
            float(value[name][0]),
            np.concatenate([draw[name] for draw in drawn]) - centre[name][0],
            len(part) / n,
        )
        for name in value
    }


def bootstrap_rows(
    statistics: Callable[[Rows], Mapping[str, float]],
    n: int,
    *,
    draws: int | None = None,
    seed: int = 0,
) -> dict[str, Interval]:
    """The same for figures that take rows one by one, draw after draw."""
    rng = np.random.default_rng(seed)
    value = statistics(np.arange(n))
    part = np.arange(n) if n <= MOST_RESAMPLED else rng.permutation(n)[:MOST_RESAMPLED]
    centre = value if n <= MOST_RESAMPLED else statistics(part)
    times = max(100, min(400, 400_000 // len(part))) if draws is None else draws
    drawn = [statistics(part[rng.integers(0, len(part), len(part))]) for _ in range(times)]
    return {
        name: _interval(
            value[name],
            np.array([draw[name] for draw in drawn]) - centre[name],
            len(part) / n,
        )
        for name in value
    }


def _resampled(n: int, draws: int, rng: np.random.Generator) -> Iterator[Array]:
    step = max(1, AT_ONCE // n)
    for first in range(0, draws, step):
        count = min(step, draws - first)
        rows = rng.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
        yield np.bincount(rows.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)


def _interval(value: float, deviations: Array, share: float) -> Interval:
    known = deviations[np.isfinite(deviations)]
    if not len(known):
        return Interval(float(value), float("nan"), float("nan"))
    low, high = value + np.sqrt(share) * np.quantile(known, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))


def _ratio(above: Array, below: Array) -> Array:
    known = below > TINY
    return np.asarray(np.where(known, above / np.where(known, below, 1.0), np.nan))


def _below_chord(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])
