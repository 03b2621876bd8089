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
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from cascade.confidence.calibration import Calibration
from cascade.confidence.text import TextEncoder
from cascade.errors import ConfigurationError
from cascade.evaluation.features import Pair
from cascade.evaluation.metrics import Array, Rows

ShapeName = Literal["gain", "router", "known", "calibration"]

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
"""What is expected of standardised columns before any label is seen. Tuned with each set left out
in turn: `benchmarks/decision_quality.py --only tuned`."""


# Heads ----------------------------------------------------------------------------------------

Kind = Literal["plain", "logit", "log"]

Estimates = tuple[Array, ...]
"""(p_S, p_L) per row, or (p_S, p_L, p_H) where a helper answers too."""


@dataclass(frozen=True, slots=True)
class _Scale:
    """A source of columns, standardised on the fitting rows: shares as logits, counts as
    logarithms, the raw score by its rank."""

    source: str
    names: tuple[str, ...]
    kinds: tuple[Kind, ...] = ()
    mean: Array = field(default_factory=lambda: np.zeros(1))
    deviation: Array = field(default_factory=lambda: np.ones(1))
    known: Array = field(default_factory=lambda: np.zeros(0))
    encoder: TextEncoder | None = None

    def __call__(self, pair: Pair) -> Array:
        if self.source == "raw":
            return _normal_scores(pair.raw, self.known)[:, None]
        block = pair.topics(self.encoder) if self.encoder else pair.block(self.source)
        values = block.select(self.names)
        return np.nan_to_num((_read(values, self.kinds) - self.mean) / self.deviation)


def _scale(pair: Pair, fit: Rows, source: str) -> _Scale:
    if source == "raw":
        raw = pair.raw[fit]
        return _Scale(source, ("raw",), known=np.sort(raw[np.isfinite(raw)]))
    encoder = pair.encoder if source in ("topics", "tasks") else None
    block = pair.topics(encoder) if encoder else pair.block(source)
    kinds: tuple[Kind, ...] = tuple(_kind(column) for column in block.values[fit].T)
    values = _read(block.values[fit], kinds)
    seen = np.asarray(np.isfinite(values).any(axis=0))
    mean, deviation = np.zeros(values.shape[1]), np.full(values.shape[1], np.inf)
    mean[seen] = np.nanmean(values[:, seen], axis=0)
    spread = np.nanstd(values[:, seen], axis=0)
    deviation[seen] = np.where(spread > 1e-9, spread, np.inf)
    return _Scale(source, block.names, kinds, mean, deviation, encoder=encoder)


def _kind(column: Array) -> Kind:
    known = column[np.isfinite(column)]
    if not len(known) or known.min() < 0 or np.isin(known, (0, 1)).all():
        return "plain"
    return "logit" if known.max() <= 1 else "log"


def _read(values: Array, kinds: Sequence[Kind]) -> Array:
    read = values.copy()
    for column, kind in zip(read.T, kinds, strict=True):
        if kind == "logit":
            share = np.clip(column, 1e-3, 1 - 1e-3)
            column[:] = np.log(share / (1 - share))
        elif kind == "log":
            column[:] = np.log1p(np.maximum(column, 0))
    return read


def _normal_scores(raw: Array, known: Array) -> Array:
    """Φ⁻¹ of the rank among the known scores; 0 where there is no score."""
    n = len(known)
    below = np.searchsorted(known, raw, "left") + np.searchsorted(known, raw, "right")
    rank = np.clip((below + 1) / (2 * (n + 1)), 0.5 / (n + 1), 1 - 0.5 / (n + 1))
    return np.where(np.isfinite(raw), norm.ppf(rank), 0.0)


@dataclass(frozen=True, slots=True)
class Head:
    """Logistic regressions of who is right, on the same columns. Of the recording that fitted it
    the estimates are at hand, each of them as if its row had been left out."""

    scales: tuple[_Scale, ...]
    weights: tuple[Array, ...]
    pair: Pair
    at_hand: Estimates

    def __call__(self, pair: Pair) -> Estimates:
        """Estimates for each row of any recording of the same models."""
        if pair is self.pair:
            return self.at_hand
        x = np.hstack([np.ones((len(pair), 1)), *(scale(pair) for scale in self.scales)])
        return tuple(expit(x @ w) for w in self.weights)


