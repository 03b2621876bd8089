"""The shapes that a cascade can have, from the simplest up, and which of them the labels pay for.

A large answer is worth asking for where the expected gain p_L − p_S is above its price in errors,
c_L/λ (λ: dollars per error). One such price turns every shape into a policy, by backward induction
over its points of decision: the question or the draft, and a helper. c_L grows with the length of
the question, so that long questions need more doubt to be escalated.

p_S and p_L are logistic regressions with normal priors: the raw score is expected to count, all
else to count little, so that with few labels a head *is* the raw score. Their estimates for rows
that fitted them are leave-one-out, by the usual approximation from one fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, Literal, NamedTuple

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

Prior = tuple[tuple[float, float], tuple[float, float]]
"""(mean, deviation) of the weight of a column, for p_S and for p_L."""

PRIORS: Mapping[str, Prior] = {
    "raw": ((1.2, 0.4), (0.4, 0.3)),
    "draft": ((0.0, 0.1), (0.0, 0.1)),
    "prompt": ((0.0, 0.07), (0.0, 0.07)),
    "topics": ((0.0, 0.03), (0.0, 0.03)),
    "run": ((0.0, 0.3), (0.0, 0.3)),
    "tasks": ((0.0, 0.3), (0.0, 0.3)),
    "same": ((1.2, 1.2), (0.5, 1.2)),
    "view": ((0.0, 0.3), (0.0, 0.3)),
}
"""Expectation of standardised columns before any label is seen. Tuned with each set left out
in turn: `benchmarks/decision_quality.py --only tuned`."""


# Heads ----------------------------------------------------------------------------------------

Estimates = tuple[Array, ...]
"""(p_S, p_L) per row, or (p_S, p_L, p_H) where a helper answers too."""

Head = Callable[[Pair], Estimates]
"""Estimates for any recording of the same models; of the rows that fitted it leave-one-out."""


def fit_head(pair: Pair, fit: Rows, sources: Sequence[str], helper: str | None = None) -> Head:
    """Logistic regressions of who is right on the columns of these sources (`Pair.table`), of a
    helper too. They are standardised on the rows that fit, shares as logits, counts as logarithms,
    and the raw score by its rank."""
    columns = [(source, name) for source in sources for name in pair.table(source, pair)]
    usual = [name if name in ("raw", "same") else s.partition(":")[0] for s, name in columns]
    priors = np.array([((0.0, 30.0), (0.0, 30.0)), *(PRIORS[name] for name in usual)])

    def values(of: Pair) -> Array:
        unknown = np.full(len(of), np.nan)
        found = [of.table(source, pair).get(name, unknown) for source, name in columns]
        return np.array(found).reshape(len(columns), len(of))

    given = np.take(values(pair), fit, axis=1)
    kinds = np.array([_kind(column) for column in given], dtype=str)[:, None]
    scaled = _read(given, kinds)
    known = np.isfinite(scaled)
    count = np.maximum(1, known.sum(axis=1, keepdims=True))
    mean = np.where(known, scaled, 0.0).sum(axis=1, keepdims=True) / count
    square = np.where(known, scaled - mean, 0.0) ** 2
    deviation = np.sqrt(square.sum(axis=1, keepdims=True) / count)
    deviation[deviation <= 1e-9] = np.inf
    ranked = {at: np.sort(given[at][known[at]]) for at, name in enumerate(usual) if name == "raw"}

    def table(of: Pair) -> Array:
        found = values(of)
        x = np.nan_to_num((_read(found, kinds) - mean) / deviation)
        for at, scores in ranked.items():
            x[at] = _normal_scores(found[at], scores)
        return np.ascontiguousarray(np.vstack([np.ones(len(of)), x]).T)

    x, weights, own = table(pair), [], []
    for model, of in ((pair.small, 0), (pair.large, 1), (helper, 1)):
        if model is not None:
            prior, spread = priors[:, of].T
            w, left_out = _fit_logistic(x[fit], pair.correct(model)[fit], prior, spread**-2)
            weights.append(w)
            own.append(expit(x @ w))
            own[-1][fit] = left_out

    def head(other: Pair) -> Estimates:
        if other is pair:
            return tuple(own)
        rows = table(other)
        return tuple(expit(rows @ w) for w in weights)

    return head


def _kind(column: Array) -> str:
    known = column[np.isfinite(column)]
    if not len(known) or known.min() < 0 or np.isin(known, (0, 1)).all():
        return "plain"
    return "share" if known.max() <= 1 else "count"


def _read(values: Array, kinds: Any) -> Array:
    share = np.clip(values, 1e-3, 1 - 1e-3)
    logit, logarithm = np.log(share / (1 - share)), np.log1p(np.maximum(values, 0))
    return np.where(kinds == "share", logit, np.where(kinds == "count", logarithm, values))


def _normal_scores(raw: Array, known: Array) -> Array:
    """Φ⁻¹ of the rank among the known scores; 0 where there is no score."""
    n = len(known)
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


# Shapes ---------------------------------------------------------------------------------------


class Stage(NamedTuple):
    """A point of decision, (n,) each.

    Attributes:
        kept: P(the answer that is kept here is right).
        large: P(the large model is right), as known here.
        right: whether the answer kept here is right.
        paid: dollars to get here from the point before; `expected`, as known beforehand.
        on_keeping: dollars that are paid only if the answer is kept: a draft that was not needed
            to decide.
    """

    kept: Array
    large: Array
    right: Array
    paid: Array
    expected: Array
    on_keeping: Array


class Plan(NamedTuple):
    """Rows with their points of decision; the last three columns are those of a large answer."""

    stages: tuple[Stage, ...]
    right: Array
    paid: Array
    expected: Array

    def take(self, rows: Rows) -> Plan:
        """Some of the rows."""
        stages = tuple(Stage(*(column[rows] for column in stage)) for stage in self.stages)
        return Plan(stages, *(column[rows] for column in self[1:]))


class Replay(NamedTuple):
    """Replay of a policy on recorded rows, (prices, n) each."""

    escalated: Array
    right: Array
    cost: Array
    expected_loss: Array


@dataclass(frozen=True)
class Shape:
    """A policy for every price of a large answer, fitted on some rows of a recording; `points` are
    its points of decision, in order, `helper` is the other model that is asked. Without a point it
    is `off`: the large model answers everything."""

    name: ShapeName
    pair: Pair
    fit: Rows
    points: tuple[Callable[[Pair], Stage], ...] = ()
    helper: str | None = None

    def plan(self, pair: Pair) -> Plan:
        """The points of decision on these rows; leave-one-out on those that fitted it."""
        stages = tuple(point(pair) for point in self.points)
        return Plan(stages, pair.large_correct, pair.large_cost, self._dear(pair))

    @cached_property
    def learned(self) -> Plan:
        """The points of decision on the rows that fitted it."""
        return self.plan(self.pair).take(self.fit)

    @cached_property
    def unit(self) -> float:
        """Mean dollars of a large answer."""
        return float(self.pair.large_cost[self.fit].mean())

    @cached_property
    def _dear(self) -> Callable[[Pair], Array]:
        return _line(self.pair, self.fit, self.pair.large_cost)

    def play(self, plan: Plan, prices: Sequence[float] | Array) -> Replay:
        """The policies of these prices on the rows of a plan."""
        n = len(plan.right)
        escalated, cost, loss = (np.zeros((len(prices), n)) for _ in range(3))
        right = np.tile(plan.right, (len(prices), 1))
        for k, price in enumerate(map(float, prices)):
            going = np.ones(n, bool)
            for here, table in zip(plan.stages, self._continuations(price), strict=True):
                cost[k, going] += here.paid[going]
                keep, ask = self._sides(here, plan, price)
                on = going & (np.interp(ask - keep, *table) + keep > np.maximum(keep, ask))
                kept = going & ~on & (keep >= ask)
                right[k, kept] = here.right[kept]
                loss[k, kept] = (here.large - here.kept)[kept]
                cost[k, kept] += here.on_keeping[kept]
                escalated[k, going & ~on & ~kept] = 1.0
                going = on
            escalated[k, going] = 1.0
            cost[k] += escalated[k] * plan.paid
        return Replay(escalated, right, cost, loss)

    def _sides(self, stage: Stage, plan: Plan, price: float) -> tuple[Array, Array]:
        """Value of keeping and of escalating, in right answers less their price."""
        each = price / self.unit
        return stage.kept - each * stage.on_keeping, stage.large - each * plan.expected

    def _continuations(self, price: float) -> list[tuple[Array, Array]]:
        """Per stage: what going on was worth more than keeping, by how doubtful a row was.

        Averages over the nearest fitting rows; the last stage cannot go on.
        """
        plan, tables, after = self.learned, list[tuple[Array, Array]](), np.zeros(0)
        for stage in reversed(plan.stages):
            keep, ask = self._sides(stage, plan, price)
            last = np.zeros(1), np.full(1, -99.0)
            tables.insert(0, _smooth(ask - keep, after - keep) if tables else last)
            on = keep + np.interp(ask - keep, *tables[0])
            after = np.maximum(np.maximum(keep, ask), on) - price / self.unit * stage.expected
        return tables

    def value(self, plan: Plan) -> Array:
        """Worth at each price of `JUDGED`, in right answers, (prices, n): those that it gives more
        than the large model alone, and what it saves, priced in errors."""
        played, prices = self.play(plan, JUDGED), np.array(JUDGED)
        saved = (plan.paid - played.cost) / self.unit
        return played.right - plan.right + prices[:, None] * saved


def _smooth(x: Array, y: Array) -> tuple[Array, Array]:
    """Moving average of y over the nearest tenth of the rows by x, 30 at least."""
    order = np.argsort(x, kind="stable")
    n = len(x)
    width = min(n, max(30, n // 10))
    first = np.clip(np.arange(n) - width // 2, 0, n - width)
    total = np.concatenate([[0.0], np.cumsum(y[order])])
    return x[order], (total[first + width] - total[first]) / width


def _line(pair: Pair, fit: Rows, cost: Array) -> Callable[[Pair], Array]:
    """Dollars as known beforehand: a straight line over the length of the question."""
    x, y = pair.characters[fit], cost[fit]
    slope, middle, mean = 0.0, float(x.mean()), float(y.mean())
    if x.var() > 0:
        slope = float(np.mean((x - middle) * (y - mean)) / x.var())
    return lambda other: np.maximum(mean + slope * (other.characters - middle), 0.1 * mean)


def fit_shapes(pair: Pair, fit: Rows) -> Iterator[Shape]:
    """All shapes that a recording allows, fitted to some of its rows, from the simplest up."""
    own, text = ["draft"] * bool(pair.table("draft")), ["prompt", "topics"]
    if any(pair.runs):  # of which much is known, also by what their tasks are about
        own, text = ["run"], ["tasks"]
    drafted = partial(_at_draft, fit_head(pair, fit, [*own, *text]))
    if own:
        yield Shape("gain", pair, fit, (drafted,))
    yield Shape("router", pair, fit, (partial(_at_question, fit_head(pair, fit, text)),))
    for name in pair.helpers(fit):
        head = fit_head(pair, fit, [*own, *text, f"view:{name}"], name)
        helped = partial(_at_helper, head, name, _line(pair, fit, pair.cost(name)))
        yield Shape("known", pair, fit, (drafted, helped), name)


def _at_question(head: Head, pair: Pair) -> Stage:
    (own, large), free = head(pair), np.zeros(len(pair))  # only what is kept is drafted
    return Stage(own, large, pair.small_correct, free, free, pair.small_cost)


def _at_draft(head: Head, pair: Pair) -> Stage:
    (own, large), free = head(pair), np.zeros(len(pair))
    return Stage(own, large, pair.small_correct, pair.small_cost, free, free)


def _at_helper(head: Head, name: str, dollars: Callable[[Pair], Array], pair: Pair) -> Stage:
    """Its answer is given where it is likelier to be right."""
    own, large, its = head(pair)
    right = np.where(its > own, pair.correct(name), pair.small_correct)
    return Stage(
        np.maximum(own, its), large, right, pair.cost(name), dollars(pair), np.zeros(len(pair))
    )


def shape_of_calibration(calibration: Calibration, pair: Pair, fit: Rows | None = None) -> Shape:
    """A calibration as it decides online: accept unless p_L − p_S is above the price. It is told
    the costs of `fit`, the rows that it was fitted to, or of all."""
    rows = np.arange(len(pair)) if fit is None else fit
    large = float(pair.large_correct[rows].mean())

    @cache
    def head(other: Pair) -> Estimates:
        drafts = other.outcomes(other.small)
        found = [calibration.estimate(draft.features, calibration.signals) for draft in drafts]
        if all(estimate is None for estimate in found):
            raise ConfigurationError(
                f"no draft of {other.small} has the features that the calibration reads "
                f"({', '.join(calibration.signals)}): record them (`cascade calibrate` does)."
            )
        p_large = [large if e is None or e.p_large is None else e.p_large for e in found]
        return np.array([0.0 if e is None else e.confidence for e in found]), np.array(p_large)

    return Shape("calibration", pair, rows, (partial(_at_draft, head),))


# The ladder -----------------------------------------------------------------------------------


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
