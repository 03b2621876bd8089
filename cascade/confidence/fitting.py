"""Fits calibrators to labelled drafts; needs scikit-learn and scipy (extra `calibrate`).

A ladder from few to many parameters, raw score → temperature and shift → L2 logistic → beta,
isotonic; a step is taken only where the labels pay for it, measured by cross-fitted Brier score.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cascade.confidence.calibrators import (
    Beta,
    Constant,
    FittedCalibrator,
    Isotonic,
    Logistic,
    Temperature,
    VennAbersBand,
)
from cascade.confidence.metrics import Array

FEW_LABELS = 50
"""Below, a logistic regression on several signals costs more in noise than it brings."""
MANY_LABELS = 1000
"""From here on isotonic and beta calibration are worth a try; isotonic overfits before."""
LABELS_PER_FEATURE = 20
"""Labels of the rarer class per column: half as many fit, and the Brier score got worse."""
STEP_STANDARD_ERRORS = 1.5
"""How much better a step has to be, so that a score that is calibrated already is left alone."""
PRIOR_ROWS = 4.0
"""So many rows speak for the raw score as it is, against a slope and a shift of it."""
TABULATED = 200
"""Scores at which a Venn–Abers band is kept."""

Fitter = Callable[[Array, Array, tuple[int, ...]], FittedCalibrator]


def fit_calibrator(features: Array, correct: Array) -> FittedCalibrator:
    """The calibrator that these labels can pay for.

    Args:
        features: (n, d), missing values NaN. Column 0 is the logit of the raw score, and the
            others follow in the order in which they are trusted.
        correct: (n,) labels, 1 for a correct draft.

    Without any raw score the step to beat is the base rate.
    """
    if not _minority(correct):
        return _base_rate(features, correct, ())
    scored = not np.isnan(features[:, 0]).all()
    columns = _columns_allowed(correct, features.shape[1])
    ladder: list[Fitter] = [_as_it_is, fit_temperature] if scored else [_base_rate]
    if len(correct) >= FEW_LABELS:
        ladder.append(fit_logistic)
    if len(correct) >= MANY_LABELS and _minority(correct) >= LABELS_PER_FEATURE:
        ladder += [fit_beta, fit_isotonic]
    best, errors = ladder[0], _errors(ladder[0], features, correct, columns)
    for step in ladder[1:]:
        found = _errors(step, features, correct, columns)
        lower = errors - found
        if lower.mean() > STEP_STANDARD_ERRORS * lower.std() / np.sqrt(len(lower)):
            best, errors = step, found
    return best(features, correct, columns)


def cross_fitted(features: Array, correct: Array) -> Array:
    """P(correct) of each row by a calibrator that has not seen it, (n,)."""
    predicted = np.empty(len(correct))
    fold = _folds(correct, min(5, len(correct)))
    for k in range(fold.max() + 1):
        held = fold == k
        predicted[held] = fit_calibrator(features[~held], correct[~held]).predict(features[held])
    return predicted


def _columns_allowed(correct: Array, available: int) -> tuple[int, ...]:
    return tuple(range(max(1, min(available, _minority(correct) // LABELS_PER_FEATURE))))


def _minority(correct: Array) -> int:
    return int(min((correct > 0.5).sum(), (correct <= 0.5).sum()))


def _base_rate(features: Array, correct: Array, columns: tuple[int, ...]) -> Constant:
    del features, columns
    return Constant(value=float((correct.sum() + 1) / (len(correct) + 2)))


def _as_it_is(features: Array, correct: Array, columns: tuple[int, ...]) -> Temperature:
    """The raw score: the step to beat."""
    del features, correct, columns
    return Temperature(column=0, slope=1.0, shift=0.0)


def fit_temperature(
    features: Array, correct: Array, columns: tuple[int, ...] = (0,)
) -> Temperature:
    """Slope and shift on the raw logit, pulled to (1, 0) with the weight of `PRIOR_ROWS`."""
    from scipy.optimize import minimize  # noqa: PLC0415 - heavy, and only fitting needs it

    z = np.nan_to_num(features[:, columns[0]])

    def loss(w: Array) -> float:
        eta = w[0] * z + w[1]
        penalty = PRIOR_ROWS * ((w[0] - 1) ** 2 + w[1] ** 2) / 2
        return float(np.sum(np.logaddexp(0, eta) - correct * eta) + penalty)

    bounds = [(0.0, 20.0), (-10.0, 10.0)]
    slope, shift = minimize(loss, np.array([1.0, 0.0]), method="L-BFGS-B", bounds=bounds).x
    return Temperature(column=columns[0], slope=float(slope), shift=float(shift))


def fit_logistic(features: Array, correct: Array, columns: tuple[int, ...]) -> Logistic:
    """L2 logistic regression (C = 1) on standardised columns."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - heavy

    x = features[:, list(columns)]
    seen = ~np.isnan(x).all(axis=0)
    mean, scale = np.zeros(x.shape[1]), np.ones(x.shape[1])
    mean[seen] = np.nanmean(x[:, seen], axis=0)
    spread = np.nanstd(x[:, seen], axis=0)
    scale[seen] = np.where(spread > 1e-9, spread, 1.0)
    z = np.nan_to_num((x - mean) / scale)
    model = LogisticRegression(C=1.0, max_iter=500).fit(z, correct > 0.5)
    return Logistic(
        columns=columns,
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        weights=tuple(model.coef_[0].tolist()),
        intercept=float(model.intercept_[0]),
    )


