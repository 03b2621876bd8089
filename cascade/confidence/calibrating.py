"""Fits of calibrations to labelled drafts, and figures of their quality.

All are logistic regressions with a normal prior whose mean is the raw score as it is: few labels
change little. A step from few parameters to many is taken as far as cross-fitting shows that it
pays by more than its noise. Needs scipy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import compress, pairwise

import numpy as np
from scipy.stats import rankdata

from cascade._version import __version__
from cascade.confidence import calibration
from cascade.confidence.base import Features
from cascade.confidence.calibration import Array, FittedCalibrator, GainHead, Linear, sigmoid
from cascade.confidence.signals import wordings
from cascade.errors import ConfigurationError

LEAST_LABELS = 20  # below, not even a slope and a shift can be told from noise
LABELS_TO_VERIFY = 100  # so many show that a raw score needs no calibration
STANDARD_ERRORS = 1.5  # by which a fit must beat the raw score: a calibrated one is left alone
TOLERATED_ECE, ECE_SLACK = 0.05, 1.2
"""A confidence counts as calibrated up to this calibration error, or up to the largest that perfect
ones show on so few rows (99 % quantile), with a slack for the noise that cross-fitting adds."""
CHANCE_Z, CHANCE_AREA = 1.64, 0.05
"""The AUROC has to be above one half by more than its noise (lower 95 % bound), and by so much."""
OUTLOOK_ROWS, EARLY_ROWS, QUANTILES = 300, 5_000, 101  # rows that a calibration keeps
LABELS_PER_FEATURE = 10  # of the rarer class per column of a calibrator (Peduzzi and others 1996)
PRIOR_ROWS, GAIN_PRECISION, FLAT = 4.0, 25.0, 1e-3
"""Precisions of priors: of a calibrator, for the raw score as it is; of the weights of a gain head,
expected within ± 0.2; of what may be anything."""


def calibrate(
    rows: Sequence[Features],
    correct: Array,
    large: Array,
    signals: Sequence[tuple[str, int]],
    made_for: calibration.MadeFor,
) -> calibration.Calibration:
    """Fit the stages, and measure each on rows it has not seen; drafts without any raw score are
    left out.

    `correct` and `large` say how right draft and large answer were, (n,) from 0 to 1; signals are
    given as (name, calls), cheapest first.

    Raises:
        ConfigurationError: too few drafts with signals.
    """
    names = [name for name, _ in signals]
    scored = [calibration.with_raw(row, names) for row in rows]
    known = np.array([calibration.RAW in row for row in scored], dtype=bool)
    if known.sum() < LEAST_LABELS:
        raise ConfigurationError(
            f"{known.sum()} labelled drafts with signals: a calibration needs {LEAST_LABELS} or "
            "more, and a few hundred to be good."
        )
    rows, correct, large = list(compress(rows, known)), correct[known], large[known]
    free = [name for name, calls in signals if not calls]
    paid = [name for name, calls in signals if calls]
    taken = [(*free, *paid[:count]) for count in range(0 if free else 1, len(paid) + 1)]
    fitted = [_fit_stage(rows, correct, stage, names) for stage in taken]
    (last, table, raw, seen), stages = fitted[-1], []
    for (stage, *_, here), (*_, after) in pairwise(fitted):
        rank = np.linspace(0, len(here) - 1, min(OUTLOOK_ROWS, len(here))).astype(int)
        kept = np.argsort(here, kind="stable")[rank]
        outlook = tuple(zip(here[kept].tolist(), after[kept].tolist(), strict=True))
        stages.append(stage.model_copy(update={"outlook": outlook}))
    gain, share, auroc_gain = _fit_gain_head(table, seen, correct, large)
    area = auroc(seen, correct)
    quality = calibration.Quality(
        n=len(correct),
        accuracy_small=float(correct.mean()),
        accuracy_large=float(large.mean()),
        ece=ece(seen, correct),
        ece_noise=float(ece_noise(seen).mean()),
        ece_raw=ece(raw, correct),
        brier=brier(seen, correct),
        brier_raw=brier(raw, correct),
        auroc=None if math.isnan(area) else area,
        auroc_gain=auroc_gain,
    )
    code, text = next(_advice(last, raw, seen, correct, quality))
    quantiles = np.quantile(seen, np.linspace(0, 1, QUANTILES))
    windows = zip(seen.tolist(), (row.get("logprob_window_min") for row in rows), strict=True)
    early = [(confidence, window) for confidence, window in windows if window is not None]
    return calibration.Calibration(
        **dict(made_for),
        created_at=datetime.now(UTC),
        library_version=__version__,
        stages=(*stages, last),
        quality=quality,
        recommendation=calibration.Recommendation(code=code, text=text),
        p_large=quality.accuracy_large,
        gain=gain,
        gain_share=share,
        confidences=tuple(np.clip(quantiles, 0.0, 1.0).tolist()),
        early=tuple(sorted(early[:EARLY_ROWS])),
        wordings=wordings(names),
    )


def _fit_stage(
    given: Sequence[Features], correct: Array, taken: tuple[str, ...], names: Sequence[str]
) -> tuple[calibration.Stage, Array, Array, Array]:
    """A stage, its matrix, raw scores, and confidences by fits that have not seen the row."""
    known = [
        {n: x for n, x in row.items() if calibration.owner(n, names) in taken} for row in given
    ]
    rows = [calibration.with_raw(row, taken) for row in known]
    raw = np.array([row.get(calibration.RAW, math.nan) for row in rows])
    columns = calibration.columns_of(rows, taken)
    table = calibration.matrix(rows, columns)
    seen = cross_fitted(fit_calibrator, table, correct)
    stage = calibration.Stage(
        signals=taken,
        columns=columns,
        calibrator=fit_calibrator(table, correct),
        calibrated=_is_calibrated(raw, seen, correct),
        scored=bool(np.isfinite(raw).any()),
    )
    return stage, table, raw, seen


def _is_calibrated(raw: Array, seen: Array, correct: Array) -> bool:
    """True if the fit has the error of a calibrated one, and is better than the raw score by more
    than its noise, or there are labels enough to see that the raw score was calibrated."""
    known, many = np.isfinite(raw), len(correct) >= LABELS_TO_VERIFY

    def right(probability: Array, correct: Array) -> bool:
        bound = ECE_SLACK * float(np.quantile(ece_noise(probability), 0.99))
        return ece(probability, correct) <= max(TOLERATED_ECE, bound)

    if not right(seen, correct):
        return False
    if not known.any():  # the base rate: as often as such drafts are right
        return many
    raw, seen, correct = raw[known], seen[known], correct[known]
    raw_loss, loss = (
        -correct * np.log(p) - (1.0 - correct) * np.log1p(-p)
        for p in np.clip([raw, seen], 0.005, 0.995)  # lest one wrong draft decide
    )
    lower = raw_loss - loss
    better = float(lower.mean()) > STANDARD_ERRORS * float(lower.std()) / math.sqrt(len(lower))
    return better or (many and right(raw, correct))


def _fit_gain_head(
    table: Array, seen: Array, correct: Array, large: Array
) -> tuple[GainHead | None, float, float | None]:
    """A gain head, how far it is better than a constant p_L, and the AUROC of the gain."""
    gain, constant = large - correct, float(large.mean()) - seen
    won = (gain > 0.5).astype(np.float64)
    if not 0 < won.sum() < len(won):
        return None, 0.0, None
    ranked = cross_fitted(fit_gain, table, correct, large, by=gain)
    share = step_share(constant, ranked, gain)
    area = auroc(constant + share * (ranked - constant), won)
    return fit_gain(table, correct, large) if share else None, share, area


def _advice(
    last: calibration.Stage, raw: Array, seen: Array, correct: Array, quality: calibration.Quality
) -> Iterator[tuple[calibration.Code, str]]:
    """What there is to say about its use, by its figures; the first is the weightiest."""
    n, own, area = quality.n, auroc(raw, correct), quality.auroc
    if own < 0.5 - CHANCE_Z * auroc_error(own, correct):
        yield (
            "score is reversed",
            "do not use it: the higher the score, the more often the draft is wrong "
            f"(AUROC {own:.2f}). Look whether it means the opposite.",
        )
    if float(np.quantile(seen, 0.95)) < 0.5:
        yield (
            "small model too weak",
            f"do not use it: {quality.accuracy_small:.0%} of {n} drafts are right, and hardly "
            "one is more likely right than wrong. Take another small model.",
        )
    if area is not None and area < 0.5 + max(CHANCE_AREA, CHANCE_Z * auroc_error(area, correct)):
        yield (
            "no better than chance",
            f"do not use it: on {n} labels the confidence tells right from wrong drafts no "
            f"better than chance (AUROC {area:.2f}). Take other signals, or bring more labels.",
        )
    if not last.calibrated:
        yield (
            "not calibrated",
            f"{n} labels do not show that the confidence is a probability (ECE {quality.ece:.3f}, "
            f"noise {quality.ece_noise:.3f}); it is a raw score, marked calibrated=False: to tell, "
            f"it takes about {LABELS_TO_VERIFY - n if n < LABELS_TO_VERIFY else n} more labels.",
        )
    yield "ok", "the confidence is calibrated on these examples."


def fit_calibrator(table: Array, correct: Array) -> FittedCalibrator:
    """The calibrator that these labels (n,) can pay for. Column 0 of the table (n, d) is the logit
    of the raw score (all NaN where there is none), the others follow in the order of trust."""
    base, full = _fit_base(table, correct), _fit_full(table, correct)
    if not full.weights:
        return FittedCalibrator(base=base)
    few, many = (cross_fitted(fit, table, correct, folds=10) for fit in (_fit_base, _fit_full))
    share = step_share(few, many, correct)
    return FittedCalibrator(base=base, full=full if share else None, share=share)


def fit_gain(table: Array, small: Array, large: Array) -> GainHead:
    """A gain head, from how right (n,) draft and large answer were."""
    columns, precision = range(1, table.shape[1]), GAIN_PRECISION
    return GainHead(
        small=fit_linear(table, small, columns, precision),
        large=fit_linear(table, large, columns, precision, raw=False),
    )


def cross_fitted(
    fit: Callable[..., Linear | FittedCalibrator | GainHead],
    table: Array,
    *labels: Array,
    by: Array | None = None,
    folds: int = 5,
) -> Array:
    """The prediction of each row by a fit that has not seen it, (n,), in folds that are alike in
    their first labels, or in those of `by` (scikit-learn's take classes, not shares)."""
    strata = labels[0] if by is None else by
    shuffled = np.random.default_rng(0).permutation(len(strata))
    fold = np.empty(len(strata), dtype=np.int64)
    fold[shuffled[np.argsort(strata[shuffled], kind="stable")]] = np.arange(len(strata)) % folds
    predicted = np.empty(len(table))
    for k in range(min(folds, len(table))):
        held = fold == k
        found = fit(table[~held], *(each[~held] for each in labels))
        predicted[held] = found.predict(table[held])
    return predicted


def step_share(before: Array, after: Array, actual: Array) -> float:
    """θ in [0, 1]: how far to go from one prediction to a richer one, both cross-fitted: the
    least-squares share less one standard error."""
    step, rest = after - before, actual - before
    square = float(step @ step)
    if square < 1e-12:
        return 0.0
    share = float(step @ rest) / square
    error = float(np.sqrt((((rest - share * step) * step) ** 2).sum())) / square
    return min(1.0, max(0.0, share - error))


def _scored(table: Array) -> bool:
    return not np.isnan(table[:, 0]).all()


def _fit_base(table: Array, correct: Array) -> Linear:
    """Slope and shift of the raw logit; the base rate where there is no raw score. A slope below 0
    becomes 0: such a score says nothing, or was mistaken for its opposite."""
    if not _scored(table):
        rate = (correct.sum() + 1) / (len(correct) + 2)
        return Linear(intercept=float(np.log(rate / (1 - rate))))
    found = fit_linear(table, correct)
    return found if found.raw >= 0 else fit_linear(table, correct, raw=False)


def _fit_full(table: Array, correct: Array) -> Linear:
    """Also columns beside the raw score, as many as there are labels for."""
    rarer = int(min((correct > 0.5).sum(), (correct <= 0.5).sum()))
    most = max(0, rarer // LABELS_PER_FEATURE - _scored(table))
    return fit_linear(table, correct, range(1, table.shape[1])[:most])


def fit_linear(
    table: Array,
    labels: Array,
    columns: Sequence[int] = (),
    precision: float = PRIOR_ROWS,
    *,
    raw: bool = True,
) -> Linear:
    """Weights of standardised columns, expected around 0, and of the raw logit, where it is known
    and to be `raw`, around 1. A column that does not vary gets a scale that takes it out."""
    x = table[:, list(columns)]
    known = np.isfinite(x)
    count = np.maximum(1, known.sum(axis=0))
    mean = np.where(known, x, 0.0).sum(axis=0) / count
    deviation = np.sqrt(np.where(known, (x - mean) ** 2, 0.0).sum(axis=0) / count)
    scale = np.where(deviation > 1e-9, deviation, 1e9)
    first = [PRIOR_ROWS, PRIOR_ROWS] if raw and _scored(table) else [FLAT]
    parts = [np.ones((len(table), 1)), np.nan_to_num(table[:, :1])][: len(first)]
    design = np.hstack([*parts, np.nan_to_num((x - mean) / scale)])
    prior = np.array([0.0, 1.0][: len(first)] + [0.0] * len(columns))
    found = fit_logistic(design, labels, prior, np.array(first + [precision] * len(columns)))
    fitted = zip(columns, mean.tolist(), scale.tolist(), found[len(first) :].tolist(), strict=True)
    weight = calibration.Weight
    return Linear(
        intercept=float(found[0]),
        raw=float(found[1]) if len(first) > 1 else 0.0,
        weights=tuple(weight(column=c, mean=m, scale=s, weight=w) for c, m, s, w in fitted),
    )


def fit_logistic(x: Array, labels: Array, prior: Array, precision: Array) -> Array:
    """The weights (d,) of a logistic regression of labels in [0, 1] with a normal prior, by
    Newton's method with backtracking."""

    def loss(w: Array) -> float:
        eta = x @ w
        penalty = float(precision @ (w - prior) ** 2) / 2
        return float(np.sum(np.logaddexp(0.0, eta) - labels * eta)) + penalty

    w, best = prior, loss(prior)
    for _ in range(100):
        p = sigmoid(x @ w)
        gradient = x.T @ (p - labels) + precision * (w - prior)
        curvature = (x * (p * (1.0 - p))[:, None]).T @ x + np.diag(precision)
        step = np.linalg.solve(curvature, gradient)
        fall = float(gradient @ step)
        while fall > 1e-10 * (1.0 + abs(best)) and loss(w - step) > best:
            step, fall = step / 2, fall / 2
        if fall <= 1e-10 * (1.0 + abs(best)):
            break
        w, best = w - step, loss(w - step)
    return w


def ece(probability: Array, correct: Array) -> float:
    """Expected calibration error over 15 bins of equal mass (arXiv 1706.04599), cut by rank. Rows
    of equal probability share the mean of their labels, so that their order does not count."""
    order = np.argsort(probability, kind="stable")
    ranked = probability[order]
    _, inverse, counts = np.unique(ranked, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, weights=correct[order]) / counts
    parts = np.array_split(np.arange(len(order)), min(15, len(order)))
    gaps = np.add.reduceat(ranked - means[inverse], [part[0] for part in parts])
    return float(np.abs(gaps).sum() / len(order))


def ece_noise(probability: Array) -> Array:
    """The ECE that perfectly calibrated probabilities like these show on as many rows, (100,)."""
    rng = np.random.default_rng(0)
    drawn = rng.random((100, len(probability))) < probability
    return np.array([ece(probability, labels.astype(np.float64)) for labels in drawn])


def brier(probability: Array, correct: Array) -> float:
    """Mean squared error of the probability; labels may be shares."""
    return float(np.mean((probability - correct) ** 2))


def auroc(score: Array, label: Array) -> float:
    """P(score of a positive > score of a negative), ties count half; NaN with one class only. That
    of scikit-learn takes ten times the time."""
    positive = label > 0.5
    n, others = int(positive.sum()), int((~positive).sum())
    if not n or not others:
        return math.nan
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2.0) / (n * others))


def auroc_error(area: float, label: Array) -> float:
    """Standard error of an AUROC on these labels (Hanley and McNeil 1982, equation 2)."""
    n, others = int((label > 0.5).sum()), int((label <= 0.5).sum())
    if math.isnan(area):
        return math.nan
    q1, q2 = area / (2 - area) - area**2, 2 * area**2 / (1 + area) - area**2
    spread = area * (1 - area) + (n - 1) * q1 + (others - 1) * q2
    return math.sqrt(max(0.0, spread) / (n * others))
