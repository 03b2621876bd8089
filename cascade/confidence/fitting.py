"""Fits calibrators and gain heads to labelled drafts.

All fits are logistic regressions with a normal prior, and the prior's mean is the raw score as it
is: few labels change little. A step from few parameters to many is taken as far as cross-fitting
shows that it pays by more than its noise (`step_share`). Rows are taken in the order given; sort
them by something that does not depend on how they came about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from cascade.confidence.calibrators import (
    FittedCalibrator,
    GainHead,
    Linear,
    VennAbersBand,
    sigmoid,
)
from cascade.confidence.metrics import Array

Rows = NDArray[np.intp]

LABELS_PER_FEATURE = 10
"""Labels of the rarer class per column of a calibrator (Peduzzi and others 1996)."""
PRIOR_ROWS = 4.0
"""Precision of the priors of a calibrator: so many rows speak for the raw score as it is."""
GAIN_STRENGTH = 0.2
"""Prior deviation of a gain head's weights, on columns of unit deviation times their spread."""
FLAT = 1e-3
"""Precision of a prior that says next to nothing."""
TABULATED = 200
"""Scores at which a Venn–Abers band is kept."""


def fit_calibrator(features: Array, correct: Array) -> FittedCalibrator:
    """The calibrator that these labels can pay for.

    Args:
        features: (n, d), missing values NaN. Column 0 is the logit of the raw score (all NaN where
            there is none), and the others follow in the order in which they are trusted.
        correct: (n,) labels, 0 to 1.
    """
    base = _fit_base(features, correct)
    if len(_columns_allowed(features, correct)) == 0:
        return FittedCalibrator(base=base)
    known, wider = np.empty(len(correct)), np.empty(len(correct))
    for fit, held in stratified_folds(correct, 10):
        known[held] = _fit_base(features[fit], correct[fit]).predict(features[held])
        wider[held] = _fit_full(features[fit], correct[fit]).predict(features[held])
    share = step_share(known, wider, correct)
    if not share:
        return FittedCalibrator(base=base)
    return FittedCalibrator(base=base, full=_fit_full(features, correct), share=share)


def cross_fitted(features: Array, correct: Array, *, folds: int = 5, seed: int = 0) -> Array:
    """P(correct) of each row by a calibrator that has not seen it, (n,).

    What is chosen within a fit is chosen anew in each fold.
    """
    predicted = np.empty(len(correct))
    for fit, held in stratified_folds(correct, folds, seed):
        predicted[held] = fit_calibrator(features[fit], correct[fit]).predict(features[held])
    return predicted


def fit_gain(
    features: Array,
    small: Array,
    large: Array,
    *,
    scored: bool = True,
    spread: Array | None = None,
    strength: float = GAIN_STRENGTH,
) -> GainHead:
    """A gain head on labelled rows.

    Args:
        features: (n, d), NaN where missing.
        small: (n,) correctness of the draft, 0 to 1.
        large: (n,) correctness of the large model's answer.
        scored: whether column 0 is the logit of the raw score, towards which p_S is shrunk.
        spread: (d,) prior scale per column: 1 for signals, smaller for text; that of a raw score
            is not used.
        strength: deviation of a weight that is expected, times the column's spread.
    """
    columns = tuple(range(1 if scored else 0, features.shape[1]))
    scales = np.ones(features.shape[1]) if spread is None else spread
    scales = scales[list(columns)]
    mean, scale = _moments(features, columns, scales)
    weights = np.full(len(columns), 1.0 / strength**2)
    first = (1.0, PRIOR_ROWS) if scored else None
    flat = PRIOR_ROWS if scored else FLAT
    return GainHead(
        small=_fit(features, small, columns, mean, scale, weights, raw=first, flat=flat),
        large=_fit(features, large, columns, mean, scale, weights, raw=None, flat=FLAT),
        n=len(small),
    )


