"""The shapes that a cascade can have, from the simplest up, and which of them the labels pay for.

A large answer is worth asking for where the expected gain p_L − p_S is above its price in errors,
c_L/λ (λ: dollars per error). One such price turns every shape into a policy, by backward induction
over its points of decision. c_L grows with the length of the question, so that long questions need
more doubt to be escalated.

p_S and p_L are logistic regressions with normal priors: the raw score is expected to count, all
else to count little, so that with few labels a head *is* the raw score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from cascade.confidence.calibration import Array, Calibration
from cascade.errors import ConfigurationError
from cascade.evaluation.features import Pair, Rows

ShapeName = Literal["off", "gain", "router", "known", "calibration"]

PRICES = np.concatenate([[0.0], np.geomspace(0.003, 1.5, 40)])
"""Prices of a large answer, in errors, at which policies are worked out."""
JUDGED = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Prices over which shapes are compared; the last is for those who may lose much."""
NOISE = 1.0
"""A step up has to pay by more than so many standard errors of what it pays."""
PRIORS: Mapping[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "raw": ((1.2, 0.4), (0.4, 0.3)),
    "draft": ((0.0, 0.1), (0.0, 0.1)),
    "prompt": ((0.0, 0.07), (0.0, 0.07)),
    "topics": ((0.0, 0.03), (0.0, 0.03)),
    "run": ((0.0, 0.3), (0.0, 0.3)),
    "tasks": ((0.0, 0.3), (0.0, 0.3)),
    "same": ((1.2, 1.2), (0.5, 1.2)),
    "view": ((0.0, 0.3), (0.0, 0.3)),
}
"""(mean, deviation) of the weight of a standardised column, for p_S and for p_L, before any label
is seen. Tuned with each set left out in turn: `benchmarks/decision_quality.py --only tuned`."""

Head = Callable[[Pair], tuple[Array, ...]]
"""Estimates of p_S, p_L, and of a helper's p_H, for any recording of the same models; of the rows
that fitted it leave-one-out."""


def fit_head(pair: Pair, fit: Rows, sources: Sequence[str], helper: str | None = None) -> Head:
    """Logistic regressions of who is right on the columns of these sources (`Pair.table`)."""
    columns = [(source, name) for source in sources for name in pair.table(source, pair)]
    usual = [name if name in ("raw", "same") else s.partition(":")[0] for s, name in columns]
    priors = np.array([((0.0, 30.0), (0.0, 30.0)), *(PRIORS[name] for name in usual)])
    table = _standardised(pair, fit, columns)
    x, weights, own = table(pair), [], []
    targets = [(pair.small_correct, 0), (pair.large_correct, 1)]
    if helper is not None:
        targets.append((pair.table(f"answers:{helper}")["correct"], 1))
    for correct, of in targets:
        prior, spread = priors[:, of].T
        w, left_out = _fit_logistic(x[fit], correct[fit], prior, spread**-2)
        weights.append(w)
        own.append(expit(x @ w))
        own[-1][fit] = left_out

    def head(other: Pair) -> tuple[Array, ...]:
        if other is pair:
            return tuple(own)
        rows = table(other)
        return tuple(expit(rows @ w) for w in weights)

    return head


def _standardised(
    pair: Pair, fit: Rows, columns: Sequence[tuple[str, str]]
) -> Callable[[Pair], Array]:
    """A one and the columns (source, name) of any rows, standardised on those that fit: shares as
    logits, counts as logarithms, the raw score by its rank."""

    def values(of: Pair) -> Array:
        unknown = np.full(len(of), np.nan)
        found = [of.table(source, pair).get(name, unknown) for source, name in columns]
        return np.array(found).reshape(len(columns), len(of))

    given = np.ma.masked_invalid(np.take(values(pair), fit, axis=1))
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
    deviation[deviation <= 1e-9] = np.inf

    def table(of: Pair) -> Array:
        found = values(of)
        x = np.nan_to_num((read(found) - mean) / deviation)
        if ("draft", "raw") in columns:
            at = columns.index(("draft", "raw"))
            x[at] = _normal_scores(found[at], given[at].compressed())
        return np.ascontiguousarray(np.vstack([np.ones(len(of)), x]).T)

    return table


def _normal_scores(raw: Array, known: Array) -> Array:
    """Φ⁻¹ of the rank among the known scores; 0 where there is no score."""
    n, known = len(known), np.sort(known)
    below = np.searchsorted(known, raw, "left") + np.searchsorted(known, raw, "right")
    rank = np.clip((below + 1) / (2 * (n + 1)), 0.5 / (n + 1), 1 - 0.5 / (n + 1))
    return np.where(np.isfinite(raw), norm.ppf(rank), 0.0)


