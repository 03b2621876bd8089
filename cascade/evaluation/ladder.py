"""The shapes that a cascade can have, from the simplest up, and which of them the labels pay for.

A large answer is worth asking for where the expected gain p_L − p_S is above its price in errors,
c_L/λ (λ: dollars per error), which turns every shape into a policy, by backward induction over its
points of decision. c_L grows with the length of the question. p_S and p_L are logistic regressions
with normal priors: the raw score is expected to count, all else to count little, so that with few
labels a head *is* the raw score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from cascade.confidence.calibrating import fit_logistic
from cascade.confidence.calibration import Array, Calibration
from cascade.errors import ConfigurationError
from cascade.evaluation.features import Pair, Rows

ShapeName = Literal["off", "gain", "router", "known", "calibration"]

PRICES = np.concatenate([[0.0], np.geomspace(0.003, 1.5, 40)])
"""Prices of a large answer, in errors, at which policies are worked out."""
JUDGED = np.array([0.02, 0.05, 0.1, 0.2, 0.5])  # prices over which shapes are compared
NOISE = 1.0  # standard errors by which a step up has to pay
SPREADS = {"draft": 0.1, "prompt": 0.07, "topics": 0.03, "run": 0.3, "tasks": 0.3, "view": 0.3}
PRIORS: Mapping[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "raw": ((1.2, 0.4), (0.4, 0.3)),
    "same": ((1.2, 1.2), (0.5, 1.2)),
    **{source: ((0.0, spread), (0.0, spread)) for source, spread in SPREADS.items()},
}
"""(mean, deviation) of the weight of a standardised column, for p_S and for p_L, before any label
is seen. Tuned with each set left out in turn: `benchmarks/decision_quality.py --only tuned`."""

Head = Callable[[Pair], tuple[Array, ...]]
"""Estimates of p_S, p_L and a helper's p_H on rows of its models; on those that fitted it, of fits
that have not seen the row."""


def fit_head(pair: Pair, fit: Rows, sources: Sequence[str], helper: str | None = None) -> Head:
    """Logistic regressions of who is right on the columns of these sources (`Pair.table`)."""
    columns = [(source, name) for source in sources for name in pair.table(source, pair)]
    usual = [  # "same" in a run counts calls that repeat, elsewhere answers that agree
        name if name in ("raw", "same") and s != "run" else s.partition(":")[0]
        for s, name in columns
    ]
    priors = np.array([((0.0, 30.0), (0.0, 30.0)), *(PRIORS[name] for name in usual)])
    targets = [(pair.small_correct, 0), (pair.large_correct, 1)]
    if helper is not None:
        targets.append((pair.table(f"answers:{helper}")["correct"], 1))
    x, weights, own = _standardised(pair, columns, pair, fit), [], []
    for correct, of in targets:
        mean, precision = priors[:, of, 0], priors[:, of, 1] ** -2
        w = fit_logistic(x[fit], correct[fit], mean, precision)
        weights.append(w)
        own.append(expit(x @ w))
        own[-1][fit] = _left_out(x[fit], correct[fit], w, precision)

    def head(other: Pair) -> tuple[Array, ...]:
        if other is pair:
            return tuple(own)
        rows = _standardised(other, columns, pair, fit)
        return tuple(expit(rows @ w) for w in weights)

    return head


def _standardised(of: Pair, columns: Sequence[tuple[str, str]], pair: Pair, fit: Rows) -> Array:
    """A one and the columns (source, name), standardised on the rows that fit: shares as logits,
    counts as logarithms, the raw score as Φ⁻¹ of its rank."""

    def values(of: Pair) -> Array:
        unknown = np.full(len(of), np.nan)
        found = [of.table(source, pair).get(name, unknown) for source, name in columns]
        return np.array(found).reshape(len(columns), len(of))

    found, given = values(of), np.ma.masked_invalid(np.take(values(pair), fit, axis=1))
    least, most = (np.ma.filled(f(axis=1, keepdims=True), -1.0) for f in (given.min, given.max))
    marks = np.ma.filled((given == 0) | (given == 1), True).all(axis=1, keepdims=True)
    share, count = (least >= 0) & (most <= 1) & ~marks, (least >= 0) & (most > 1)

    def read(found: Array) -> Array:
        p = np.clip(found, 1e-3, 1 - 1e-3)
        logit, logarithm = np.log(p / (1 - p)), np.log1p(np.maximum(found, 0))
        return np.where(share, logit, np.where(count, logarithm, found))

    known = np.ma.masked_invalid(read(given.data))
    mean = np.ma.filled(known.mean(axis=1, keepdims=True), 0.0)
    deviation = np.ma.filled(known.std(axis=1, keepdims=True), 0.0)
    x = np.nan_to_num((read(found) - mean) / np.where(deviation > 1e-9, deviation, np.inf))
    if ("draft", "raw") in columns:
        at = columns.index(("draft", "raw"))
        ranked, raw = np.sort(given[at].compressed()), found[at]
        below = np.searchsorted(ranked, raw, "left") + np.searchsorted(ranked, raw, "right")
        rank = (below + 1) / (2 * len(ranked) + 2)
        x[at] = np.where(np.isfinite(raw), norm.ppf(rank), 0.0)
    return np.ascontiguousarray(np.vstack([np.ones(len(of)), x]).T)


def _left_out(x: Array, y: Array, w: Array, precision: Array) -> Array:
    """Probabilities of rows by weights that have not seen them: without its own row a logit is
    η − (y − p)·h/(1 − p(1 − p)·h), with h = x'H⁻¹x and H the Hessian of the whole fit."""
    p = expit(x @ w)
    hessian = (x * (p * (1 - p))[:, None]).T @ x + np.diag(precision)
    leverage = np.einsum("ij,ji->i", x, np.linalg.solve(hessian, x.T))
    shift = (y - p) * leverage / np.maximum(1 - p * (1 - p) * leverage, 1e-3)
    return np.asarray(expit(x @ w - shift))