def cross_fitted_gain(
    features: Array,
    small: Array,
    large: Array,
    *,
    scored: bool = True,
    spread: Array | None = None,
    strength: float = GAIN_STRENGTH,
    folds: int = 5,
    seed: int = 0,
) -> Array:
    """Each row's gain by a head that has not seen it: what thresholds must be chosen on, (n,)."""
    gain = np.empty(len(small))
    for fit, held in stratified_folds(large - small, folds, seed):
        head = fit_gain(
            features[fit],
            small[fit],
            large[fit],
            scored=scored,
            spread=spread,
            strength=strength,
        )
        gain[held] = head.predict(features[held])
    return gain


def step_share(before: Array, after: Array, actual: Array) -> float:
    """θ in [0, 1]: how far to go from one prediction to a richer one, both cross-fitted.

    The least-squares share less one standard error: 0 where the richer one does not pay by more
    than its noise, near 1 where it clearly does.

    Args:
        before: (n,) predictions of few parameters.
        after: (n,) predictions of many.
        actual: (n,) what happened.
    """
    step, rest = after - before, actual - before
    square = float(step @ step)
    if square < 1e-12:
        return 0.0
    share = float(step @ rest) / square
    error = float(np.sqrt((((rest - share * step) * step) ** 2).sum())) / square
    return min(1.0, max(0.0, share - error))