def fit_head(
    pair: Pair,
    fit: Rows,
    sources: Sequence[str],
    helper: str | None = None,
    known: dict[str, tuple[_Scale, Array]] | None = None,
) -> Head:
    """A head on `raw` and other sources of columns (`Pair.block`). Of a helper the own correctness
    is estimated too. Heads of the same rows may share their columns, `known`."""
    known = {} if known is None else known
    for source in sources:
        if source not in known:
            scale = _scale(pair, fit, source)
            known[source] = scale, scale(pair)
    scales = tuple(known[source][0] for source in sources)
    x = np.hstack([np.ones((len(pair), 1)), *(known[source][1] for source in sources)])
    priors: list[Prior] = [((0.0, 30.0), (0.0, 30.0))]
    for scale in scales:
        source = scale.source.partition(":")[0]
        priors += [PRIORS["same" if name == "same" else source] for name in scale.names]
    small, large = np.array(priors).swapaxes(0, 1)
    targets = [(pair.small_correct, small), (pair.large_correct, large)]
    if helper is not None:
        targets.append((pair.correct(helper), large))
    weights, estimates = [], []
    for correct, prior in targets:
        w, left_out = _fit_logistic(x[fit], correct[fit], prior[:, 0], prior[:, 1] ** -2)
        estimate = expit(x @ w)
        estimate[fit] = left_out
        weights.append(w)
        estimates.append(estimate)
    return Head(scales, tuple(weights), pair, tuple(estimates))


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
        paid: dollars to get here from the point before.
        expected: the same, as known beforehand.
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


@dataclass(frozen=True, slots=True)
class Part:
    """Part of a point of decision.

    Attributes:
        after: `question`, `draft`, or the name of a helper.
        head: estimates for any recording of the same models.
        dollars: of what it asks, as known beforehand.
    """

    after: str
    head: Callable[[Pair], Estimates]
    dollars: Callable[[Pair], Array]

    def stage(self, pair: Pair) -> Stage:
        """The point on these rows."""
        p, free = self.head(pair), np.zeros(len(pair))
        if self.after == "question":  # what is drafted is kept
            return Stage(p[0], p[1], pair.small_correct, free, free, pair.small_cost)
        expected = self.dollars(pair)
        if self.after == "draft":
            return Stage(p[0], p[1], pair.small_correct, pair.small_cost, expected, free)
        right = np.where(p[2] > p[0], pair.correct(self.after), pair.small_correct)
        return Stage(np.maximum(p[0], p[2]), p[1], right, pair.cost(self.after), expected, free)


@dataclass(frozen=True)
class Shape:
    """A policy for every price of a large answer, fitted on some rows of a recording; `parts` are
    its points of decision, in order, `helper` is the other model that is asked."""

    name: ShapeName
    pair: Pair
    fit: Rows
    parts: tuple[Part, ...]
    helper: str | None = None
    _tables: dict[float, list[tuple[Array, Array]]] = field(default_factory=dict, repr=False)
    _plans: dict[int, tuple[Pair, Plan]] = field(default_factory=dict, repr=False)

    def plan(self, pair: Pair) -> Plan:
        """The points of decision on these rows; leave-one-out on those that fitted it."""
        if id(pair) not in self._plans:
            stages = tuple(part.stage(pair) for part in self.parts)
            plan = Plan(stages, pair.large_correct, pair.large_cost, self._dear(pair))
            self._plans[id(pair)] = pair, plan
        return self._plans[id(pair)][1]

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
        if price not in self._tables:
            plan, tables = self.learned, [(np.zeros(1), np.full(1, -99.0))]
            after = np.maximum(*self._sides(plan.stages[-1], plan, price))
            for i in reversed(range(len(plan.stages) - 1)):
                keep, ask = self._sides(plan.stages[i], plan, price)
                worth = after - price / self.unit * plan.stages[i + 1].expected - keep
                tables.insert(0, _smooth(ask - keep, worth))
                on = keep + np.interp(ask - keep, *tables[0])
                after = np.maximum(np.maximum(keep, ask), on)
            self._tables[price] = tables
        return self._tables[price]

    def value(self, plan: Plan, prices: Sequence[float] = JUDGED) -> Array:
        """Worth at each price, in right answers, (prices, n): those that it gives more
        than the large model alone, and what it saves, priced in errors."""
        played = self.play(plan, prices)
        saved = (plan.paid - played.cost) / self.unit
        worth = played.right - plan.right + np.array(prices)[:, None] * saved
        return np.asarray(worth, dtype=np.float64)


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
    known: dict[str, tuple[_Scale, Array]] = {}
    own = ["raw"] * bool(np.isfinite(pair.raw[fit]).any())
    own += ["draft"] * bool(pair.block("draft").names)
    text, line = ["prompt", "topics"], _line(pair, fit, pair.small_cost)
    if any(pair.runs):  # of which much is known, also by what their tasks are about
        own, text = ["run"], ["tasks"]
    drafted = Part("draft", fit_head(pair, fit, [*own, *text], known=known), line)
    if own:
        yield Shape("gain", pair, fit, (drafted,))
    asked = Part("question", fit_head(pair, fit, text, known=known), line)
    yield Shape("router", pair, fit, (asked,))
    for name in pair.helpers(fit):
        head = fit_head(pair, fit, [*own, *text, f"view:{name}"], name, known)
        helped = Part(name, head, _line(pair, fit, pair.cost(name)))
        yield Shape("known", pair, fit, (drafted, helped), name)


