"""The shapes that a cascade can have, from the simplest up, and which of them the labels pay for.

A large answer is worth asking for where the expected gain p_L − p_S is above its price in errors,
c_L/λ (λ: dollars per error). One such price turns every shape into a policy, by backward induction
over its points of decision: before the draft, after it, after a helper. c_L grows with the length
of the question, so that long questions need more doubt to be escalated.

p_S and p_L are logistic regressions with normal priors: the raw score is expected to count, all
else to count little, so that with few labels a head *is* the raw score. Their estimates for rows
that fitted them are leave-one-out, by the usual approximation from one fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.stats import norm

from cascade.confidence.calibration import Calibration
from cascade.confidence.text import TextEncoder
from cascade.errors import ConfigurationError
from cascade.evaluation.features import Block, Pair, Rows
from cascade.evaluation.metrics import Array

ShapeName = Literal["score", "gain", "skip", "router", "helper", "known", "calibration"]

PRICES = np.concatenate([[0.0], np.geomspace(0.003, 1.5, 40)])
"""Prices of a large answer, in errors, at which policies are worked out."""

JUDGED = (0.02, 0.05, 0.1, 0.2)
"""Prices over which the value of a shape is averaged when shapes are compared."""

LENIENT = 0.5
"""A price for those who may lose much: a large answer costs half of what an error does."""

NOISE = 1.0
"""A step up has to pay by more than so many standard errors of what it pays."""

MOST_FIT = 10_000
"""More labels take time and hardly change a fit."""

FREE_FROM = 300
"""Labels from which on columns may also count three times as much as expected, if they do."""

Prior = tuple[tuple[float, float], tuple[float, float]]
"""(mean, deviation) of the weight of a column, for p_S and for p_L."""

PRIORS: Mapping[str, Prior] = {
    "raw": ((1.2, 0.4), (0.4, 0.3)),
    "draft": ((0.0, 0.1), (0.0, 0.1)),
    "prompt": ((0.0, 0.07), (0.0, 0.07)),
    "topics": ((0.0, 0.03), (0.0, 0.03)),
    "same": ((1.2, 1.2), (0.5, 1.2)),
    "view": ((0.0, 0.3), (0.0, 0.3)),
}
"""What is expected of standardised columns before any label is seen. Tuned with each set left out
in turn: `benchmarks/decision_quality.py --only tuned`."""


# Heads ----------------------------------------------------------------------------------------


def sigmoid(z: Array) -> Array:
    """1 / (1 + e^−z), without overflow."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(z, -30, 30))), dtype=np.float64)


Kind = Literal["plain", "logit", "log"]


@dataclass(frozen=True, slots=True)
class _Scale:
    """A source of columns, standardised on the fitting rows; the raw score by its rank.

    Shares are read as logits and counts as logarithms.
    """

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
        values = _block(pair, self.source, self.encoder).select(self.names)
        return np.nan_to_num((_read(values, self.kinds) - self.mean) / self.deviation)


def _scale(pair: Pair, fit: Rows, source: str) -> _Scale:
    if source == "raw":
        raw = pair.raw[fit]
        return _Scale(source, ("raw",), known=np.sort(raw[np.isfinite(raw)]))
    encoder = pair.encoder if source == "topics" else None
    block = _block(pair, source, encoder).take(fit)
    kinds: tuple[Kind, ...] = tuple(_kind(column) for column in block.values.T)
    values = _read(block.values, kinds)
    seen = np.asarray(np.isfinite(values).any(axis=0))
    mean, deviation = np.zeros(values.shape[1]), np.full(values.shape[1], np.inf)
    mean[seen] = np.nanmean(values[:, seen], axis=0)
    spread = np.nanstd(values[:, seen], axis=0)
    deviation[seen] = np.where(spread > 1e-9, spread, np.inf)
    return _Scale(source, block.names, kinds, mean, deviation, encoder=encoder)


def _block(pair: Pair, source: str, encoder: TextEncoder | None) -> Block:
    if source.startswith("view:"):
        return pair.view(source.removeprefix("view:")).block
    if encoder is not None:
        return pair.topics(encoder)
    return pair.draft if source == "draft" else pair.prompt


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