def stratified_folds(labels: Array, folds: int, seed: int = 0) -> Iterator[tuple[Rows, Rows]]:
    """(rows that fit, rows held out) of each fold, each with about the same labels."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    fold = np.empty(len(labels), dtype=np.int64)
    fold[shuffled[np.argsort(labels[shuffled], kind="stable")]] = np.arange(len(labels)) % folds
    for k in range(min(folds, len(labels))):
        yield np.flatnonzero(fold != k), np.flatnonzero(fold == k)


def minority(correct: Array) -> int:
    """Labels of the rarer class."""
    return int(min((correct > 0.5).sum(), (correct <= 0.5).sum()))


def fit_venn_abers(scores: Array, correct: Array) -> VennAbersBand:
    """Inductive Venn–Abers over scores that were not fitted on these labels, tabulated."""
    shares = np.linspace(0, 1, min(TABULATED, len(scores)))
    # Scores that are there: one a rounding error beside a known one would not be tied with it.
    at = np.unique(np.quantile(scores, shares, method="nearest"))
    low = [_venn_abers(scores, correct, score, 0.0) for score in at]
    high = [_venn_abers(scores, correct, score, 1.0) for score in at]
    return VennAbersBand(scores=tuple(at.tolist()), low=tuple(low), high=tuple(high))


def _venn_abers(scores: Array, correct: Array, score: float, label: float) -> float:
    """The isotonic fit at `score` when it is added with `label`."""
    from sklearn.isotonic import isotonic_regression  # noqa: PLC0415 - heavy

    known, inverse = np.unique(np.append(scores, score), return_inverse=True)
    labels = np.append(correct, label)
    counts = np.bincount(inverse)
    means = np.bincount(inverse, weights=labels) / counts
    fitted = isotonic_regression(means, sample_weight=counts.astype(float))
    return float(fitted[np.searchsorted(known, score)])


def _columns_allowed(features: Array, correct: Array) -> tuple[int, ...]:
    """Columns beside the raw score, as many as there are labels for."""
    scored = not np.isnan(features[:, 0]).all()
    most = minority(correct) // LABELS_PER_FEATURE - int(scored)
    return tuple(range(1, min(features.shape[1], 1 + max(0, most))))


def _fit_base(features: Array, correct: Array) -> Linear:
    """Slope and shift of the raw logit; the base rate where there is no raw score.

    A slope below 0 becomes 0: a score that falls with the truth says nothing, or was mistaken for
    its opposite, which is for a person to find out.
    """
    if np.isnan(features[:, 0]).all():
        rate = (correct.sum() + 1) / (len(correct) + 2)
        return Linear(intercept=float(np.log(rate / (1 - rate))))
    none = np.empty(0)
    found = _fit(features, correct, (), none, none, none, raw=(1.0, PRIOR_ROWS), flat=PRIOR_ROWS)
    if found.raw >= 0:
        return found
    return _fit(features, correct, (), none, none, none, raw=None, flat=FLAT)


def _fit_full(features: Array, correct: Array) -> Linear:
    columns = _columns_allowed(features, correct)
    mean, scale = _moments(features, columns, np.ones(len(columns)))
    scored = not np.isnan(features[:, 0]).all()
    return _fit(
        features,
        correct,
        columns,
        mean,
        scale,
        np.full(len(columns), PRIOR_ROWS),
        raw=(1.0, PRIOR_ROWS) if scored else None,
        flat=PRIOR_ROWS if scored else FLAT,
    )


def _moments(features: Array, columns: tuple[int, ...], spread: Array) -> tuple[Array, Array]:
    """Mean and scale of columns; one that does not vary gets a scale that takes it out."""
    x = features[:, list(columns)]
    seen = ~np.isnan(x).all(axis=0)
    mean, deviation = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    mean[seen] = np.nanmean(x[:, seen], axis=0)
    deviation[seen] = np.nanstd(x[:, seen], axis=0)
    return mean, np.where(deviation > 1e-9, deviation / spread, 1e9)


def _fit(
    features: Array,
    labels: Array,
    columns: tuple[int, ...],
    mean: Array,
    scale: Array,
    precision: Array,
    *,
    raw: tuple[float, float] | None,
    flat: float,
) -> Linear:
    """A logistic regression with a normal prior: of the weights around 0, of the raw logit's
    slope around `raw` (mean, precision), of the intercept around 0 with precision `flat`."""
    n = len(features)
    parts, centre, precisions = [np.ones((n, 1))], [0.0], [flat]
    if raw is not None:
        parts.append(np.nan_to_num(features[:, :1]))
        centre.append(raw[0])
        precisions.append(raw[1])
    parts.append(np.nan_to_num((features[:, list(columns)] - mean) / scale))
    prior = np.concatenate([centre, np.zeros(len(columns))])
    found = _newton(np.hstack(parts), labels, prior, np.concatenate([precisions, precision]))
    rest = found[len(centre) :]
    return Linear(
        intercept=float(found[0]),
        raw=0.0 if raw is None else float(found[1]),
        columns=columns,
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        weights=tuple(rest.tolist()),
    )


def _newton(x: Array, labels: Array, prior: Array, precision: Array) -> Array:
    """The weights that minimise log-loss plus the prior, by Newton's method with backtracking."""

    def loss(w: Array) -> float:
        eta = x @ w
        penalty = float(precision @ (w - prior) ** 2) / 2
        return float(np.sum(np.logaddexp(0.0, eta) - labels * eta)) + penalty

    w, best = prior.copy(), loss(prior)
    for _ in range(100):
        p = sigmoid(x @ w)
        gradient = x.T @ (p - labels) + precision * (w - prior)
        curvature = (x * (p * (1.0 - p))[:, None]).T @ x + np.diag(precision)
        step = np.asarray(np.linalg.solve(curvature, gradient), dtype=np.float64)
        w, found = _backtracked(loss, w, best, step, float(gradient @ step))
        if best - found < 1e-10 * (1.0 + abs(best)):
            break
        best = found
    return w


def _backtracked(
    loss: Callable[[Array], float], w: Array, best: float, step: Array, slope: float
) -> tuple[Array, float]:
    """The next weights and their loss: half a step, and half of that, while it does not fall."""
    length = 1.0
    while length > 1e-8:
        tried = w - length * step
        found = loss(tried)
        if found <= best - 1e-4 * length * slope:
            return tried, found
        length /= 2
    return w, best