def shape_of_calibration(calibration: Calibration, pair: Pair, fit: Rows | None = None) -> Shape:
    """A calibration as it decides online: accept unless p_L − p_S is above the price. It is told
    the costs of `fit`, the rows that it was fitted to, or of all.

    Raises:
        ConfigurationError: a draft has none of the features that the calibration reads.
    """
    rows = np.arange(len(pair)) if fit is None else fit
    large = float(pair.large_correct[rows].mean())

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

    part = Part("draft", head, _line(pair, rows, pair.small_cost))
    shape = Shape("calibration", pair, rows, (part,))
    shape.plan(pair)
    return shape


# The ladder -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ladder:
    """The shapes that were tried, from the simplest up.

    `shape` is the highest to which a step paid; None where the large model alone is worth more, at
    any price of an error.
    """

    shapes: tuple[Shape, ...]
    shape: Shape | None

    @property
    def name(self) -> str:
        """Of the shape that was taken; `off` for the large model alone."""
        return "off" if self.shape is None else self.shape.name

    def play(self, pair: Pair) -> Replay:
        """Outcome of the shape at all `PRICES`; without one the large model answers everything."""
        if self.shape is not None:
            return self.shape.play(self.shape.plan(pair), PRICES)
        each = (len(PRICES), 1)
        right, cost = (np.tile(a, each) for a in (pair.large_correct, pair.large_cost))
        return Replay(np.ones(right.shape), right, cost, np.zeros(right.shape))

    def gains(self, pair: Pair) -> dict[str, Array]:
        """Expected gain of escalating on these rows, of each shape without a helper."""
        alone = {shape.name: shape.plan(pair) for shape in self.shapes if shape.helper is None}
        return {name: plan.stages[0].large - plan.stages[0].kept for name, plan in alone.items()}

    def confidence(self, pair: Pair) -> Array:
        """P(the draft is right) on these rows; NaN where no shape looks at drafts."""
        for shape in self.shapes:
            if shape.name in ("gain", "calibration"):
                return shape.plan(pair).stages[0].kept
        return np.full(len(pair), np.nan)


def climb(shapes: Sequence[Shape]) -> Ladder:
    """Step up only where leave-one-out rows show that it pays by more than its noise."""
    best, below = None, np.zeros(1)
    for shape in shapes:
        worth = shape.value(shape.learned)
        # At prices at which it does not pay, it is switched off.
        worth = np.where(worth.mean(axis=1, keepdims=True) > 0, worth, 0.0).mean(axis=0)
        better = worth - below
        noise = 0.0 if best is None else NOISE * better.std() / np.sqrt(len(better))
        if better.mean() > noise:
            best, below = shape, worth
    return Ladder(tuple(shapes), best)


def fit_ladder(pair: Pair, fit: Rows) -> Ladder:
    """The ladder of all shapes, fitted to some rows of a recording."""
    return climb(list(fit_shapes(pair, fit)))