Estimates = tuple[Array, ...]
"""(p_S, p_L) per row, or (p_S, p_L, p_H) where a helper answers too."""


@dataclass(frozen=True, slots=True)
class Head:
    """Logistic regressions of who is right, on the same columns."""

    scales: tuple[_Scale, ...]
    weights: tuple[Array, ...]

    def __call__(self, pair: Pair) -> Estimates:
        """Estimates for each row of any recording of the same models."""
        x = _columns(pair, self.scales)
        return tuple(sigmoid(x @ w) for w in self.weights)


def _columns(pair: Pair, scales: Sequence[_Scale]) -> Array:
    return np.hstack([np.ones((len(pair), 1)), *(scale(pair) for scale in scales)])


def fit_head(
    pair: Pair,
    fit: Rows,
    sources: Sequence[str],
    helper: str | None = None,
    *,
    freedom: float = 1.0,
) -> tuple[Head, Estimates]:
    """A head, and its estimates for all rows: leave-one-out where the row fitted it.

    Args:
        pair: the rows.
        fit: which of them have labels that may be seen.
        sources: `raw`, `draft`, `prompt`, `topics`, and `view:NAME` of another model.
        helper: a model whose own correctness is estimated too.
        freedom: times as wide are the priors of all columns but the raw score.
    """
    scales = tuple(_scale(pair, fit, source) for source in sources)
    x = _columns(pair, scales)
    priors: list[Prior] = [((0.0, 30.0), (0.0, 30.0))]
    for scale in scales:
        kind = scale.source.partition(":")[0]
        priors += [PRIORS["same" if name == "same" else kind] for name in scale.names]
    table = np.array(priors)
    table[1 + ("raw" in sources) :, :, 1] *= freedom
    targets = [(pair.small_correct, table[:, 0]), (pair.large_correct, table[:, 1])]
    if helper is not None:
        targets.append((pair.view(helper).correct, table[:, 1]))
    weights, estimates = [], []
    for correct, prior in targets:
        w, left_out = _fit_logistic(x[fit], correct[fit], prior[:, 0], prior[:, 1] ** -2)
        estimate = sigmoid(x @ w)
        estimate[fit] = left_out
        weights.append(w)
        estimates.append(estimate)
    return Head(scales, tuple(weights)), tuple(estimates)


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
        p = sigmoid(x @ w)
        hessian = (x * (p * (1 - p))[:, None]).T @ x
        hessian[np.diag_indices_from(hessian)] += precision
        step = np.linalg.solve(hessian, x.T @ (y - p) - precision * (w - prior))
        largest = float(np.abs(step).max())
        w += step * min(1.0, 2.0 / max(largest, 1e-12))
    p = sigmoid(x @ w)
    leverage = np.einsum("ij,ji->i", x, np.linalg.solve(hessian, x.T))
    return w, sigmoid(x @ w - (y - p) * leverage / np.maximum(1 - p * (1 - p) * leverage, 1e-3))


def _mixed(one: Estimates, other: Estimates, share: float) -> Estimates:
    return tuple((1 - share) * a + share * b for a, b in zip(one, other, strict=True))


def _trust(new: Estimates, old: Estimates, gain: Array, fit: Rows, lean: float) -> float:
    """Share of a richer head beside a simpler one: Φ(t + lean), t being how many standard errors
    better it orders the fitting rows by their gain."""

    def earned(estimates: Estimates) -> Array:
        doubt = -(estimates[1] - estimates[0])[fit]
        ranked = np.sort(doubt)
        at = np.searchsorted(ranked, doubt, "left") + np.searchsorted(ranked, doubt, "right")
        return np.asarray(gain[fit] * (1 - at / (2 * len(fit))))

    better = earned(new) - earned(old)
    error = better.std() / np.sqrt(len(fit))
    return float(norm.cdf(better.mean() / error + lean)) if error > 0 else 0.5


Estimator = Callable[[Pair], Estimates]