def _fit_logistic(x: Array, y: Array, prior: Array, precision: Array) -> tuple[Array, Array]:
    """Weights of largest posterior, by Newton's method, and leave-one-out probabilities.

    Without its own row a logit is η − (y − p)·h/(1 − p(1 − p)·h), with h = x'H⁻¹x and H the
    Hessian of the whole fit.
    """
    w = prior.copy()
    rate = np.clip(y.mean(), 0.02, 0.98)
    w[0] = np.log(rate / (1 - rate))
    largest, hessian = np.inf, np.diag(precision)
    for _ in range(15):
        if largest < 1e-3:
            break
        p = expit(x @ w)
        hessian = (x * (p * (1 - p))[:, None]).T @ x
        hessian[np.diag_indices_from(hessian)] += precision
        step = np.linalg.solve(hessian, x.T @ (y - p) - precision * (w - prior))
        largest = float(np.abs(step).max())
        w += step * min(1.0, 2.0 / max(largest, 1e-12))
    p = expit(x @ w)
    leverage = np.einsum("ij,ji->i", x, np.linalg.solve(hessian, x.T))
    return w, expit(x @ w - (y - p) * leverage / np.maximum(1 - p * (1 - p) * leverage, 1e-3))


class Stage(NamedTuple):
    """A point of decision, (n,) each; the last of a shape is the large answer, which is kept.

    Attributes:
        kept, large: P(right) of the answer that is kept here, and of the large model.
        right: whether the answer kept here is right.
        paid, expected: dollars to get here from the point before, and as known beforehand.
        on_keeping: dollars that are paid only if the answer is kept: a draft that was not needed
            to decide.
    """

    kept: Array
    large: Array
    right: Array
    paid: Array
    expected: Array
    on_keeping: Array


class Replay(NamedTuple):
    """Outcome of the policies on recorded rows, (prices, n) each."""

    escalated: Array
    right: Array
    cost: Array
    expected_loss: Array


@dataclass(frozen=True)
class Shape:
    """A policy for every price of a large answer, fitted on some rows of a recording: a head for
    each of its points of decision, the last of which asks the `helper` where there is one. Without
    a head it is `off`: the large model answers everything."""

    name: ShapeName
    pair: Pair
    fit: Rows
    heads: Sequence[Head] = ()
    helper: str | None = None

    def stages(self, pair: Pair) -> list[Stage]:
        """What is known at each point of these rows; leave-one-out on those that fitted it."""
        free, found = np.zeros(len(pair)), list[Stage]()
        for own, large, *its in (head(pair) for head in self.heads):
            kept, right, costs = own, pair.small_correct, (pair.small_cost, free, free)
            if self.name == "router":  # a draft is made where it is kept
                costs = free, free, pair.small_cost
            elif its:  # the likelier of two answers is given
                answers, known = (of.table(f"answers:{self.helper}") for of in (pair, self.pair))
                kept = np.maximum(own, its[0])
                right = np.where(its[0] > own, answers["correct"], right)
                costs = answers["cost_usd"], self._expected(known["cost_usd"], pair), free
            found.append(Stage(kept, large, right, *costs))
        dear = self._expected(self.pair.large_cost, pair)
        return [*found, Stage(free, free, pair.large_correct, pair.large_cost, dear, free)]

    def _expected(self, cost: Array, of: Pair) -> Array:
        """Dollars as known beforehand: a straight line over the length of the question."""
        x, y = self.pair.characters[self.fit], cost[self.fit]
        slope, middle, mean = 0.0, float(x.mean()), float(y.mean())
        if x.var() > 0:
            slope = float(np.mean((x - middle) * (y - mean)) / x.var())
        return np.maximum(mean + slope * (of.characters - middle), 0.1 * mean)

    @cached_property
    def learned(self) -> list[Stage]:
        """Stages of the rows that fitted it."""
        return [Stage(*(column[self.fit] for column in stage)) for stage in self.stages(self.pair)]

    @cached_property
    def unit(self) -> float:
        """Mean dollars of a large answer."""
        return float(self.pair.large_cost[self.fit].mean())

    def play(self, given: Sequence[Stage], prices: Sequence[float] | Array) -> Replay:
        """The policies of these prices on rows, given as their stages."""
        *stages, last = given
        n = len(last.right)
        escalated, cost, loss = np.zeros((3, len(prices), n))
        right = np.tile(last.right, (len(prices), 1))
        for k, price in enumerate(map(float, prices)):
            going = np.ones(n, bool)
            for here, table in zip(stages, self._continuations(price), strict=True):
                cost[k, going] += here.paid[going]
                keep, ask = self._sides(here, last, price)
                on = going & (np.interp(ask - keep, *table) + keep > np.maximum(keep, ask))
                kept = going & ~on & (keep >= ask)
                right[k, kept] = here.right[kept]
                loss[k, kept] = (here.large - here.kept)[kept]
                cost[k, kept] += here.on_keeping[kept]
                escalated[k, going & ~on & ~kept] = 1.0
                going = on
            escalated[k, going] = 1.0
            cost[k] += escalated[k] * last.paid
        return Replay(escalated, right, cost, loss)

    def _sides(self, here: Stage, last: Stage, price: float) -> tuple[Array, Array]:
        """Value of keeping and of escalating, in right answers less their price."""
        each = price / self.unit
        return here.kept - each * here.on_keeping, here.large - each * last.expected

    def _continuations(self, price: float) -> list[tuple[Array, Array]]:
        """Per stage: how much more going on was worth than keeping, by how doubtful a row was; an
        average over the nearest fitting rows. The last stage cannot go on."""
        *stages, last = self.learned
        tables, after = list[tuple[Array, Array]](), np.zeros(0)
        for here in reversed(stages):
            keep, ask = self._sides(here, last, price)
            none = np.zeros(1), np.full(1, -99.0)
            tables.insert(0, _smooth(ask - keep, after - keep) if tables else none)
            on = keep + np.interp(ask - keep, *tables[0])
            after = np.maximum(np.maximum(keep, ask), on) - price / self.unit * here.expected
        return tables

    def value(self, stages: Sequence[Stage]) -> Array:
        """Worth at each price of `JUDGED`, in right answers, (prices, n): those that it gives more
        than the large model alone, and what it saves, priced in errors."""
        played, prices = self.play(stages, JUDGED), np.array(JUDGED)
        saved = (stages[-1].paid - played.cost) / self.unit
        return played.right - stages[-1].right + prices[:, None] * saved