class Stage(NamedTuple):
    """A point of decision, (n,) each: P(right) of the answer that is `kept` here, and of the large
    model, and whether it is `right`; dollars that are `paid` to get here, of the large answer as
    known beforehand, and `on_keeping` alone: of a draft that was not needed to decide."""

    kept: Array
    large: Array
    right: Array
    paid: Array
    dear: Array
    on_keeping: Array

    def sides(self, each: float) -> tuple[Array, Array]:
        """Value of keeping and of escalating, in right answers; `each` dollar is so many."""
        return self.kept - each * self.on_keeping, self.large - each * self.dear


class Replay(NamedTuple):
    """Outcome of the policies on recorded rows, (prices, n) each."""

    escalated: Array
    right: Array
    cost: Array
    expected_loss: Array


@dataclass(frozen=True)
class Shape:
    """A policy for every price of a large answer, fitted on some rows of a recording: a head for
    the draft, or the question alone, and one for what the `helper` says where there is one. Without
    heads it is `off`: the large model answers everything."""

    name: ShapeName
    pair: Pair
    fit: Rows
    heads: Sequence[Head] = ()
    helper: str | None = None

    def stages(self, pair: Pair) -> list[Stage]:
        """What is known at each point of these rows; leave-one-out on those that fitted it."""
        free, dear = np.zeros(len(pair)), self._expected(self.pair.large_cost, pair)
        own, large, *_ = self.heads[0](pair) if self.heads else (free - np.inf, free)
        costs = pair.small_cost, dear, free
        if self.name in ("off", "router"):  # a draft is made where it is kept
            costs = free, dear, pair.small_cost
        found = [Stage(own, large, pair.small_correct, *costs)]
        for head in self.heads[1:]:  # the likelier of two answers is given
            (own, large, its), answers = head(pair), pair.table(f"answers:{self.helper}")
            right = np.where(its > own, answers["correct"], pair.small_correct)
            costs = pair.small_cost + answers["cost_usd"], dear, free
            found.append(Stage(np.maximum(own, its), large, right, *costs))
        return found

    def _expected(self, cost: Array, of: Pair) -> Array:
        """Dollars as known beforehand: a straight line over the length of the question."""
        x, y = self.pair.characters[self.fit], cost[self.fit]
        middle, mean = x.mean(), y.mean()
        slope = np.mean((x - middle) * (y - mean)) / (x.var() or 1.0)
        return np.asarray(np.maximum(mean + slope * (of.characters - middle), 0.1 * mean))

    @cached_property
    def unit(self) -> float:
        """Mean dollars of a large answer."""
        return float(self.pair.large_cost[self.fit].mean())

    def play(self, pair: Pair, prices: Array) -> Replay:
        """The policies of these prices on rows."""
        (first, *second), going_on, played = self.stages(pair), self._going_on(prices), []
        for each in prices / self.unit:
            here = first
            if second:
                keep, ask = first.sides(each)
                further = keep + np.interp(ask - keep, *next(going_on))
                here = Stage(*np.where(further > np.maximum(keep, ask), second[0], first))
            keep, ask = here.sides(each)
            kept = keep >= ask
            right = np.where(kept, here.right, pair.large_correct)
            cost = here.paid + np.where(kept, here.on_keeping, pair.large_cost)
            played.append((~kept, right, cost, np.where(kept, here.large - here.kept, 0.0)))
        return Replay(*np.stack(played, axis=1))

    def _going_on(self, prices: Array) -> Iterator[tuple[Array, Array]]:
        """At each price, how much more asking the helper was worth than keeping the draft, by how
        doubtful that was: an average over the nearest tenth of the fitting rows, 30 at least."""
        first, second = (Stage(*np.array(s)[:, self.fit]) for s in self.stages(self.pair))
        its_cost = self.pair.table(f"answers:{self.helper}")["cost_usd"]
        asking, n = self._expected(its_cost, self.pair)[self.fit], len(self.fit)
        width = min(n, max(30, n // 10))
        start = np.clip(np.arange(n) - width // 2, 0, n - width)
        for each in prices / self.unit:
            after = np.maximum(*second.sides(each)) - each * asking
            keep, ask = first.sides(each)
            order = np.argsort(ask - keep, kind="stable")
            total = np.concatenate([[0.0], np.cumsum((after - keep)[order])])
            yield (ask - keep)[order], (total[start + width] - total[start]) / width

    def worth(self, pair: Pair) -> Array:
        """Worth at each of the `JUDGED` prices, in right answers, (prices, n): those that it gives
        more than the large model alone, and what it saves, priced in errors."""
        played = self.play(pair, JUDGED)
        saved = (pair.large_cost - played.cost) / self.unit
        return np.asarray(played.right - pair.large_correct + JUDGED[:, None] * saved)


def fit_shapes(pair: Pair, fit: Rows) -> Iterator[Shape]:
    """All shapes that a recording allows, fitted to some of its rows, from the simplest up."""
    own, text = ["draft"] * bool(pair.table("draft")), ["prompt", "topics"]
    if any(pair.runs):  # of which much is known, also by what their tasks are about
        own, text = ["run"], ["tasks"]
    drafted = fit_head(pair, fit, [*own, *text])
    if own:
        yield Shape("gain", pair, fit, [drafted])
    yield Shape("router", pair, fit, [fit_head(pair, fit, text)])
    for name in pair.helpers(fit):
        helped = fit_head(pair, fit, [*own, *text, f"view:{name}"], name)
        yield Shape("known", pair, fit, [drafted, helped], name)


def shape_of(calibration: Calibration, pair: Pair, fit: Rows) -> Shape:
    """A calibration as it decides online, told the costs of the rows that it was fitted to."""
    large = float(pair.large_correct[fit].mean())

    @cache
    def head(other: Pair) -> tuple[Array, ...]:
        found = [calibration.estimate(draft, calibration.signals) for draft in other.features]
        if all(estimate is None for estimate in found):
            told = f"no draft of {other.small} has the features that the calibration reads"
            missing = f"({', '.join(calibration.signals)})"
            raise ConfigurationError(f"{told} {missing}: record them (`cascade calibrate` does).")
        p_large = [large if e is None or e.p_large is None else e.p_large for e in found]
        return np.array([0.0 if e is None else e.confidence for e in found]), np.array(p_large)

    return Shape("calibration", pair, fit, [head])


def climb(shapes: Sequence[Shape]) -> Shape:
    """The highest of the shapes, from the simplest up, to which each step pays by more than its
    noise on leave-one-out rows; `off` where none does at any price of an error."""
    best, below, noise = Shape("off", shapes[0].pair, shapes[0].fit), np.zeros(1), 0.0
    for shape in shapes:
        worth = np.take(shape.worth(shape.pair), shape.fit, axis=1)
        # At prices at which it does not pay, it is switched off.
        worth = np.where(worth.mean(axis=1, keepdims=True) > 0, worth, 0.0).mean(axis=0)
        better = worth - below
        if better.mean() > noise * better.std() / np.sqrt(len(better)):
            best, below, noise = shape, worth, NOISE
    return best