def _fit_blend(
    pair: Pair, fit: Rows, steps: Sequence[Sequence[str]]
) -> tuple[Estimator, Estimates]:
    """A head that grows by sources, and with many labels by freedom, each step as far as it is
    trusted."""
    gain = pair.large_correct - pair.small_correct
    head, estimates = fit_head(pair, fit, steps[0])
    heads, shares = [head], [1.0]
    richer = [(sources, 1.0, 0.5) for sources in steps[1:]]
    if len(fit) >= FREE_FROM:
        richer.append((steps[-1], 3.0, -1.0))
    for sources, freedom, lean in richer:
        head, found = fit_head(pair, fit, sources, freedom=freedom)
        share = _trust(found, estimates, gain, fit, lean)
        estimates = _mixed(estimates, found, share)
        heads.append(head)
        shares = [*(s * (1 - share) for s in shares), share]

    def estimate(other: Pair) -> Estimates:
        parts = [[s * e for e in head(other)] for head, s in zip(heads, shares, strict=True)]
        return tuple(np.sum(part, axis=0) for part in zip(*parts, strict=True))

    return estimate, estimates


# Shapes ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stage:
    """A point of decision, (n,) each.

    Attributes:
        kept: P(the answer that is kept here is right).
        large: P(the large model is right), as known here.
        right: whether the answer kept here is right.
        paid: dollars to get here from the point before.
        expected: the same, as known beforehand.
        on_keeping: dollars that are paid only if the answer is kept: an unread draft.
        may_keep: whether there is an answer to keep.
    """

    kept: Array
    large: Array
    right: Array
    paid: Array
    expected: Array
    on_keeping: Array
    may_keep: bool = True

    def take(self, rows: Rows) -> Stage:
        """The stage on some of the rows."""
        return Stage(
            self.kept[rows],
            self.large[rows],
            self.right[rows],
            self.paid[rows],
            self.expected[rows],
            self.on_keeping[rows],
            self.may_keep,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows with their points of decision.

    Attributes:
        stages: in order.
        large_right: (n,) whether the large answer is right.
        large_paid: (n,) dollars of it.
        large_expected: the same, as known beforehand.
    """

    stages: tuple[Stage, ...]
    large_right: Array
    large_paid: Array
    large_expected: Array

    def take(self, rows: Rows) -> Plan:
        """Some of the rows."""
        return Plan(
            tuple(stage.take(rows) for stage in self.stages),
            self.large_right[rows],
            self.large_paid[rows],
            self.large_expected[rows],
        )


@dataclass(frozen=True, slots=True)
class Played:
    """What a policy did, (prices, n) each; `stage` is −1 where the large model answered."""

    stage: Array
    right: Array
    cost: Array
    expected_loss: Array


@dataclass(frozen=True)
class Shape:
    """A shape with its heads: a policy for every price of a large answer.

    Attributes:
        name: what is decided where.
        skips: whether the draft is left out where the question alone says so.
        helper: the other model that is asked, if any.
        plan_of: the points of decision on the rows of any recording of the same models.
        here: those of the recording that it was fitted on, with leave-one-out estimates for the
            rows that fitted it.
        fit: those rows.
        unit: mean dollars of a large answer.
    """

    name: ShapeName
    plan_of: Callable[[Pair], Plan]
    here: Plan
    fit: Rows
    unit: float
    skips: bool = False
    helper: str | None = None
    _tables: dict[float, list[tuple[Array, Array]]] = field(default_factory=dict, repr=False)

    @property
    def label(self) -> str:
        """The name, and whether drafts are left out."""
        return f"{self.name}, drafts skipped" if self.skips and self.name != "skip" else self.name

    @cached_property
    def learned(self) -> Plan:
        """The points of decision on the rows that fitted it."""
        return self.here.take(self.fit)

    def play(self, plan: Plan, prices: Sequence[float] | Array) -> Played:
        """The policies of these prices on the rows of a plan."""
        n, shape = len(plan.large_right), (len(prices), len(plan.large_right))
        stage, cost = np.full(shape, -1), np.zeros(shape)
        right, loss = np.tile(plan.large_right, (len(prices), 1)), np.zeros(shape)
        for k, price in enumerate(prices):
            tables = self._continuations(float(price))
            going = np.ones(n, bool)
            for i, here in enumerate(plan.stages):
                cost[k] += np.where(going, here.paid, 0.0)
                keep, ask = self._sides(here, plan, float(price))
                on = going & (_look_up(tables[i], ask - keep) + keep > np.maximum(keep, ask))
                kept = going & ~on & (keep >= ask)
                stage[k, kept], right[k, kept] = i, here.right[kept]
                loss[k, kept] = (here.large - here.kept)[kept]
                cost[k] += np.where(kept, here.on_keeping, 0.0)
                going = on
            cost[k] += np.where(stage[k] < 0, plan.large_paid, 0.0)
        return Played(stage, right, cost, loss)

    def _sides(self, stage: Stage, plan: Plan, price: float) -> tuple[Array, Array]:
        """Value of keeping and of escalating, in right answers less their price."""
        each = price / self.unit
        keep = (
            stage.kept - each * stage.on_keeping
            if stage.may_keep
            else np.full_like(stage.kept, -9.0)
        )
        return keep, stage.large - each * plan.large_expected

    def _continuations(self, price: float) -> list[tuple[Array, Array]]:
        """Per stage: what going on was worth more than keeping, by how doubtful a row was.

        Averages over the nearest fitting rows; the last stage cannot go on.
        """
        if price in self._tables:
            return self._tables[price]
        plan, each = self.learned, price / self.unit
        tables: list[tuple[Array, Array]] = []
        after: Array | None = None
        for i in reversed(range(len(plan.stages))):
            here = plan.stages[i]
            keep, ask = self._sides(here, plan, price)
            if after is None:
                tables.append((np.zeros(1), np.full(1, -99.0)))
                after = np.maximum(keep, ask)
                continue
            worth = after - each * plan.stages[i + 1].expected - keep
            tables.append(_smooth(ask - keep, worth))
            after = np.maximum(np.maximum(keep, ask), keep + _look_up(tables[-1], ask - keep))
        self._tables[price] = tables[::-1]
        return self._tables[price]


def _smooth(x: Array, y: Array) -> tuple[Array, Array]:
    """Moving average of y over the nearest tenth of the rows by x, 30 at least."""
    order = np.argsort(x, kind="stable")
    n = len(x)
    width = min(n, max(30, n // 10))
    first = np.clip(np.arange(n) - width // 2, 0, n - width)
    total = np.concatenate([[0.0], np.cumsum(y[order])])
    return x[order], (total[first + width] - total[first]) / width


def _look_up(table: tuple[Array, Array], x: Array) -> Array:
    return np.asarray(np.interp(x, *table), dtype=np.float64)


@dataclass(frozen=True)
class _Maker:
    """Makes the shapes of a recording on its fitting rows."""

    pair: Pair
    fit: Rows

    def shapes(self) -> list[Shape]:
        """From the simplest up."""
        pair = self.pair
        has_score = bool(np.isfinite(pair.raw[self.fit]).any())
        own = ["raw"] * has_score + ["draft"] * bool(pair.draft.names)
        text = ["prompt", "topics"]
        before = _fit_blend(pair, self.fit, [text])
        draft, unread = self.draft(*before), self.unread(*before)
        found: list[Shape] = []
        if has_score:
            found.append(self.shape("score", [self.draft(*_fit_blend(pair, self.fit, [["raw"]]))]))
        if own:
            steps = [own[:1], *([own] if len(own) > 1 else []), [*own, *text]]
            draft = self.draft(*_fit_blend(pair, self.fit, steps))
            found.append(self.shape("gain", [draft]))
            found.append(self.shape("skip", [unread, draft]))
        found.append(self.shape("router", [self.router(*before)]))
        for name in pair.helpers(self.fit):
            for stage, shape in self.helped(name, [*own, *text, f"view:{name}"]):
                found.append(self.shape(shape, [draft, stage], name))
                found.append(self.shape(shape, [unread, draft, stage], name))
        return found

    def shape(self, name: ShapeName, stages: Sequence[_Part], helper: str | None = None) -> Shape:
        """A shape from its points of decision."""
        pair, dear = self.pair, self._line(self.pair.large_cost)

        def plan_of(other: Pair) -> Plan:
            made = tuple(make(other, estimate(other)) for make, estimate, _ in stages)
            return Plan(made, other.large_correct, other.large_cost, dear(other))

        made = tuple(make(pair, left_out) for make, _, left_out in stages)
        here = Plan(made, pair.large_correct, pair.large_cost, dear(pair))
        unit = float(pair.large_cost[self.fit].mean())
        skips = len(stages) > 1 and not made[0].may_keep
        return Shape(name, plan_of, here, self.fit, unit, skips, helper)

    def draft(self, estimate: Estimator, left_out: Estimates) -> _Part:
        """The point after the draft."""
        line = self._line(self.pair.small_cost)

        def make(pair: Pair, p: Estimates) -> Stage:
            free = np.zeros(len(pair))
            return Stage(p[0], p[1], pair.small_correct, pair.small_cost, line(pair), free)

        return make, estimate, left_out

    def router(self, estimate: Estimator, left_out: Estimates) -> _Part:
        """The question alone; what is drafted is kept."""

        def make(pair: Pair, p: Estimates) -> Stage:
            free = np.zeros(len(pair))
            return Stage(p[0], p[1], pair.small_correct, free, free, pair.small_cost)

        return make, estimate, left_out

    def unread(self, estimate: Estimator, left_out: Estimates) -> _Part:
        """The question alone; on to the draft, or to the large model at once."""

        def make(pair: Pair, p: Estimates) -> Stage:
            free = np.zeros(len(pair))
            return Stage(p[0], p[1], pair.small_correct, free, free, free, may_keep=False)

        return make, estimate, left_out

    def helped(self, name: str, sources: list[str]) -> list[tuple[_Part, ShapeName]]:
        """The point after a helper: the draft is kept, or what is known to be likelier."""
        head, left_out = fit_head(self.pair, self.fit, sources, name)
        line = self._line(self.pair.view(name).cost)

        def drafted(pair: Pair, p: Estimates) -> Stage:
            free, spent = np.zeros(len(pair)), pair.view(name).cost
            return Stage(p[0], p[1], pair.small_correct, spent, line(pair), free)

        def known(pair: Pair, p: Estimates) -> Stage:
            free, view = np.zeros(len(pair)), pair.view(name)
            right = np.where(p[2] > p[0], view.correct, pair.small_correct)
            return Stage(np.maximum(p[0], p[2]), p[1], right, view.cost, line(pair), free)

        return [((drafted, head, left_out), "helper"), ((known, head, left_out), "known")]

    def _line(self, cost: Array) -> Callable[[Pair], Array]:
        """Dollars as known beforehand: a straight line over the length of the question."""
        x, y = self.pair.characters[self.fit], cost[self.fit]
        spread = float(x.var())
        slope = float(np.mean((x - x.mean()) * (y - y.mean()))) / spread if spread > 0 else 0.0
        middle, mean = float(x.mean()), float(y.mean())
        return lambda pair: np.maximum(mean + slope * (pair.characters - middle), 0.1 * mean)


_Part = tuple[Callable[[Pair, Estimates], Stage], Estimator, Estimates]


def fit_shapes(pair: Pair, fit: Rows) -> list[Shape]:
    """All shapes that a recording allows, fitted to some of its rows, from the simplest up."""
    if len(fit) > MOST_FIT:
        fit = np.random.default_rng(0).choice(fit, MOST_FIT, replace=False)
    return _Maker(pair, fit).shapes()


def shape_of_calibration(calibration: Calibration, pair: Pair, fit: Rows | None = None) -> Shape:
    """A calibration as it decides online: accept unless p_L − p_S is above the price.

    Args:
        calibration: made before.
        pair: the rows whose costs it is told.
        fit: those that the calibration was fitted to, if they are among them.

    Raises:
        ConfigurationError: a draft has none of the features that the calibration reads.
    """
    rows = np.arange(len(pair)) if fit is None else fit

    def estimate(other: Pair) -> Estimates:
        return _estimates(calibration, other)

    maker = _Maker(pair, rows)
    part = maker.draft(estimate, estimate(pair))
    return maker.shape("calibration", [part])


def _estimates(calibration: Calibration, pair: Pair) -> Estimates:
    found = [
        calibration.estimate(outcome.features, calibration.signals)
        for outcome in pair.outcomes(pair.small)
    ]
    known = [estimate for estimate in found if estimate is not None]
    if not known:
        raise ConfigurationError(
            f"no draft of {pair.small} has the features that the calibration reads "
            f"({', '.join(calibration.signals)}): record them (`cascade calibrate` does)."
        )
    large = float(pair.large_correct.mean())
    return (
        np.array([0.0 if e is None else e.confidence for e in found]),
        np.array([large if e is None or e.p_large is None else e.p_large for e in found]),
    )


# The ladder -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rung:
    """A shape beside the best one below it.

    Attributes:
        shape: that was tried.
        value: right answers per question that it is worth more than the large model alone, costs
            priced in errors and averaged over `JUDGED`, on rows left out of its fit.
        better: how much more than the shape below.
        error: standard error of `better`.
        taken: whether it replaces the one below.
    """

    shape: Shape
    value: float
    better: float
    error: float
    taken: bool


@dataclass(frozen=True)
class Ladder:
    """The rungs that were tried, and the shape that the labels pay for."""

    rungs: tuple[Rung, ...]

    @cached_property
    def shape(self) -> Shape | None:
        """The highest rung that was taken; None where the large model alone is worth more, at any
        price of an error."""
        taken = [rung.shape for rung in self.rungs if rung.taken]
        if not taken:
            return None
        worth = values_of(taken[-1], taken[-1].learned, (*JUDGED, LENIENT)).mean(axis=1)
        return taken[-1] if worth.max() > 0 else None

    @cached_property
    def by_name(self) -> dict[str, Shape]:
        """The first shape of each name, without those that only leave drafts out."""
        first: dict[str, Shape] = {}
        for rung in self.rungs:
            if not rung.shape.skips:
                first.setdefault(rung.shape.name, rung.shape)
        return {name: shape for name, shape in first.items() if name != "known"}

    @property
    def _reads_drafts(self) -> Shape | None:
        return self.by_name.get("gain") or self.by_name.get("calibration")

    @property
    def confidence(self) -> Array:
        """P(draft is right) on the rows of the recording it was fitted on; NaN where no shape
        looks at drafts."""
        shape = self._reads_drafts
        if shape is None:
            n = len(self.rungs[0].shape.here.large_right)
            return np.full(n, np.nan)
        return shape.here.stages[0].kept

    def confidence_on(self, pair: Pair) -> Array:
        """The same on other rows."""
        shape = self._reads_drafts
        return np.full(len(pair), np.nan) if shape is None else shape.plan_of(pair).stages[0].kept


def climb(shapes: Sequence[Shape]) -> Ladder:
    """Step up only where leave-one-out rows show that it pays by more than its noise."""
    rungs: list[Rung] = []
    below: Array | None = None
    for shape in shapes:
        worth = value_of(shape)
        better = worth if below is None else worth - below
        error = float(better.std() / np.sqrt(len(better)))
        taken = below is None or bool(better.mean() > NOISE * error)
        rungs.append(Rung(shape, float(worth.mean()), float(better.mean()), error, taken))
        below = worth if taken else below
    return Ladder(tuple(rungs))


def value_of(shape: Shape, plan: Plan | None = None) -> Array:
    """What a shape is worth on each row of a plan, in right answers; by default of the rows that
    fitted it."""
    plan = plan or shape.learned
    return np.asarray(values_of(shape, plan, JUDGED).mean(axis=0), dtype=np.float64)


def values_of(shape: Shape, plan: Plan, prices: Sequence[float]) -> Array:
    """The same at each of some prices: (prices, rows)."""
    played = shape.play(plan, prices)
    saved = (plan.large_paid - played.cost) / shape.unit
    worth = played.right - plan.large_right + np.array(prices)[:, None] * saved
    return np.asarray(worth, dtype=np.float64)