def fit_beta(features: Array, correct: Array, columns: tuple[int, ...]) -> FittedCalibrator:
    """The inner logistic on one half of the rows, the three parameters on the other."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - heavy

    half = _halves(correct)
    inner = fit_logistic(features[half], correct[half], columns)
    p = np.clip(inner.predict(features[~half]), 1e-6, 1 - 1e-6)
    x = np.column_stack([np.log(p), -np.log1p(-p)])
    labels = correct[~half] > 0.5
    keep = [0, 1]
    model = LogisticRegression(C=100.0, max_iter=500).fit(x, labels)
    if (model.coef_[0] < 0).any():
        keep = [int(np.argmax(model.coef_[0]))]
        model = LogisticRegression(C=100.0, max_iter=500).fit(x[:, keep], labels)
    a_b = np.zeros(2)
    a_b[keep] = model.coef_[0]
    return Beta(inner=inner, a=float(a_b[0]), b=float(a_b[1]), c=float(model.intercept_[0]))


def fit_isotonic(features: Array, correct: Array, columns: tuple[int, ...]) -> FittedCalibrator:
    """The inner logistic on one half of the rows, the isotonic regression on the other."""
    from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415 - heavy

    half = _halves(correct)
    inner = fit_logistic(features[half], correct[half], columns)
    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    model.fit(inner.predict(features[~half]), correct[~half])
    return Isotonic(
        inner=inner,
        knots=tuple(model.X_thresholds_.tolist()),
        values=tuple(model.y_thresholds_.tolist()),
    )


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


def _halves(correct: Array) -> NDArray[np.bool_]:
    """Two halves with the same share of correct rows."""
    return np.equal(_folds(correct, 2), 0)


def _folds(correct: Array, folds: int) -> NDArray[np.int64]:
    """A fold per row, each with the same share of correct rows; the same for the same labels."""
    shuffled = np.random.default_rng(0).permutation(len(correct))
    fold = np.empty(len(correct), dtype=np.int64)
    fold[shuffled[np.argsort((correct > 0.5)[shuffled], kind="stable")]] = (
        np.arange(len(correct)) % folds
    )
    return fold


def _errors(fitter: Fitter, features: Array, correct: Array, columns: tuple[int, ...]) -> Array:
    """Squared error of each row by a fit that has not seen it."""
    errors = np.empty(len(correct))
    fold = _folds(correct, min(10, len(correct)))
    for k in range(fold.max() + 1):
        held = fold == k
        if len(np.unique(correct[~held] > 0.5)) < 2:
            errors[held] = 1.0
            continue
        model = fitter(features[~held], correct[~held], columns)
        errors[held] = (model.predict(features[held]) - correct[held]) ** 2
    return errors