def _smooth(x: Array, y: Array) -> tuple[Array, Array]:
    """Moving average of y over the nearest tenth of the rows by x, 30 at least."""
    order = np.argsort(x, kind="stable")
    n = len(x)
    width = min(n, max(30, n // 10))
    first = np.clip(np.arange(n) - width // 2, 0, n - width)
    total = np.concatenate([[0.0], np.cumsum(y[order])])
    return x[order], (total[first + width] - total[first]) / width


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


def shape_of_calibration(calibration: Calibration, pair: Pair, fit: Rows | None = None) -> Shape:
    """A calibration as it decides online: accept unless p_L − p_S is above the price. It is told
    the costs of `fit`, the rows that it was fitted to, or of all."""
    rows = np.arange(len(pair)) if fit is None else fit
    large = float(pair.large_correct[rows].mean())

    @cache
    def head(other: Pair) -> tuple[Array, ...]:
        drafts = other.outcomes(other.small)
        found = [calibration.estimate(draft.features, calibration.signals) for draft in drafts]
        if all(estimate is None for estimate in found):
            raise ConfigurationError(
                f"no draft of {other.small} has the features that the calibration reads "
                f"({', '.join(calibration.signals)}): record them (`cascade calibrate` does)."
            )
        p_large = [large if e is None or e.p_large is None else e.p_large for e in found]
        return np.array([0.0 if e is None else e.confidence for e in found]), np.array(p_large)

    return Shape("calibration", pair, rows, [head])


class Ladder(NamedTuple):
    """The shapes that were tried, from the simplest up, and the highest to which a step paid:
    `off` where the large model alone is worth more, at any price of an error."""

    shapes: Sequence[Shape]
    shape: Shape


def fit_ladder(pair: Pair, fit: Rows) -> Ladder:
    """The ladder of all shapes, fitted to some rows of a recording."""
    return climb(list(fit_shapes(pair, fit)))


def climb(shapes: Sequence[Shape]) -> Ladder:
    """Step up only where leave-one-out rows show that it pays by more than its noise."""
    best, below, noise = Shape("off", shapes[0].pair, shapes[0].fit), np.zeros(1), 0.0
    for shape in shapes:
        worth = shape.value(shape.learned)
        # At prices at which it does not pay, it is switched off.
        worth = np.where(worth.mean(axis=1, keepdims=True) > 0, worth, 0.0).mean(axis=0)
        better = worth - below
        if better.mean() > noise * better.std() / np.sqrt(len(better)):
            best, below, noise = shape, worth, NOISE
    return Ladder(shapes, best)
